/* One row out of the packed stream of an embedding table. */
#include "fixedpoint.h"
#include "kernels_rv32.h"

void mg_embed_s16_rv32(int16_t *y, int32_t token, const mg_linear_t *table)
{
    const int32_t quads = (table->cols + 3) >> 2;
    /* a block of 16 rows has 64 bytes per quad, a pair of rows 8 of them: two words of two columns, even row below */
    const uint8_t *codes = (const uint8_t *)table->codes + (token >> 4) * (quads * 64) + ((token >> 1) & 7) * 8
                           + (token & 1) * 2;
    const int32_t multiplier = table->multiplier[token];
    for (int32_t i = 0; i < table->cols; i++) {
        const int32_t code = (int32_t)codes[(i >> 2) * 64 + ((i >> 1) & 1) * 4 + (i & 1)] - 128;
        y[i] = (int16_t)mg_saturate_s16(mg_requantize(code, multiplier, table->shift));
    }
}
