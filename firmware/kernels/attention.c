/* Grouped-query attention of one token over the int8 KV ring. Keys and values are taken in ring order: softmax and
 * its weighted sum do not depend on it. The division by the sum of weights is deferred to the end (one reciprocal per
 * head), so weights stay unnormalised Q(15 - drop) numbers. */
#include "fixedpoint.h"
#include "kernels.h"
#include "tables.h"

/* Distances that the table of weights has; beyond them, a weight rounds to nothing. */
enum { MG_EXP2_SIZE = 1024 };

/* scores [length] = q . keys in 1/64 octaves; returns the largest. |q . k| <= head_dim * 2^15 * 127 <= 2^30 for
 * head_dim <= 256, so that half of 2^30 may be added. */
static int32_t score(int16_t *scores, const int16_t *q, const int8_t *keys, int32_t length, int32_t stride,
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
static uint32_t weigh(int16_t *scores, int32_t length, int32_t best, int32_t drop)
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

void mg_attention_s16(int16_t *out, const int16_t *q, const int8_t *keys, const int8_t *values, int16_t *scores,
                      int32_t length, const mg_attention_t *attention)
{
    const int32_t head_dim = attention->head_dim;
    const int32_t stride = attention->n_kv_heads * head_dim;
    const int32_t group = attention->n_heads / attention->n_kv_heads;

    for (int32_t head = 0; head < attention->n_heads; head++) {
        const int32_t kv = (head / group) * head_dim;
        const int32_t best = score(scores, q + head * head_dim, keys + kv, length, stride, attention);
        const uint32_t total = weigh(scores, length, best, attention->drop);

        /* total as a 16-bit mantissa in [2^15, 2^16); its reciprocal has 17 bits */
        const int32_t bits = mg_bit_length(total);
        const uint32_t mantissa = (bits <= 16) ? total << (16 - bits) : total >> (bits - 16);
        const int64_t reciprocal = (int64_t)((1u << 31) / mantissa);
        const int32_t shift = 15 + bits - 8; /* to Q8 of a V code */

        for (int32_t i = 0; i < head_dim; i += 2) {
            const int8_t *v = values + kv + i;
            int32_t even = 0; /* |acc| <= total * 127 < 2^31, by the choice of drop */
            int32_t odd = 0;
            for (int32_t t = 0; t < length; t++) {
                even += scores[t] * v[0];
                odd += scores[t] * v[1];
                v += stride;
            }
            int16_t *o = out + head * head_dim + i;
            o[0] = (int16_t)mg_saturate_s16(mg_round_shift_s64(even * reciprocal, shift));
            o[1] = (int16_t)mg_saturate_s16(mg_round_shift_s64(odd * reciprocal, shift));
        }
    }
}
