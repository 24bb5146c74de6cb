/* Baseline JPEG tiles to pixels, for ingest and for compact stores: the same pixels as libjpeg-turbo, in about
 * two thirds of its time.
 *
 * Four fifths of decoding a tile is Huffman decoding, one symbol after the other. Here one look-up gives up to
 * two symbols with their values (`Pair`), and coefficients are stored frequency by frequency over a whole row of
 * blocks, so that the inverse transform runs over eight blocks at a time without a shuffle.
 *
 * What this decoder takes: ITU-T T.81 sequential DCT, 8 bit, Huffman, one scan, no restart markers, gray or three
 * components at 4:4:4, sides that are whole blocks; at full or half size. Everything else (of subsampled chroma
 * libjpeg-turbo is as fast), and everything that is not a perfect stream (a code that does not exist, bits left
 * over or missing, a marker in between), it declines, and the caller asks libjpeg-turbo, which says what is wrong.
 * So damage is judged in one place. The inverse transforms are those of Loeffler, Ligtenberg and Moschytz (ICASSP
 * 1989) with 13-bit constants, as in libjpeg, which makes the pixels equal to its own.
 *
 * Memory: every read is inside `data` or the padded copy of the scan, every write inside the buffers of the
 * context, whatever the bytes say. tests/slides/test_jpeg_fast.py damages streams, under sanitizers, too.
 */

#include "colour.h"
#include "entropy.h"
#include "headers.h"
#include "transforms.h"

/* Whether it is faster than libjpeg-turbo here. With vectors of 128 bits it was not. */
int jpeg_fast_pays(void) { return HAS_AVX2() != 0; }

Decoder *jpeg_fast_new(void) { return calloc(1, sizeof(Decoder)); }

void jpeg_fast_free(Decoder *d) {
    if (d) {
        free(d->scan);
        free(d->planes);
        free(d->rows);
        free(d->coefficients);
        free(d);
    }
}

static int at_least(void *buffer, size_t *size, size_t wanted) {
    if (*size >= wanted) return DECODED;
    void **p = buffer, *bigger = aligned_alloc(64, (wanted + 63) / 64 * 64);
    if (!bigger) return NO_MEMORY;
    free(*p);
    *p = bigger, *size = wanted;
    return DECODED;
}

/* Sizes, and the components' parts of the buffers. */
static int lay_out(Decoder *d, int scale) {
    for (int c = 0; c < d->n_components; c++)
        if (d->component[c].sampling != 0x11) return DECLINED;
    if (!d->width_px || !d->height_px || d->width_px % 8 || d->height_px % 8) return DECLINED;
    if (d->width_px > MAX_SIDE_PX || d->height_px > MAX_SIDE_PX) return DECLINED;
    d->block_px = 8 / scale, d->blocks = d->width_px / 8;
    d->stride = (d->blocks + LANES - 1) / LANES * LANES;
    size_t coefficients = (size_t)65 * d->stride;
    size_t plane = (size_t)d->height_px / 8 * d->block_px * d->stride * d->block_px;
    if (at_least(&d->coefficients, &d->coefficients_size, 3 * coefficients * sizeof(int16_t))) return NO_MEMORY;
    if (at_least(&d->planes, &d->planes_size, 3 * plane)) return NO_MEMORY;
    if (at_least(&d->rows, &d->rows_size, 3 * MAX_SIDE_PX)) return NO_MEMORY;
    for (int c = 0; c < d->n_components; c++) {
        d->component[c].coefficients = d->coefficients + c * coefficients;
        d->component[c].plane = d->planes + c * plane;
    }
    return DECODED;
}

BEST_OF_CPU
static int read_scan(Decoder *d, ptrdiff_t size) {
    int32_t place[PLACES];
    int before[3] = {0, 0, 0}, n = d->n_components;
    Bits bits = {d->scan, 0, 0};
    for (int k = 0; k < PLACES; k++) place[k] = (k <= LAST ? zigzag[k] : 64) * d->stride;
    for (int row = 0; row < d->height_px / 8; row++) {
        memset(d->coefficients, 0, (size_t)n * 65 * d->stride * sizeof(int16_t));
        for (int block = 0; block < d->blocks; block++) {
            for (int c = 0; c < n; c++) {
                Component *p = &d->component[c];
                const Table *dc = &d->dc[p->dc], *ac = &d->ac[p->ac];
                if (read_block(&bits, dc, ac, &before[c], p->coefficients + block, place, &p->last[block]))
                    return DECLINED;
            }
            if (bits.next > d->scan + size + 8) return DECLINED;
        }
        for (int c = 0; c < n; c++)
            if (row_to_pixels(d, &d->component[c], row)) return DECLINED;
    }
    int64_t left = 8 * (int64_t)(d->scan + size - bits.next) + bits.n_bits;
    return left >= 0 && left < 8 ? DECODED : DECLINED; /* only what fills up the last byte */
}

static int decode(
    Decoder *d, const uint8_t *prefix, size_t prefix_size, const uint8_t *data, size_t size, int channels,
    int height_px, int width_px, int scale, uint8_t *out
) {
    const uint8_t *at = data, *end = data + size;
    if (scale != 1 && scale != 2) return DECLINED;
    if (read_headers(d, prefix, prefix_size, &at, end)) return DECLINED;
    if (d->n_components != channels || d->height_px != height_px || d->width_px != width_px) return DECLINED;
    int ycc = is_ycc(d);
    if (ycc < 0) return DECLINED;
    int state = lay_out(d, scale);
    if (state) return state;
    if (at_least(&d->scan, &d->scan_size, (size_t)(end - at) + SCAN_PADDING)) return NO_MEMORY;
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
        states[i] = decode(d, prefix, prefix_size, data[i], sizes[i], channels, height_px, width_px, scale, out[i]);
}
