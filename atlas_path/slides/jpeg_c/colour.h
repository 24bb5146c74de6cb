/* Pixels of the components to RGB. */

#ifndef JPEG_FAST_COLOUR_H
#define JPEG_FAST_COLOUR_H

#include "decoder.h"

INLINE uint8_t clamp(int16_t x) { return x < 0 ? 0 : x > 255 ? 255 : x; }

/* The upper half of a product, which is one instruction for many. */
INLINE int16_t upper(int16_t x, int16_t factor) { return (int16_t)(((int32_t)x * factor) >> 16); }

/* ITU-R BT.601 with 16-bit constants, rounded as libjpeg rounds: half of twice as much, plus a half. Each colour goes
 * to a row of its own, which compilers vectorise best. */
INLINE void rgb_of_ycc(
    const uint8_t *restrict luma, const uint8_t *restrict blue, const uint8_t *restrict red, int n,
    uint8_t *restrict r, uint8_t *restrict g, uint8_t *restrict b
) {
    for (int x = 0; x < n; x++) {
        int16_t y = luma[x], cb = blue[x] - 128, cr = red[x] - 128;
        r[x] = clamp((int16_t)(y + cr + (int16_t)((int16_t)(upper(2 * cr, 26345) + 1) >> 1)));
        b[x] = clamp((int16_t)(y + 2 * cb + (int16_t)((int16_t)(upper(2 * cb, -14942) + 1) >> 1)));
    }
    for (int x = 0; x < n; x++) {
        int16_t cb = blue[x] - 128, cr = red[x] - 128;
        int32_t both = (int32_t)cb * -22554 + (int32_t)cr * (65536 - 46802) + 32768;
        g[x] = clamp((int16_t)(luma[x] - cr + (both >> 16)));
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

BEST_OF_CPU
static void to_rgb(const Decoder *d, int ycc, uint8_t *out) {
    const Component *c = d->component;
    uint8_t *red = d->rows, *green = red + MAX_SIDE_PX, *blue = green + MAX_SIDE_PX;
    int height = d->height_px / 8 * d->block_px, n = d->blocks * d->block_px;
    for (int y = 0; y < height; y++, out += (size_t)n * d->n_components) {
        size_t at = (size_t)y * d->stride * d->block_px;
        if (d->n_components == 1) {
            memcpy(out, c[0].plane + at, n);
        } else if (ycc) {
            rgb_of_ycc(c[0].plane + at, c[1].plane + at, c[2].plane + at, n, red, green, blue);
            interleave(red, green, blue, n, out);
        } else {
            interleave(c[0].plane + at, c[1].plane + at, c[2].plane + at, n, out);
        }
    }
}

#endif
