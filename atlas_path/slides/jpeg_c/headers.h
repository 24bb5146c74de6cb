/* From SOI to the scan: which tables, which components; and Huffman tables to look-ups. */

#ifndef JPEG_FAST_HEADERS_H
#define JPEG_FAST_HEADERS_H

#include "decoder.h"

static int extended(unsigned bits, int size) { /* T.81 F.12: the value that `size` bits stand for */
    return size && !(bits >> (size - 1)) ? (int)bits - (1 << size) + 1 : (int)bits;
}

/* One symbol with its value at the head of `look` (LOOK_BITS bits), or 0 where it is longer than that. */
static int symbol_at(const Table *t, unsigned look, int left, int is_dc, int16_t *value, int *skip) {
    unsigned code = t->whole[(look << (16 - LOOK_BITS)) & 0xffff];
    int length = code >> 8, symbol = code & 255;
    int run = is_dc ? 0 : symbol >> 4, size = is_dc ? symbol : symbol & 15, bits = length + size;
    if (!length || bits > left) return 0;
    *value = extended((look >> (LOOK_BITS - bits)) & ((1u << size) - 1), size);
    *skip = is_dc || size ? run + 1 : run == 15 ? 16 : END;
    return bits;
}

static int make_table(Table *t, const uint8_t *counts, const uint8_t *symbols, int n, int is_dc) {
    if (t->known && !memcmp(t->counts, counts, 16) && !memcmp(t->symbols, symbols, n)) return DECODED;
    t->known = 0;
    memset(t->whole, 0, sizeof t->whole);
    unsigned code = 0;
    for (int length = 1, k = 0; length <= 16; length++, code <<= 1) {
        for (int i = 0; i < counts[length - 1]; i++, k++, code++) {
            if (code >= 1u << length || (is_dc && symbols[k] > 15)) return DECLINED;
            for (unsigned j = 0; j < 1u << (16 - length); j++)
                t->whole[(code << (16 - length)) + j] = length << 8 | symbols[k];
        }
    }
    for (unsigned look = 0; look < 1u << LOOK_BITS; look++) {
        Pair *pair = &t->pairs[look];
        int16_t value;
        int skip, bits = symbol_at(t, look, LOOK_BITS, is_dc, &value, &skip);
        memset(pair, 0, sizeof *pair);
        if (!bits) continue;
        pair->value[0] = pair->value[1] = value;
        pair->skip[0] = skip;
        pair->bits = pair->bits_of_first = bits;
        if (is_dc || skip == END) continue;
        unsigned rest = (look << bits) & ((1u << LOOK_BITS) - 1);
        int more = symbol_at(t, rest, LOOK_BITS - bits, 0, &value, &skip);
        if (!more) continue;
        pair->value[1] = value;
        pair->skip[1] = skip;
        pair->bits = bits + more;
    }
    memcpy(t->counts, counts, 16);
    memcpy(t->symbols, symbols, n);
    t->known = 1;
    return DECODED;
}

static int read_huffman(Decoder *d, const uint8_t *at, const uint8_t *end) {
    while (at < end) {
        if (end - at < 17) return DECLINED;
        int is_ac = at[0] >> 4, number = at[0] & 15, n = 0;
        for (int i = 1; i <= 16; i++) n += at[i];
        if (is_ac > 1 || number > 3 || n > 256 || end - at < 17 + n) return DECLINED;
        if (make_table(is_ac ? &d->ac[number] : &d->dc[number], at + 1, at + 17, n, !is_ac)) return DECLINED;
        d->seen |= 1u << (16 * is_ac + number);
        at += 17 + n;
    }
    return DECODED;
}

static int read_quantisers(Decoder *d, const uint8_t *at, const uint8_t *end) {
    for (; at < end; at += 65) {
        if (end - at < 65 || at[0] > 3) return DECLINED; /* 16-bit steps are for 12-bit images */
        for (int k = 0; k < 64; k++) d->quant[at[0]][zigzag[k]] = at[1 + k];
        d->quant_known[at[0]] = 1;
    }
    return DECODED;
}

static int read_frame(Decoder *d, const uint8_t *at, const uint8_t *end) {
    if (end - at < 6 || at[0] != 8) return DECLINED;
    d->height_px = at[1] << 8 | at[2], d->width_px = at[3] << 8 | at[4], d->n_components = at[5];
    if ((d->n_components != 1 && d->n_components != 3) || end - at != 6 + 3 * d->n_components) return DECLINED;
    for (int c = 0; c < d->n_components; c++) {
        const uint8_t *of = at + 6 + 3 * c;
        d->component[c] = (Component){.id = of[0], .sampling = of[1], .quant = of[2]};
        if (of[2] > 3) return DECLINED;
    }
    return DECODED;
}

