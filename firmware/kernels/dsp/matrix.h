/* What the linear kernels of this folder share: from packed weights to finished outputs. */
#ifndef MG_MATRIX_DSP_H
#define MG_MATRIX_DSP_H

#include <stdint.h>

#include "kernels.h"

/* acc [blocks][4] = four rows a block times x [cols]. scale: of x. Returns the end of what it read of the stream. */
typedef const uint32_t *(*mg_gemv_t)(int32_t *acc, const int16_t *x, const uint32_t *stream, int32_t cols,
                                     int32_t blocks, const mg_scale_t *scale);

/* How to multiply with a matrix: one: a vector; two: vectors x [2][cols] with scale [2], into acc [2][32]. */
typedef struct {
    mg_gemv_t one;
    mg_gemv_t two;
} mg_products_t;

/* y [rows] = the rounded products of acc with multiplier * peak, in 1 / 2^shift; plus residual where there is one. */
typedef void (*mg_finish_t)(void *y, const int32_t *acc, const int16_t *multiplier, int32_t rows, int32_t peak,
                            int32_t shift, const int16_t *residual);

/* Where outputs go: y of the first token. width: bytes per row of y. slot: of the first token, where y is in the ring
 * of values, else -1. */
typedef struct {
    mg_finish_t finish;
    int8_t *y;
    const int16_t *residual;
    int32_t width;
    int32_t slot;
} mg_output_t;

/* From the beginning of the ring of values to a slot; bytes. */
static inline int32_t mg_value_slot_dsp(int32_t slot, int32_t rows)
{
    return (slot >> 1) * 2 * rows + (slot & 1) * 2;
}

/* Where the rows of a token begin. */
static inline int8_t *mg_place_dsp(const mg_output_t *out, int32_t token, int32_t rows)
{
    if (out->slot < 0) {
        return out->y + token * rows * out->width;
    }
    return out->y + mg_value_slot_dsp(out->slot + token, rows) - mg_value_slot_dsp(out->slot, rows);
}

/* All rows and tokens, of an int4 matrix with group scales. */
void mg_groups_dsp(const mg_output_t *out, const int16_t *x, const mg_scale_t *scale, int32_t tokens,
                   const mg_linear_t *w);

/* All rows of one token: x with its scale. Where w->chunk is less than w->cols, mg_matrix_dsp does it. */
void mg_vector_dsp(const mg_output_t *out, const int16_t *x, const mg_scale_t *scale, const mg_linear_t *w,
                   mg_gemv_t gemv);

/* All rows and tokens. */
void mg_matrix_dsp(const mg_output_t *out, const int16_t *x, const mg_scale_t *scale, int32_t tokens,
                   const mg_linear_t *w, const mg_products_t *products);

/* The one or the other. */
static inline void mg_multiply_dsp(const mg_output_t *out, const int16_t *x, const mg_scale_t *scale, int32_t tokens,
                                   const mg_linear_t *w, const mg_products_t *products)
{
    if ((tokens == 1) && (w->chunk >= w->cols)) {
        mg_vector_dsp(out, x, scale, w, products->one);
    } else {
        mg_matrix_dsp(out, x, scale, tokens, w, products);
    }
}

const uint32_t *mg_gemv_s8_dsp(int32_t *acc, const int16_t *x, const uint32_t *stream, int32_t cols, int32_t blocks,
                               const mg_scale_t *scale);
const uint32_t *mg_gemm_s8_dsp(int32_t *acc, const int16_t *x, const uint32_t *stream, int32_t cols, int32_t blocks,
                               const mg_scale_t *scale);
const uint32_t *mg_gemv_s4_dsp(int32_t *acc, const int16_t *x, const uint32_t *stream, int32_t cols, int32_t blocks,
                               const mg_scale_t *scale);
const uint32_t *mg_gemm_s4_dsp(int32_t *acc, const int16_t *x, const uint32_t *stream, int32_t cols, int32_t blocks,
                               const mg_scale_t *scale);

/* int16 and int32 y; int16 y = residual + product; int8 y, as one slot of the ring of values: pairs of rows every four
 * bytes, so that a row takes two. */
void mg_finish_s16_dsp(void *y, const int32_t *acc, const int16_t *multiplier, int32_t rows, int32_t peak,
                       int32_t shift, const int16_t *residual);
void mg_finish_s32_dsp(void *y, const int32_t *acc, const int16_t *multiplier, int32_t rows, int32_t peak,
                       int32_t shift, const int16_t *residual);
void mg_finish_add_s16_dsp(void *y, const int32_t *acc, const int16_t *multiplier, int32_t rows, int32_t peak,
                           int32_t shift, const int16_t *residual);
void mg_finish_s8_dsp(void *y, const int32_t *acc, const int16_t *multiplier, int32_t rows, int32_t peak,
                      int32_t shift, const int16_t *residual);

#endif
