/* Baseline JPEG tiles to pixels, for ingest and for compact stores: the same pixels as libjpeg-turbo, in about
 * half the time.
 *
 * Four fifths of decoding a tile is Huffman decoding, one symbol after the other. Here one look-up gives up to
 * two symbols with their values (`Pair`), and coefficients are stored frequency by frequency over a whole row of
 * blocks, so that the inverse transform runs over eight blocks at a time without a shuffle.
 *
 * What this decoder takes: ITU-T T.81 sequential DCT, 8 bit, Huffman, one scan, no restart markers, gray or three
 * components at 4:4:4, 4:2:2 or 4:2:0, sides that are whole MCUs; at full or half size. Everything else, and
 * everything that is not a perfect stream (a code that does not exist, bits left over or missing, a marker in
 * between), it declines, and the caller asks libjpeg-turbo, which says what is wrong. So damage is judged
 * in one place. The inverse transforms are those of Loeffler, Ligtenberg and Moschytz (ICASSP 1989) with 13-bit
 * constants, chroma is interpolated by the triangle filter, as in libjpeg, which makes the pixels equal to its own.
 *
 * Memory: every read is inside `data` or the padded copy of the scan, every write inside the buffers of the
 * context, whatever the bytes say. tests/slides/test_jpeg_fast.py damages streams at every byte.
 */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define DECODED 0
#define DECLINED 1
#define NO_MEMORY 2
#define AT_END 3

#define MAX_SIDE_PX 4096
#define LOOK_BITS 11 /* a table of pairs is 16 KiB: half of the first-level cache */
#define SCAN_PADDING 2048 /* zeros behind the scan: more than six blocks of 64 x 31 bits can read */
#define LANES 8

