/* Huffman-coded blocks to coefficients. */

#ifndef JPEG_FAST_ENTROPY_H
#define JPEG_FAST_ENTROPY_H

#include "headers.h"

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

#endif
