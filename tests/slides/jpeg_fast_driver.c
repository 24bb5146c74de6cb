/* Decodes many streams under the sanitizers: argv[1] holds records of height, width, channels and length (four
 * little-endian 32-bit numbers) and a stream. Input and output are allocated to the byte, so that any access beyond
 * them is seen. Prints how many were decoded. */

#include "../../atlas_path/slides/jpeg_c/jpeg_fast.c"

#include <stdio.h>

int main(int argc, char **argv) {
    FILE *file = argc == 2 ? fopen(argv[1], "rb") : NULL;
    uint32_t record[4];
    long decoded = 0, all = 0;
    Decoder *d = jpeg_fast_new();
    if (!file || !d) return 2;
    while (fread(record, sizeof record, 1, file) == 1) {
        uint8_t *data = malloc(record[3]);
        if (fread(data, 1, record[3], file) != record[3]) return 2;
        for (int scale = 1; scale <= 2; scale++, all++) {
            uint8_t *out = malloc((size_t)(record[0] / scale) * (record[1] / scale) * record[2]);
            const uint8_t *images[] = {data};
            const size_t sizes[] = {record[3]};
            uint8_t *outs[] = {out}, state;
            jpeg_fast_decode(d, NULL, 0, 1, images, sizes, record[2], record[0], record[1], scale, outs, &state);
            decoded += state == DECODED;
            free(out);
        }
        free(data);
    }
    jpeg_fast_free(d);
    fclose(file);
    printf("%ld %ld\n", decoded, all);
    return 0;
}
