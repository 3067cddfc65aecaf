/* The kernels for RV32IM(C), where they are not the portable ones: contracts as in ../kernels.h, but for two layouts.
 *
 * Codes that feed a matrix: per 4 of them, a quad, 16 bytes of factors (gemv_s8_rv32.S and gemv_s4_rv32.S say why):
 *     int16 a0, a1 - 2^8 a0, a2, a3 - 2^8 a2; int32 c; int16 a2 - 2^4 a0, a3 - 2^4 a1
 *     c = -128 (1 + 2^16) (a0 + a1 + a2 + a3) + 2^15, mod 2^32, plus 1 where |a0| + |a1| + |a2| + |a3| > 258
 * that is an int32 per code, padded to whole quads with codes 0: a token's codes are 4 * quads words apart.
 * Matrices: as mcugen/packing/rv32.py packs them, 4-byte aligned. Rings lie as they are counted. */
#ifndef MG_KERNELS_RV32_H
#define MG_KERNELS_RV32_H

#include "kernels.h"

void mg_block_s8_rv32(int32_t *codes, mg_scale_t *scale, const int16_t *x, int32_t n);

void mg_embed_s16_rv32(int16_t *y, int32_t token, const mg_linear_t *table);

void mg_linear_s16_rv32(int16_t *y, const int32_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w);
void mg_linear_s32_rv32(int32_t *y, const int32_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w);
void mg_linear_s8_rv32(int8_t *ring, int32_t slot, const int32_t *x, const mg_scale_t *scale, int32_t tokens,
                       const mg_linear_t *w);
void mg_linear_add_s16_rv32(int16_t *y, const int16_t *residual, const int32_t *x, const mg_scale_t *scale,
                            int32_t tokens, const mg_linear_t *w);
void mg_linear4_s16_rv32(int16_t *y, const int32_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w);
void mg_linear4_s8_rv32(int8_t *ring, int32_t slot, const int32_t *x, const mg_scale_t *scale, int32_t tokens,
                        const mg_linear_t *w);
void mg_linear4_add_s16_rv32(int16_t *y, const int16_t *residual, const int32_t *x, const mg_scale_t *scale,
                             int32_t tokens, const mg_linear_t *w);

void mg_rmsnorm_s16_rv32(int16_t *y, const int16_t *x, const mg_norm_t *norm);
void mg_swiglu_s16_rv32(int16_t *y, const int16_t *gate, const int16_t *up, int32_t n, int32_t gate_frac,
                        int32_t shift);

/* scores [2][length]. */
void mg_attention_s16_rv32(int16_t *out, const int16_t *q, const int8_t *keys, const int8_t *values, int16_t *scores,
                           int32_t length, const mg_attention_t *attention);

/* Parts of attention for two heads: score_8_rv32.S, weigh_rv32.S, average_8_rv32.S. */
void mg_score_8_rv32(int16_t *scores, int32_t *best, const int16_t *q, const int8_t *keys, int32_t length,
                     int32_t stride, int32_t shift);
void mg_weigh_rv32(int16_t *scores, int32_t *best, int32_t length, int32_t drop);
void mg_average_8_rv32(int32_t *sums, const int16_t *weights, const int8_t *values, int32_t length, int32_t stride);

/* acc [16 * blocks] = w . x for int8 and int4 weights: gemv_s8_rv32.S, gemv_s4_rv32.S. */
void mg_gemv_s8_rv32(int32_t *acc, const uint32_t *w, const int32_t *x, int32_t quads, int32_t blocks);
void mg_gemv_s4_rv32(int32_t *acc, const uint32_t *w, const int32_t *x, int32_t quads, int32_t blocks, int32_t chunk,
                     int32_t grouped);

#endif
