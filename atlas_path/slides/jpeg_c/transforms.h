/* Coefficients to pixels of one component, eight blocks at a time. */

#ifndef JPEG_FAST_TRANSFORMS_H
#define JPEG_FAST_TRANSFORMS_H

#include "decoder.h"

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
INLINE int row_to_pixels(const Decoder *d, const Component *c, int row) {
    const uint8_t *quant = d->quant[c->quant];
    const int16_t *from = c->coefficients;
    int to_stride = d->stride * d->block_px, any = 0;
    uint8_t *to = c->plane + (size_t)row * d->block_px * to_stride;
    Lanes extreme = {};
    for (int block = 0; block < d->stride; block += LANES, from += LANES, to += LANES * d->block_px) {
        int last = 0;
        for (int i = block; i < block + LANES; i++) last = c->last[i] > last ? c->last[i] : last;
        if (!last)
            extreme |= flat_pixels(from, quant, d->block_px, to, to_stride);
        else if (d->block_px == 8 && last <= LAST_OF_CORNER)
            extreme |= pixels_8(from, d->stride, quant, 4, to, to_stride);
        else if (d->block_px == 8)
            extreme |= pixels_8(from, d->stride, quant, 8, to, to_stride);
        else if (last <= LAST_OF_CORNER)
            extreme |= pixels_4(from, d->stride, quant, 4, to, to_stride);
        else
            extreme |= pixels_4(from, d->stride, quant, 8, to, to_stride);
    }
    for (int i = 0; i < LANES; i++) any |= extreme[i];
    return any ? DECLINED : DECODED;
}

#endif
