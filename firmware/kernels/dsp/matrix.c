/* Matrices times vectors, packed by mcugen/packing/dsp.py: one stream, read from its beginning to its end, in tiles of
 * rows whose accumulators lie on the stack. */
#include "matrix.h"

enum { TILE = 32 }; /* rows; of two vectors, or of two chunks of columns */

/* acc [blocks][4] = rows times x, chunk by chunk of columns; part [TILE] is scratch. A sum of chunks is a partial sum
 * of the row, within its bound. */
static const uint32_t *by_chunks(int32_t *acc, int32_t *part, const int16_t *x, const uint32_t *stream,
                                 const mg_linear_t *w, int32_t blocks, mg_gemv_t gemv)
{
    const int32_t cols = (w->cols + 7) & ~7;
    int32_t *into = acc; /* the first chunk; the others are added */
    for (int32_t start = 0; start < cols; start += w->chunk) {
        const int32_t count = (cols - start < w->chunk) ? cols - start : w->chunk;
        mg_scale_t scale = {0, 0};
        for (int32_t i = start; i < start + count; i++) {
            scale.sum += x[i];
        }
        stream = gemv(into, x + start, stream, count, blocks, &scale);
        for (int32_t i = 0; (into == part) && (i < 4 * blocks); i++) {
            acc[i] += part[i];
        }
        into = part;
    }
    return stream;
}

/* The rows of a tile from `row` on, of one token. Called in several places: not inlined, for the size of it. */
static __attribute__((noinline)) void finish(const mg_output_t *out, int32_t token, int32_t row, const int32_t *acc,
                                             const mg_scale_t *scale, const mg_linear_t *w)
{
    const int32_t count = (w->rows - row < TILE) ? w->rows - row : TILE;
    int8_t *y = mg_place_dsp(out, token, w->rows) + row * out->width;
    out->finish(y, acc, w->multiplier + row, count, scale[token].peak, w->shift, out->residual + token * w->rows + row);
}

/* Every tile of weights meets all vectors, two at a time, before the next. */
void mg_matrix_dsp(const mg_output_t *out, const int16_t *x, const mg_scale_t *scale, int32_t tokens,
                   const mg_linear_t *w, const mg_products_t *products)
{
    const int32_t cols = (w->cols + 7) & ~7;
    const int32_t whole = (w->chunk >= w->cols);
    const uint32_t *stream = (const uint32_t *)w->codes;
    int32_t acc[2 * TILE];
    for (int32_t row = 0; row < w->rows; row += TILE) {
        const int32_t blocks = ((w->rows - row < TILE) ? w->rows - row + 3 : TILE) >> 2;
        const uint32_t *end = stream;
        for (int32_t t = 0; t < tokens; t++) {
            const int16_t *vector = x + t * cols;
            if (!whole) {
                end = by_chunks(acc, acc + TILE, vector, stream, w, blocks, products->one);
            } else if (t + 1 < tokens) {
                end = products->two(acc, vector, stream, cols, blocks, scale + t);
                finish(out, t, row, acc, scale, w);
                t++;
                finish(out, t, row, acc + TILE, scale, w);
                continue;
            } else {
                end = products->one(acc, vector, stream, cols, blocks, scale + t);
            }
            finish(out, t, row, acc, scale, w);
        }
        stream = end;
    }
}
