/* Baseline JPEG tiles to pixels, for ingest and for compact stores: the same pixels as libjpeg-turbo, in about
 * two thirds of its time.
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
 * context, whatever the bytes say. tests/slides/test_jpeg_fast.py damages streams, under sanitizers, too.
 */

#include "colour.h"
#include "entropy.h"
#include "headers.h"
#include "transforms.h"

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