static int read_scan_header(Decoder *d, const uint8_t *at, const uint8_t *end) {
    int n = d->n_components;
    if (!n || end - at != 4 + 2 * n || at[0] != n) return DECLINED;
    for (int c = 0; c < n; c++) {
        Component *part = &d->component[c];
        part->dc = at[2 + 2 * c] >> 4, part->ac = at[2 + 2 * c] & 15;
        if (at[1 + 2 * c] != part->id || part->dc > 3 || part->ac > 3) return DECLINED;
        uint32_t needs = 1u << part->dc | 1u << (16 + part->ac);
        if ((d->seen & needs) != needs || !d->quant_known[part->quant]) return DECLINED;
    }
    at += 1 + 2 * n;
    return at[0] == 0 && at[1] == 63 && at[2] == 0 ? DECODED : DECLINED;
}

/* Forgets the image before this one. Its tables do not count in this one; their look-ups are kept for where the same
 * table comes again. */
static void start_image(Decoder *d) {
    d->n_components = d->jfif = 0, d->adobe = -1, d->seen = 0;
    memset(d->quant_known, 0, sizeof d->quant_known);
}

/* Reads segments. DECODED: up to the scan, where `*at` then is; AT_END: all, and there was no scan. */
static int read_segments(Decoder *d, const uint8_t **at, const uint8_t *end, int with_colour) {
    const uint8_t *p = *at;
    while (end - p >= 4) {
        int marker = p[1], size = p[2] << 8 | p[3], bad = 0;
        const uint8_t *body = p + 4, *next = p + 2 + size;
        if (p[0] != 0xff || size < 2 || end - p < 2 + size) return DECLINED;
        if (marker == 0xc4) {
            bad = read_huffman(d, body, next);
        } else if (marker == 0xdb) {
            bad = read_quantisers(d, body, next);
        } else if (marker == 0xc0 || marker == 0xc1) {
            bad = d->n_components || read_frame(d, body, next);
        } else if (marker == 0xda) {
            *at = next;
            return read_scan_header(d, body, next);
        } else if (marker == 0xe0 && with_colour && size >= 16 && !memcmp(body, "JFIF", 5)) {
            d->jfif = 1;
            bad = body[5] != 1; /* of a version that does not exist */
        } else if (marker == 0xee && with_colour && size >= 14 && !memcmp(body, "Adobe", 5)) {
            d->adobe = body[11];
        } else if (marker != 0xfe && (marker < 0xe0 || marker > 0xef)) {
            bad = 1; /* restart intervals, progressive and arithmetic frames, ... */
        }
        if (bad) return DECLINED;
        p = next;
    }
    return p == end ? AT_END : DECLINED;
}

/* The headers of an image, of which `prefix` takes the place of the first two bytes, if it is not empty. Where the
 * image then begins with colour of its own, that could contradict and does not count. */
static int read_headers(
    Decoder *d, const uint8_t *prefix, size_t prefix_size, const uint8_t **at, const uint8_t *end
) {
    const uint8_t *p = *at;
    start_image(d);
    if (end - p < 4 || p[0] != 0xff || p[1] != 0xd8) return DECLINED;
    *at = p + 2;
    if (!prefix_size) return read_segments(d, at, end, 1);
    if (prefix_size < 2) return DECLINED;
    const uint8_t *of_prefix = prefix + 2;
    if (read_segments(d, &of_prefix, prefix + prefix_size, 1) != AT_END) return DECLINED;
    return read_segments(d, at, end, !(p[2] == 0xff && (p[3] == 0xe0 || p[3] == 0xee)));
}

/* 1: the components are Y, Cb, Cr; 0: they are what is wanted; -1: it is not plain (libjpeg's rules). */
static int is_ycc(const Decoder *d) {
    const Component *c = d->component;
    if (d->n_components == 1) return 0;
    if (d->jfif) return 1;
    if (d->adobe >= 0) return d->adobe <= 1 ? d->adobe : -1;
    return c[0].id == 1 && c[1].id == 2 && c[2].id == 3 ? 1 : -1;
}

#endif
