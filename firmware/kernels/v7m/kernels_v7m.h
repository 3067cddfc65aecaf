/* The kernels of cores with Armv7-M's instructions and no DSP extension (Cortex-M3), by the contracts of kernels.h.
 *
 * Codes of a vector are int8, padded with 0 to a multiple of 8. Weights are packed as mcugen/packing/row_digits.py
 * says. The ring of keys holds words of one channel in four slots, [slot / 4][channel], byte slot % 4; the ring of
 * values words of four channels in one slot, [slot][channel / 4], channels padded to four. In both, all but the last
 * byte of a word have the top bit turned over, so that a word is 2^24 b3 + 2^16 (b2 + 128) + 2^8 (b1 + 128) + (b0 +
 * 128), and what is left of it after a shift again such a number. */
#ifndef MG_KERNELS_V7M_H
#define MG_KERNELS_V7M_H

#include <stdint.h>

#include "kernels.h"

void mg_embed_s16_v7m(int16_t *y, int32_t token, const mg_linear_t *table);

void mg_block_s8_v7m(int8_t *codes, mg_scale_t *scale, const int16_t *x, int32_t n);

void mg_linear_s16_v7m(int16_t *y, const int8_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w);
void mg_linear_s32_v7m(int32_t *y, const int8_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w);
void mg_linear_s8_v7m(int8_t *ring, int32_t slot, const int8_t *x, const mg_scale_t *scale, int32_t tokens,
                      const mg_linear_t *w);
void mg_linear_add_s16_v7m(int16_t *y, const int16_t *residual, const int8_t *x, const mg_scale_t *scale,
                           int32_t tokens, const mg_linear_t *w);

void mg_linear4_s16_v7m(int16_t *y, const int8_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w);
void mg_linear4_s8_v7m(int8_t *ring, int32_t slot, const int8_t *x, const mg_scale_t *scale, int32_t tokens,
                       const mg_linear_t *w);
void mg_linear4_add_s16_v7m(int16_t *y, const int16_t *residual, const int8_t *x, const mg_scale_t *scale,
                            int32_t tokens, const mg_linear_t *w);

void mg_rmsnorm_s16_v7m(int16_t *y, const int16_t *x, const mg_norm_t *norm);

void mg_rope_s8_v7m(int8_t *ring, int32_t slot, const int16_t *x, int32_t position, const mg_rope_t *rope);

void mg_rebase_s8_v7m(int8_t *y, const int8_t *keys, int32_t rows, int32_t delta, const mg_rope_t *rope);

/* scores: int16 [2][length rounded up to 4], 4-byte aligned. */
void mg_attention_s16_v7m(int16_t *out, const int16_t *q, const int8_t *keys, const int8_t *values, int16_t *scores,
                          int32_t length, const mg_attention_t *attention);

void mg_swiglu_s16_v7m(int16_t *y, const int16_t *gate, const int16_t *up, int32_t n, int32_t gate_frac,
                       int32_t shift);

#endif
