/* Pixels of the components to RGB. */

#ifndef JPEG_FAST_COLOUR_H
#define JPEG_FAST_COLOUR_H

#include "decoder.h"

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

#endif
