/* What the parts of the decoder share: its limits, its types, and how it is compiled for vectors. */

#ifndef JPEG_FAST_DECODER_H
#define JPEG_FAST_DECODER_H

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
#define SCAN_PADDING 2048 /* zeros behind the scan: more than three blocks of 64 x 31 bits can read */
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
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
#define HAS_AVX2() __builtin_cpu_supports("avx2")
#if __GNUC__ >= 12
#define BEST_OF_CPU __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define BEST_OF_CPU __attribute__((target_clones("avx2", "default")))
#endif
#else
#define BEST_OF_CPU
#ifdef __AVX2__
#define HAS_AVX2() 1
#else
#define HAS_AVX2() 0
#endif
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

/* Up to LAST_OF_CORNER the zigzag stays in the 4 x 4 lowest frequencies. END is more than runs can add up to. */
enum { LAST = 63, LAST_OF_CORNER = 9, END = 128, PLACES = LAST + 16 + END + 1 };

typedef struct {
    uint8_t counts[16], symbols[256]; /* as in the file: what the look-ups were made of */
    int known;
    Pair pairs[1 << LOOK_BITS];
    uint16_t whole[1 << 16]; /* bits << 8 | symbol by the next 16 bits; 0 where there is no such code */
} Table;

typedef struct {
    int id, sampling, quant, dc, ac; /* sampling factors, numbers of tables */
    int16_t *coefficients;           /* (65, stride) of a row of blocks: by frequency, the last is thrown away */
    uint8_t last[MAX_SIDE_PX / 8];   /* of each of its blocks: the last coefficient that is not 0 */
    uint8_t *plane;                  /* (height, width), rows padded to `stride` blocks */
} Component;

typedef struct {
    Table dc[4], ac[4];
    uint32_t seen; /* which of them the image brings: bits 0-3 DC, 16-19 AC */
    uint8_t quant[4][64];
    int quant_known[4];
    Component component[3];
    int n_components, height_px, width_px; /* at full size */
    int block_px;       /* side of a decoded block: 8, or 4 at half size */
    int blocks, stride; /* in a row of blocks: real ones, and with padding to whole vectors */
    int jfif, adobe; /* adobe: -1 not seen, else its transform */
    uint8_t *scan, *planes, *rows; /* rows: one of each colour */
    int16_t *coefficients;
    size_t scan_size, planes_size, coefficients_size, rows_size;
} Decoder;

/* Where coefficient k of the zigzag lies in a block. */
static const uint8_t zigzag[64] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

#endif
