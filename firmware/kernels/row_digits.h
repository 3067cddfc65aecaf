/* Matrix times vector on words whose digits are rows (mcugen/packing/row_digits.py), shared by the families v6m and
 * v7m: what row_digits.c needs to know of a family's assembly, and the rows of an embedding table. */
#ifndef MG_ROW_DIGITS_H
#define MG_ROW_DIGITS_H

#include <stdint.h>

#include "fixedpoint.h"
#include "kernels.h"

/* acc [blocks][8] = rows times x [cols]; returns where the stream goes on. offset: what is taken off all sums. */
typedef const uint32_t *(*mg_gemv_t)(int32_t *acc, const uint8_t *x, const uint32_t *w, int32_t cols, int32_t blocks,
                                     int32_t offset);

/* The same with group scales, and an offset for each group. */
typedef const uint32_t *(*mg_gemv_groups_t)(int32_t *acc, const uint8_t *x, const uint32_t *w, int32_t cols,
                                            int32_t blocks, const int32_t *offsets, int32_t group);

/* y [rows] = (acc * multiplier * peak + 2^(shift - 1)) >> shift, plus the residual where there is one, saturated. */
typedef void (*mg_finish_t)(void *y, const int32_t *acc, const int16_t *multiplier, int32_t rows, int32_t peak,
                            int32_t shift, const int16_t *residual);

/* How a family makes its products of weights of one width into results of one kind. bias: codes of x come as x +
 * bias, 128 in uint8 or 0 in int8. unit: offsets are unit times a sum of x. largest: group that `groups` takes.
 * bytes: of a result. align: of a token's results, a power of two. */
typedef struct {
    int32_t bias;
    int32_t unit;
    mg_gemv_t gemv;
    mg_gemv_groups_t groups;
    int32_t largest;
    mg_finish_t finish;
    int32_t bytes;
    int32_t align;
} mg_product_t;

/* y [tokens][rows, aligned]; residual: null, or [tokens][rows]. */
void mg_row_digits(void *y, const int16_t *residual, const void *x, const mg_scale_t *scale, int32_t tokens,
                    const mg_linear_t *w, const mg_product_t *product);

/* One row of an int8 stream to int16. starts: words in front of each chunk of a block. */
static inline void mg_embed(int16_t *y, int32_t token, const mg_linear_t *table, int32_t starts)
{
    const int32_t padded = (table->cols + 7) & ~7;
    const int32_t chunk = (table->chunk < table->cols) ? table->chunk : padded;
    int32_t block = 8 * padded; /* bytes */
    for (int32_t from = 0; from < padded; from += chunk) {
        block += 4 * starts;
    }
    const uint8_t *code = (const uint8_t *)table->codes + (token >> 3) * block + (token & 7);
    const int32_t multiplier = table->multiplier[token];
    const int32_t shift = (table->shift < 30) ? table->shift : 30; /* |product| < 2^22: beyond, nothing is left */
    for (int32_t from = 0; from < table->cols; from += chunk) {
        const int32_t end = (table->cols - from < chunk) ? table->cols : from + chunk;
        code += 4 * starts;
        for (int32_t i = from; i < end; i++, code += 8) {
            const int32_t x = mg_round_shift_s32((*code - 128) * multiplier, shift);
            y[i] = (int16_t)((x > INT16_MAX) ? INT16_MAX : (x < INT16_MIN) ? INT16_MIN : x);
        }
    }
}

#endif