typedef int32_t Lanes __attribute__((vector_size(4 * LANES)));
typedef int16_t Lanes16 __attribute__((vector_size(2 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint8_t Bytes __attribute__((vector_size(16)));

#if defined(__clang__)
#define SHUFFLE(kind, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(kind, a, b, ...) __builtin_shuffle(a, b, (kind){__VA_ARGS__})
#endif

/* Compiled for plain and for recent processors, chosen on loading. What such functions call must be inlined: a call
 * would leave the version for the processor. */
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12
#define BEST_OF_CPU __attribute__((target_clones("arch=x86-64-v3", "default")))
#elif defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
#define BEST_OF_CPU __attribute__((target_clones("avx2", "default")))
#else
#define BEST_OF_CPU
#endif
#define INLINE static inline __attribute__((always_inline))

/* Up to two symbols at the head of the stream. `skip` is how far each moves along the zigzag: one more than its
 * run, END for an end-of-block. `bits` is 0 where the look-up does not hold one whole symbol. A single symbol is
 * there twice, the second time without moving. */
typedef struct {
    int16_t value[2];
    uint8_t skip[2];
    uint8_t bits, bits_of_first;
} Pair;

enum { LAST = 63, LAST_OF_CORNER = 9, END = 128, PLACES = LAST + 16 + END + 1 }; /* END is more than runs can add up to */
/* Up to LAST_OF_CORNER the zigzag stays in the 4 x 4 lowest frequencies. */

typedef struct {
    uint8_t counts[16], symbols[256]; /* as in the file: what the look-ups were made of */
    int known;
    Pair pairs[1 << LOOK_BITS];
    uint16_t whole[1 << 16]; /* bits << 8 | symbol by the next 16 bits; 0 where there is no such code */
} Table;

typedef struct {
    int id, across, down, quant, dc, ac; /* sampling factors, numbers of tables */
    int block_px;                        /* side of a decoded block: 8, or 4 at half size */
    int blocks, stride;                  /* in a row of blocks: real ones, and with padding to whole vectors */
    uint8_t last[2][MAX_SIDE_PX / 8 + LANES]; /* (down, stride): the last of each block that is not 0 */
    int16_t *coefficients;               /* (down, 65, stride): frequency by frequency, the last is thrown away */
    uint8_t *plane;
    int plane_stride, width_px, height_px;
} Component;

typedef struct {
    Table dc[4], ac[4];
    uint32_t seen; /* which of them the image brings: bits 0-3 DC, 16-19 AC */
    uint8_t quant[4][64];
    int quant_known[4];
    Component component[3];
    int n_components, height_px, width_px;
    int jfif, adobe; /* adobe: -1 not seen, else its transform */
    uint8_t *scan, *planes, *upsampled;
    int16_t *coefficients;
    size_t scan_size, planes_size, coefficients_size, upsampled_size;
} Decoder;

/* Where coefficient k of the zigzag lies in a block. */
static const uint8_t zigzag[64] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

Decoder *jpeg_fast_new(void) { return calloc(1, sizeof(Decoder)); }

void jpeg_fast_free(Decoder *d) {
    if (d) {
        free(d->scan);
        free(d->planes);
        free(d->upsampled);
        free(d->coefficients);
        free(d);
    }
}

/* ---- Huffman tables ------------------------------------------------------------------------------------- */

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

/* ---- Headers -------------------------------------------------------------------------------------------- */

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
        d->component[c] = (Component){.id = of[0], .across = of[1] >> 4, .down = of[1] & 15, .quant = of[2]};
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

/* ---- Buffers -------------------------------------------------------------------------------------------- */

static int at_least(void *buffer, size_t *size, size_t wanted) {
    if (*size >= wanted) return DECODED;
    void **p = buffer, *bigger = aligned_alloc(64, (wanted + 63) / 64 * 64);
    if (!bigger) return NO_MEMORY;
    free(*p);
    *p = bigger, *size = wanted;
    return DECODED;
}

/* Layout of all components: sizes, and their parts of the buffers. */
static int lay_out(Decoder *d, int scale) {
    Component *parts = d->component;
    int n = d->n_components, across = n == 1 ? 1 : parts[0].across, down = n == 1 ? 1 : parts[0].down;
    if (across < 1 || across > 2 || down < 1 || down > across) return DECLINED;
    for (int c = n == 1 ? 0 : 1; c < n; c++)
        if (parts[c].across != 1 || parts[c].down != 1) return DECLINED;
    if (d->width_px % (8 * across) || d->height_px % (8 * down)) return DECLINED;
    if (!d->width_px || !d->height_px || d->width_px > MAX_SIDE_PX || d->height_px > MAX_SIDE_PX) return DECLINED;

    size_t coefficients = 0, planes = 0;
    for (int c = 0; c < n; c++) {
        Component *p = &parts[c];
        p->blocks = d->width_px / 8 * p->across / across;
        p->stride = (p->blocks + LANES - 1) / LANES * LANES;
        p->block_px = 8 / scale;
        if (scale == 2 && c && across == 2 && down == 2) p->block_px = 8; /* already half: no reduced transform */
        p->width_px = p->blocks * p->block_px;
        p->height_px = d->height_px / 8 * p->down / down * p->block_px;
        p->plane_stride = p->stride * p->block_px;
        coefficients += (size_t)p->stride * 65 * p->down;
        planes += (size_t)p->plane_stride * p->height_px;
    }
    if (at_least(&d->coefficients, &d->coefficients_size, coefficients * sizeof(int16_t))) return NO_MEMORY;
    if (at_least(&d->planes, &d->planes_size, planes)) return NO_MEMORY;
    coefficients = planes = 0;
    for (int c = 0; c < n; c++) {
        Component *p = &parts[c];
        p->coefficients = d->coefficients + coefficients, p->plane = d->planes + planes;
        coefficients += (size_t)p->stride * 65 * p->down;
        planes += (size_t)p->plane_stride * p->height_px;
    }
    return DECODED;
}

/* The scan without the zeros behind 0xff, padded; declined unless it ends with EOI. Returns its bytes or -1. */
static ptrdiff_t copy_scan(uint8_t *to, const uint8_t *p, const uint8_t *end) {
    uint8_t *start = to;
    for (;;) {
        const uint8_t *ff = memchr(p, 0xff, end - p);
        if (!ff || end - ff < 2) return -1;
        memcpy(to, p, ff - p);
        to += ff - p;
        if (ff[1] == 0xd9) break;
        if (ff[1]) return -1;
        *to++ = 0xff;
        p = ff + 2;
    }
    memset(to, 0, SCAN_PADDING);
    return to - start;
}

/* ---- Entropy decoding ----------------------------------------------------------------------------------- */

typedef struct {
    const uint8_t *next;
    uint64_t bits; /* the highest are next */
    int n_bits;
} Bits;

INLINE void refill(Bits *b) {
    uint64_t word;
    memcpy(&word, b->next, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    b->bits |= word >> b->n_bits;
    b->next += (63 - b->n_bits) >> 3;
    b->n_bits |= 56;
}

INLINE void take(Bits *b, int n) { b->bits <<= n, b->n_bits -= n; }

/* A symbol that is longer than a look-up: (length << 8 | symbol), its bits taken; 0 where there is none. */
INLINE unsigned long_symbol(Bits *b, const Table *t) {
    refill(b);
    unsigned code = t->whole[b->bits >> 48];
    take(b, code >> 8);
    return code;
}

INLINE int value_of(Bits *b, int size) {
    if (!size) return 0;
    int value = extended((unsigned)(b->bits >> (64 - size)), size);
    take(b, size);
    return value;
}

/* One block, to one column of its row of blocks; `place` says where the coefficients lie there. `last` is set to
 * the last of the zigzag that is not 0 (END is 128, so its low bits are those of the coefficient before it). */
INLINE int read_block(
    Bits *bits, const Table *dc, const Table *ac, int *before, int16_t *restrict to, const int32_t *restrict place,
    uint8_t *last
) {
    Bits b = *bits;
    refill(&b);
    Pair pair = dc->pairs[b.bits >> (64 - LOOK_BITS)];
    if (pair.bits) {
        take(&b, pair.bits);
        *before += pair.value[0];
    } else {
        unsigned code = long_symbol(&b, dc);
        if (!code) return DECLINED;
        *before += value_of(&b, code & 15);
    }
    if (*before != (int16_t)*before) return DECLINED;
    to[0] = *before;
    int k = 0; /* the coefficient that was read last */
    while (k < LAST) {
        refill(&b);
        for (int turn = 0; turn < 4 && k < LAST; turn++) { /* 4 x 11 bits of the 56 */
            pair = ac->pairs[b.bits >> (64 - LOOK_BITS)];
            if (__builtin_expect(!pair.bits, 0)) {
                unsigned code = long_symbol(&b, ac);
                if (!code) return DECLINED;
                int run = (code >> 4) & 15, size = code & 15;
                k += size ? run + 1 : run == 15 ? 16 : END;
                to[place[k]] = value_of(&b, size);
                refill(&b);
                continue;
            }
            k += pair.skip[0];
            to[place[k]] = pair.value[0];
            if (__builtin_expect(k == LAST, 0)) { /* the second symbol is the next block's */
                take(&b, pair.bits_of_first);
                break;
            }
            take(&b, pair.bits);
            k += pair.skip[1];
            to[place[k]] = pair.value[1];
        }
    }
    *bits = b;
    *last = (uint8_t)k & LAST;
    return k == LAST || (k >= END && k < END + LAST) ? DECODED : DECLINED;
}

/* ---- Inverse transforms, eight blocks at a time ---------------------------------------------------------- */

INLINE Lanes load(const int16_t *row, int step) { /* what libjpeg's own vector code keeps of a product */
    Lanes16 v;
    memcpy(&v, row, sizeof v);
    return __builtin_convertvector(v * (int16_t)step, Lanes);
}

INLINE Lanes round_off(Lanes x, int bits) { return (x + (1 << (bits - 1))) >> bits; }

INLINE Lanes within(Lanes x, int low, int high) {
    for (int i = 0; i < LANES; i++) {
        x[i] = x[i] < low ? low : x[i];
        x[i] = x[i] > high ? high : x[i];
    }
    return x;
}

/* Not 0 for what no picture gives halfway, where the 16-bit sums of libjpeg's vector code could overflow. */
INLINE Lanes is_extreme(Lanes x) { return (x + 16384) >> 15; }

INLINE Words four_pixels(Lanes a, Lanes b, Lanes c, Lanes d) {
    return (Words)(a | b << 8 | c << 16 | d << 24);
}

INLINE void transform_8(const Lanes *in, Lanes *out, int bits) {
    Lanes even = (in[2] + in[6]) * 4433;
    Lanes e2 = even - in[6] * 15137, e3 = even + in[2] * 6270;
    Lanes e0 = (in[0] + in[4]) << 13, e1 = (in[0] - in[4]) << 13;
    Lanes t0 = e0 + e3, t1 = e1 + e2, t2 = e1 - e2, t3 = e0 - e3;

    Lanes z1 = (in[7] + in[1]) * -7373, z2 = (in[5] + in[3]) * -20995;
    Lanes z5 = (in[7] + in[3] + in[5] + in[1]) * 9633;
    Lanes z3 = (in[7] + in[3]) * -16069 + z5, z4 = (in[5] + in[1]) * -3196 + z5;
    Lanes o0 = in[7] * 2446 + z1 + z3, o1 = in[5] * 16819 + z2 + z4;
    Lanes o2 = in[3] * 25172 + z2 + z3, o3 = in[1] * 12299 + z1 + z4;

    out[0] = round_off(t0 + o3, bits), out[7] = round_off(t0 - o3, bits);
    out[1] = round_off(t1 + o2, bits), out[6] = round_off(t1 - o2, bits);
    out[2] = round_off(t2 + o1, bits), out[5] = round_off(t2 - o1, bits);
    out[3] = round_off(t3 + o0, bits), out[4] = round_off(t3 - o0, bits);
}

INLINE void transform_4(const Lanes *in, Lanes *out, int bits) { /* in[4] does not matter */
    Lanes e0 = in[0] << 14, e2 = in[2] * 15137 - in[6] * 6270;
    Lanes o0 = in[3] * -17799 + in[1] * 8697 + in[5] * 11893 - in[7] * 1730;
    Lanes o2 = in[3] * 7373 + in[1] * 20995 - in[5] * 4926 - in[7] * 4176;
    out[0] = round_off(e0 + e2 + o2, bits), out[3] = round_off(e0 + e2 - o2, bits);
    out[1] = round_off(e0 - e2 + o0, bits), out[2] = round_off(e0 - e2 - o0, bits);
}

INLINE void put_alternating(uint8_t *to, Words even, Words odd) {
    Words first = SHUFFLE(Words, even, odd, 0, 8, 1, 9, 2, 10, 3, 11);
    Words second = SHUFFLE(Words, even, odd, 4, 12, 5, 13, 6, 14, 7, 15);
    memcpy(to, &first, sizeof first);
    memcpy(to + sizeof first, &second, sizeof second);
}

/* `sides`: coefficients at x or y of this and more are 0 (4 or 8). */
INLINE Lanes pixels_8(
    const int16_t *from, int stride, const uint8_t *quant, int sides, uint8_t *to, int to_stride
) {
    Lanes extreme = {}, in[8] = {{}}, out[8], middle[64] = {{}}; /* [y][x], each of eight blocks */
    for (int x = 0; x < sides; x++) {
        for (int y = 0; y < sides; y++) in[y] = load(from + (8 * y + x) * stride, quant[8 * y + x]);
        transform_8(in, out, 11);
        for (int y = 0; y < 8; y++) extreme |= is_extreme(out[y]), middle[8 * y + x] = out[y];
    }
    for (int y = 0; y < 8; y++) {
        transform_8(middle + 8 * y, out, 18);
        for (int x = 0; x < 8; x++) out[x] = within(out[x] + 128, 0, 255);
        Words left = four_pixels(out[0], out[1], out[2], out[3]), right = four_pixels(out[4], out[5], out[6], out[7]);
        put_alternating(to + y * to_stride, left, right);
    }
    return extreme;
}

INLINE Lanes pixels_4(
    const int16_t *from, int stride, const uint8_t *quant, int sides, uint8_t *to, int to_stride
) {
    Lanes extreme = {}, in[8] = {{}}, out[4], middle[32] = {{}};
    for (int x = 0; x < sides; x++) {
        if (x == 4) continue;
        for (int y = 0; y < sides; y++)
            if (y != 4) in[y] = load(from + (8 * y + x) * stride, quant[8 * y + x]);
        transform_4(in, out, 12);
        for (int y = 0; y < 4; y++) extreme |= is_extreme(out[y]), middle[8 * y + x] = out[y];
    }
    for (int y = 0; y < 4; y++) {
        transform_4(middle + 8 * y, out, 19);
        for (int x = 0; x < 4; x++) out[x] = within(out[x] + 128, 0, 255);
        Words four = four_pixels(out[0], out[1], out[2], out[3]);
        memcpy(to + y * to_stride, &four, sizeof four);
    }
    return extreme;
}

/* Blocks of one colour each. */
INLINE Lanes flat_pixels(const int16_t *from, const uint8_t *quant, int block_px, uint8_t *to, int to_stride) {
    Lanes constant = load(from, quant[0]), pixel = within(((constant + 4) >> 3) + 128, 0, 255);
    Words four = four_pixels(pixel, pixel, pixel, pixel);
    for (int y = 0; y < block_px; y++) {
        if (block_px == 8)
            put_alternating(to + y * to_stride, four, four);
        else
            memcpy(to + y * to_stride, &four, sizeof four);
    }
    return is_extreme(constant << 2);
}

/* A row of blocks of one component to its plane. */
INLINE int row_to_pixels(const Component *c, const uint8_t *quant, int row) {
    const int16_t *from = c->coefficients + (size_t)(row % c->down) * 65 * c->stride;
    uint8_t *to = c->plane + (size_t)row * c->block_px * c->plane_stride;
    const uint8_t *ends = c->last[row % c->down];
    Lanes extreme = {};
    for (int block = 0; block < c->stride; block += LANES, from += LANES, to += LANES * c->block_px) {
        int last = 0;
        for (int i = block; i < block + LANES; i++) last = ends[i] > last ? ends[i] : last;
        if (!last)
            extreme |= flat_pixels(from, quant, c->block_px, to, c->plane_stride);
        else if (c->block_px == 8 && last <= LAST_OF_CORNER)
            extreme |= pixels_8(from, c->stride, quant, 4, to, c->plane_stride);
        else if (c->block_px == 8)
            extreme |= pixels_8(from, c->stride, quant, 8, to, c->plane_stride);
        else if (last <= LAST_OF_CORNER)
            extreme |= pixels_4(from, c->stride, quant, 4, to, c->plane_stride);
        else
            extreme |= pixels_4(from, c->stride, quant, 8, to, c->plane_stride);
    }
    int any = 0;
    for (int i = 0; i < LANES; i++) any |= extreme[i];
    return any ? DECLINED : DECODED;
}

/* ---- The scan -------------------------------------------------------------------------------------------- */

BEST_OF_CPU
static int read_scan(Decoder *d, ptrdiff_t size) {
    int32_t places[3][PLACES];
    int before[3] = {0, 0, 0}, n = d->n_components;
    Component *parts = d->component;
    Bits bits = {d->scan, 0, 0};
    for (int c = 0; c < n; c++)
        for (int k = 0; k < PLACES; k++) places[c][k] = (k <= LAST ? zigzag[k] : 64) * parts[c].stride;
    int mcu_rows = d->height_px / 8 / parts[0].down, mcus = parts[0].blocks / parts[0].across;
    for (int row = 0; row < mcu_rows; row++) {
        for (int c = 0; c < n; c++)
            memset(parts[c].coefficients, 0, (size_t)parts[c].down * 65 * parts[c].stride * sizeof(int16_t));
        for (int mcu = 0; mcu < mcus; mcu++) {
            for (int c = 0; c < n; c++) {
                Component *p = &parts[c];
                const Table *dc = &d->dc[p->dc], *ac = &d->ac[p->ac];
                for (int y = 0; y < p->down; y++) {
                    int16_t *to = p->coefficients + (size_t)y * 65 * p->stride + mcu * p->across;
                    uint8_t *last = p->last[y] + mcu * p->across;
                    for (int x = 0; x < p->across; x++)
                        if (read_block(&bits, dc, ac, &before[c], to + x, places[c], last + x)) return DECLINED;
                }
            }
            if (bits.next > d->scan + size + 8) return DECLINED;
        }
        for (int c = 0; c < n; c++)
            for (int y = 0; y < parts[c].down; y++)
                if (row_to_pixels(&parts[c], d->quant[parts[c].quant], row * parts[c].down + y)) return DECLINED;
    }
    int64_t left = 8 * (int64_t)(d->scan + size - bits.next) + bits.n_bits;
    return left >= 0 && left < 8 ? DECODED : DECLINED; /* only what fills up the last byte */
}

/* ---- Colour ---------------------------------------------------------------------------------------------- */

/* Chroma of twice the width by the triangle filter: of each pair, the nearer counts three quarters. */
INLINE void widen(const uint8_t *restrict from, int n, uint8_t *restrict to) {
    to[0] = from[0], to[1] = (from[0] * 3 + from[1] + 2) >> 2;
    for (int x = 1; x < n - 1; x++) {
        to[2 * x] = (from[x] * 3 + from[x - 1] + 1) >> 2;
        to[2 * x + 1] = (from[x] * 3 + from[x + 1] + 2) >> 2;
    }
    to[2 * n - 2] = (from[n - 1] * 3 + from[n - 2] + 1) >> 2, to[2 * n - 1] = from[n - 1];
}

/* The same in both directions, from the nearer and the farther row. */
INLINE void widen_between(
    const uint8_t *restrict near, const uint8_t *restrict far, int n, uint8_t *restrict to
) {
    int before = near[0] * 3 + far[0], here = before, after = near[1] * 3 + far[1];
    to[0] = (here * 4 + 8) >> 4, to[1] = (here * 3 + after + 7) >> 4;
    for (int x = 1; x < n - 1; x++) {
        before = near[x - 1] * 3 + far[x - 1], here = near[x] * 3 + far[x], after = near[x + 1] * 3 + far[x + 1];
        to[2 * x] = (here * 3 + before + 8) >> 4;
        to[2 * x + 1] = (here * 3 + after + 7) >> 4;
    }
    before = near[n - 2] * 3 + far[n - 2], here = near[n - 1] * 3 + far[n - 1];
    to[2 * n - 2] = (here * 3 + before + 8) >> 4, to[2 * n - 1] = (here * 4 + 7) >> 4;
}

INLINE uint8_t clamp(int x) { return x < 0 ? 0 : x > 255 ? 255 : x; }

INLINE void rgb_of_ycc(
    const uint8_t *restrict luma, const uint8_t *restrict blue, const uint8_t *restrict red, int n,
    uint8_t *restrict out
) { /* ITU-R BT.601, 16-bit constants */
    for (int x = 0; x < n; x++) {
        int y = luma[x], cb = blue[x] - 128, cr = red[x] - 128;
        out[3 * x] = clamp(y + ((91881 * cr + 32768) >> 16));
        out[3 * x + 1] = clamp(y + ((-22554 * cb - 46802 * cr + 32768) >> 16));
        out[3 * x + 2] = clamp(y + ((116130 * cb + 32768) >> 16));
    }
}

/* Sixteen pixels of three planes, side by side. */
INLINE void put_pixels(Bytes a, Bytes b, Bytes c, uint8_t *out) {
    Bytes ab = SHUFFLE(Bytes, a, b, 0, 16, 0, 1, 17, 1, 2, 18, 2, 3, 19, 3, 4, 20, 4, 5);
    Bytes first = SHUFFLE(Bytes, ab, c, 0, 1, 16, 3, 4, 17, 6, 7, 18, 9, 10, 19, 12, 13, 20, 15);
    ab = SHUFFLE(Bytes, a, b, 21, 5, 6, 22, 6, 7, 23, 7, 8, 24, 8, 9, 25, 9, 10, 26);
    Bytes second = SHUFFLE(Bytes, ab, c, 0, 21, 2, 3, 22, 5, 6, 23, 8, 9, 24, 11, 12, 25, 14, 15);
    ab = SHUFFLE(Bytes, a, b, 0, 11, 27, 0, 12, 28, 0, 13, 29, 0, 14, 30, 0, 15, 31, 0);
    Bytes third = SHUFFLE(Bytes, ab, c, 26, 1, 2, 27, 4, 5, 28, 7, 8, 29, 10, 11, 30, 13, 14, 31);
    memcpy(out, &first, 16);
    memcpy(out + 16, &second, 16);
    memcpy(out + 32, &third, 16);
}

INLINE void interleave(const uint8_t *a, const uint8_t *b, const uint8_t *c, int n, uint8_t *out) {
    int x = 0;
    for (; x + 16 <= n; x += 16) {
        Bytes va, vb, vc;
        memcpy(&va, a + x, 16);
        memcpy(&vb, b + x, 16);
        memcpy(&vc, c + x, 16);
        put_pixels(va, vb, vc, out + 3 * x);
    }
    for (; x < n; x++) out[3 * x] = a[x], out[3 * x + 1] = b[x], out[3 * x + 2] = c[x];
}

/* The pixels of row y of a component at the size of the first one. */
INLINE const uint8_t *row_of(const Component *c, const Component *first, int y, uint8_t *spare) {
    if (c->width_px == first->width_px) return c->plane + (size_t)y * c->plane_stride;
    if (c->height_px == first->height_px) {
        widen(c->plane + (size_t)y * c->plane_stride, c->width_px, spare);
        return spare;
    }
    int near = y / 2, far = y % 2 ? near + 1 : near - 1;
    far = far < 0 ? 0 : far >= c->height_px ? c->height_px - 1 : far;
    widen_between(
        c->plane + (size_t)near * c->plane_stride, c->plane + (size_t)far * c->plane_stride, c->width_px, spare
    );
    return spare;
}

BEST_OF_CPU
static void to_rgb(const Decoder *d, int ycc, uint8_t *out) {
    const Component *c = d->component;
    int width = c[0].width_px;
    for (int y = 0; y < c[0].height_px; y++, out += (size_t)width * d->n_components) {
        const uint8_t *first = c[0].plane + (size_t)y * c[0].plane_stride;
        if (d->n_components == 1) {
            memcpy(out, first, width);
            continue;
        }
        const uint8_t *second = row_of(&c[1], &c[0], y, d->upsampled);
        const uint8_t *third = row_of(&c[2], &c[0], y, d->upsampled + MAX_SIDE_PX);
        if (ycc)
            rgb_of_ycc(first, second, third, width, out);
        else
            interleave(first, second, third, width, out);
    }
}

static int decode(
    Decoder *d, const uint8_t *prefix, size_t prefix_size, const uint8_t *data, size_t size, int channels,
    int height_px, int width_px, int scale, uint8_t *out
) {
    const uint8_t *at = data, *end = data + size;
    if (read_headers(d, prefix, prefix_size, &at, end)) return DECLINED;
    if (d->n_components != channels || d->height_px != height_px || d->width_px != width_px) return DECLINED;
    int ycc = is_ycc(d);
    if (ycc < 0) return DECLINED;
    int state = lay_out(d, scale);
    if (state) return state;
    if (at_least(&d->scan, &d->scan_size, (size_t)(end - at) + SCAN_PADDING)) return NO_MEMORY;
    if (at_least(&d->upsampled, &d->upsampled_size, 2 * MAX_SIDE_PX)) return NO_MEMORY;
    ptrdiff_t scan_size = copy_scan(d->scan, at, end);
    if (scan_size < 0 || read_scan(d, scan_size)) return DECLINED;
    to_rgb(d, ycc, out);
    return DECODED;
}

/* Decode `n` images of one size, each to (height / scale, width / scale, channels) at `out[i]`.
 *
 * d: a context, of one thread at a time. prefix: takes the place of the first two bytes of each image (see
 * `jpeg_tiles`); empty for complete images. channels: 1 or 3, what the caller wants. height_px, width_px: at full
 * size; images must say the same. scale: 1 or 2. states: DECODED, DECLINED (then `out[i]` may be half written) or
 * NO_MEMORY of each. */
void jpeg_fast_decode(
    Decoder *d, const uint8_t *prefix, size_t prefix_size, size_t n, const uint8_t *const *data,
    const size_t *sizes, int channels, int height_px, int width_px, int scale, uint8_t *const *out, uint8_t *states
) {
    for (size_t i = 0; i < n; i++)
        states[i] = scale != 1 && scale != 2
            ? DECLINED
            : decode(d, prefix, prefix_size, data[i], sizes[i], channels, height_px, width_px, scale, out[i]);
}
