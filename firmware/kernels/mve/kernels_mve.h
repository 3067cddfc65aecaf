/* The kernels of kernels.h for cores with vectors of integers (MVE): same numbers, other layouts.
 *
 * x: int8 codes, padded with zeros to a multiple of 16. codes of a matrix: mcugen/packing/mve.py.
 * Ring of keys: units of 16 slots, [unit][channel / 8][16 slots][8 channels]; channels are padded to 8.
 * Ring of values: units of 16 slots, [unit][channel][16 slots]. */
#ifndef MG_KERNELS_MVE_H
#define MG_KERNELS_MVE_H

#include "kernels.h"

void mg_block_s8_mve(int8_t *codes, mg_scale_t *scale, const int16_t *x, int32_t n);

void mg_linear_s16_mve(int16_t *y, const int8_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w);
void mg_linear_s32_mve(int32_t *y, const int8_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w);
void mg_linear_s8_mve(int8_t *ring, int32_t slot, const int8_t *x, const mg_scale_t *scale, int32_t tokens,
                      const mg_linear_t *w);
void mg_linear_add_s16_mve(int16_t *y, const int16_t *residual, const int8_t *x, const mg_scale_t *scale,
                           int32_t tokens, const mg_linear_t *w);
void mg_linear4_s16_mve(int16_t *y, const int8_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w);
void mg_linear4_s8_mve(int8_t *ring, int32_t slot, const int8_t *x, const mg_scale_t *scale, int32_t tokens,
                       const mg_linear_t *w);
void mg_linear4_add_s16_mve(int16_t *y, const int16_t *residual, const int8_t *x, const mg_scale_t *scale,
                            int32_t tokens, const mg_linear_t *w);

void mg_embed_s16_mve(int16_t *y, int32_t token, const mg_linear_t *table);
void mg_rmsnorm_s16_mve(int16_t *y, const int16_t *x, const mg_norm_t *norm);
void mg_rope_s16_mve(int16_t *y, const int16_t *x, int32_t position, const mg_rope_t *rope);
void mg_rope_s8_mve(int8_t *ring, int32_t slot, const int16_t *x, int32_t position, const mg_rope_t *rope);
void mg_rebase_s8_mve(int8_t *y, const int8_t *keys, int32_t rows, int32_t delta, const mg_rope_t *rope);
void mg_attention_s16_mve(int16_t *out, const int16_t *q, const int8_t *keys, const int8_t *values, int16_t *scores,
                          int32_t length, const mg_attention_t *attention);
void mg_swiglu_s16_mve(int16_t *y, const int16_t *gate, const int16_t *up, int32_t n, int32_t gate_frac,
                       int32_t shift);

#endif
