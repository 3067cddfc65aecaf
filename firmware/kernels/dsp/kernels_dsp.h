/* The kernels of cores with DSP instructions (Cortex-M4, M7, M33), by the contracts of kernels.h.
 *
 * Codes of a vector are int16, padded with zeros to a multiple of 8. Weights are packed as mcugen/packing/dsp.py says.
 * The ring of values holds pairs of slots, [slot / 2][channel / 2] words of v[t][d], v[t][d+1], v[t+1][d], v[t+1][d+1],
 * bytes from the lowest up; its number of channels is even. The ring of keys lies as it is counted. */
#ifndef MG_KERNELS_DSP_H
#define MG_KERNELS_DSP_H

#include <stdint.h>

#include "kernels.h"

void mg_embed_s16_dsp(int16_t *y, int32_t token, const mg_linear_t *table);

void mg_block_s8_dsp(int16_t *codes, mg_scale_t *scale, const int16_t *x, int32_t n);

void mg_linear_s16_dsp(int16_t *y, const int16_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w);
void mg_linear_s32_dsp(int32_t *y, const int16_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w);
void mg_linear_s8_dsp(int8_t *ring, int32_t slot, const int16_t *x, const mg_scale_t *scale, int32_t tokens,
                      const mg_linear_t *w);
void mg_linear_add_s16_dsp(int16_t *y, const int16_t *residual, const int16_t *x, const mg_scale_t *scale,
                           int32_t tokens, const mg_linear_t *w);

void mg_linear4_s16_dsp(int16_t *y, const int16_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w);
void mg_linear4_s8_dsp(int8_t *ring, int32_t slot, const int16_t *x, const mg_scale_t *scale, int32_t tokens,
                       const mg_linear_t *w);
void mg_linear4_add_s16_dsp(int16_t *y, const int16_t *residual, const int16_t *x, const mg_scale_t *scale,
                            int32_t tokens, const mg_linear_t *w);

void mg_rmsnorm_s16_dsp(int16_t *y, const int16_t *x, const mg_norm_t *norm);

void mg_rope_s16_dsp(int16_t *y, const int16_t *x, int32_t position, const mg_rope_t *rope);
void mg_rope_s8_dsp(int8_t *ring, int32_t slot, const int16_t *x, int32_t position, const mg_rope_t *rope);

/* scores: int16 [2][length rounded up to 16], 4-byte aligned. out holds the queries while scores are taken. pairs: for
 * an even number of query heads to each KV head; singles: for one. */
void mg_attention_s16_dsp(int16_t *out, const int16_t *q, const int8_t *keys, const int8_t *values, int16_t *scores,
                          int32_t length, const mg_attention_t *attention);
void mg_attention_pairs_s16_dsp(int16_t *out, const int16_t *q, const int8_t *keys, const int8_t *values,
                                int16_t *scores, int32_t length, const mg_attention_t *attention);
void mg_attention_singles_s16_dsp(int16_t *out, const int16_t *q, const int8_t *keys, const int8_t *values,
                                  int16_t *scores, int32_t length, const mg_attention_t *attention);

void mg_swiglu_s16_dsp(int16_t *y, const int16_t *gate, const int16_t *up, int32_t n, int32_t gate_frac,
                       int32_t shift);

#endif
