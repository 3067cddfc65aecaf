/* A matrix, packed by mcugen/packing/dsp.py, times one vector, in tiles of rows whose accumulators lie on the stack. */
#include "matrix.h"

enum { TILE = 64 }; /* rows */

void mg_vector_dsp(const mg_output_t *out, const int16_t *x, const mg_scale_t *scale, const mg_linear_t *w,
                   mg_gemv_t gemv)
{
    const uint32_t *stream = (const uint32_t *)w->codes;
    const int32_t cols = (w->cols + 7) & ~7;
    const int32_t rows = w->rows;
    int32_t acc[TILE];
    for (int32_t row = 0; row < rows; row += TILE) {
        const int32_t count = (rows - row < TILE) ? rows - row : TILE;
        stream = gemv(acc, x, stream, cols, (count + 3) >> 2, scale);
        out->finish(out->y + row * out->width, acc, w->multiplier + row, count, scale->peak, w->shift,
                    out->residual + row);
    }
}
