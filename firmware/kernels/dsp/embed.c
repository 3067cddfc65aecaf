#include "kernels_dsp.h"

enum {
    BLOCK = 4,      /* rows */
    TILE = 32,      /* rows */
    SHIFT_ZERO = 23 /* |code * multiplier| < 2^22: from here on, all is 0 */
};

/* y [cols] = a row's codes * multiplier / 2^shift, rounded and saturated. words: of the row and its neighbour, four for
 * eight columns, then four of other rows. upper: whether it is the upper row of the two. shift <= SHIFT_ZERO. */
void mg_embed_row_dsp(int16_t *y, const uint32_t *words, int32_t cols, int32_t upper, int32_t multiplier,
                      int32_t shift);

/* One row out of the packing of pack_s8 in mcugen/packing/dsp.py. */
void mg_embed_s16_dsp(int16_t *y, int32_t token, const mg_linear_t *table)
{
    const int32_t cols = (table->cols + 7) & ~7;
    const int32_t chunk = (table->chunk < table->cols) ? table->chunk : cols;
    const int32_t tile = token / TILE * TILE;
    const int32_t below = ((table->rows + BLOCK - 1) & -BLOCK) - tile; /* rows from this tile on */
    const int32_t rows = (below < TILE) ? below : TILE;
    const int32_t block = token - tile - (token & (BLOCK - 1));
    const int32_t shift = (table->shift < SHIFT_ZERO) ? table->shift : SHIFT_ZERO;

    for (int32_t start = 0; start < table->cols; start += chunk) {
        const int32_t count = (cols - start < chunk) ? cols - start : chunk;
        const int32_t used = (table->cols - start < count) ? table->cols - start : count;
        const uint32_t *words = (const uint32_t *)table->codes + ((tile * cols + rows * start + block * count) >> 2);
        mg_embed_row_dsp(y + start, words + ((token & 2) << 1), used, token & 1, table->multiplier[token], shift);
    }
}
