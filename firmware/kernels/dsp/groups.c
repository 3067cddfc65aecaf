/* Int4 matrices with group scales times vectors, packed by mcugen/packing/dsp.py, one vector after the other. */
#include "matrix.h"

enum {
    GROUP = 32,      /* columns of a record */
    RECORD = 4,      /* words */
    TILE = 32,       /* rows, of chunks of columns; a chunk is 320 columns at most */
    LARGE_TILE = 64, /* rows, at most */
    WORDS = 72       /* ten records and a tile, or two and a large one */
};

/* What a product with 32 columns starts with, a record each. */
void mg_group_records_dsp(int32_t *records, const int16_t *x, int32_t cols);

/* acc [blocks][4] = rows times x, or acc plus that. Returns the end of what it read of the stream. */
const uint32_t *mg_gemv_s4_groups_dsp(int32_t *acc, const int16_t *x, const uint32_t *stream, int32_t cols,
                                      int32_t blocks, const int32_t *records, int32_t add);

static void multiply(const mg_output_t *out, int32_t token, const int16_t *x, int32_t peak, const mg_linear_t *w)
{
    const int32_t cols = (w->cols + 7) & ~7;
    const int32_t whole = (w->chunk >= w->cols);
    const int32_t chunk = whole ? cols : w->chunk;
    const int32_t rest = (WORDS - (chunk + GROUP - 1) / GROUP * RECORD) & ~3;
    const int32_t tile = whole ? ((rest < LARGE_TILE) ? rest : LARGE_TILE) : TILE;
    const uint32_t *stream = (const uint32_t *)w->codes;
    int8_t *y = mg_place_dsp(out, token, w->rows);
    int32_t acc[WORDS]; /* and the records */
    for (int32_t row = 0; row < w->rows; row += tile) {
        const int32_t count = (w->rows - row < tile) ? w->rows - row : tile;
        for (int32_t start = 0; start < cols; start += chunk) {
            const int32_t part = (cols - start < chunk) ? cols - start : chunk;
            if ((row == 0) || !whole) {
                mg_group_records_dsp(acc + tile, x + start, part);
            }
            stream = mg_gemv_s4_groups_dsp(acc, x + start, stream, part, (count + 3) >> 2, acc + tile, start != 0);
        }
        out->finish(y + row * out->width, acc, w->multiplier + row, count, peak, w->shift,
                    out->residual + token * w->rows + row);
    }
}

void mg_groups_dsp(const mg_output_t *out, const int16_t *x, const mg_scale_t *scale, int32_t tokens,
                   const mg_linear_t *w)
{
    for (int32_t t = 0; t < tokens; t++) {
        multiply(out, t, x + t * ((w->cols + 7) & ~7), scale[t].peak, w);
    }
}
