/* What attention over int8 keys and values and over int8 keys and int4 values share. */
#ifndef MG_ATTENTION_H
#define MG_ATTENTION_H

#include "fixedpoint.h"
#include "kernels.h"
#include "tables.h"

/* Distances that the table of weights has; beyond them, a weight rounds to nothing. */
enum { MG_EXP2_SIZE = 1024 };

/* scores [length] = q . keys in 1/64 octaves; returns the largest. |q . k| <= head_dim * 2^15 * 127 <= 2^30 for
 * head_dim <= 256, so that half of 2^30 may be added. */
static inline int32_t mg_score(int16_t *scores, const int16_t *q, const int8_t *keys, int32_t length, int32_t stride,
                               const mg_attention_t *attention)
{
    int32_t best = INT16_MIN;
    for (int32_t t = 0; t < length; t++) {
        int32_t acc = 0;
        for (int32_t i = 0; i < attention->head_dim; i += 2) {
            acc += q[i] * keys[i];
            acc += q[i + 1] * keys[i + 1];
        }
        const int32_t rounded = mg_saturate_s16(mg_round_shift_s32(acc, attention->shift));
        scores[t] = (int16_t)rounded;
        best = (rounded > best) ? rounded : best;
        keys += stride;
    }
    return best;
}

/* Replace scores [length] by their weights 2^-(distance / 64) in Q(15 - drop); returns the sum, which mcugen keeps
 * below 2^25. */
static inline uint32_t mg_weigh(int16_t *scores, int32_t length, int32_t best, int32_t drop)
{
    uint32_t total = 0;
    for (int32_t t = 0; t < length; t++) {
        const int32_t distance = best - scores[t]; /* [0, 2^16) */
        const int32_t weight = (distance < MG_EXP2_SIZE) ? mg_round_shift_s32(mg_exp2_q15[distance], drop) : 0;
        scores[t] = (int16_t)weight;
        total += (uint32_t)weight;
    }
    return total;
}

/* 2^31 / mantissa, where total = mantissa * 2^(bits - 16): the mantissa lies in [2^15, 2^16), the result has 17 bits. */
static inline int64_t mg_reciprocal(uint32_t total, int32_t bits)
{
    return (int64_t)((1u << 31) / ((bits <= 16) ? total << (16 - bits) : total >> (bits - 16)));
}

#endif
