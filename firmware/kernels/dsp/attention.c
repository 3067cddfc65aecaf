/* Grouped-query attention of one token over the int8 KV ring, by the arithmetic of ../attention.c. Query heads that
 * share keys and values are taken two at a time, and then one; heads whose size is no multiple of 8, and a context
 * beyond 8256 slots, go by the plain loops. A model with just pairs of them, or with one each, calls a function of its
 * own, so that the other's loops need not be linked. */
#include "attention_dsp.h"

#include "fixedpoint.h"
#include "kernels_dsp.h"
#include "tables_dsp.h"

enum {
    EXP2_SIZE = 1024,
    DROP_MAX = 4 /* of the fast loops: the best weight is 2^11 at least, and so is the total */
};

/* factor = 2^32 / 2^(7 + bits) * reciprocal, by which a sum becomes Q8 of a V code: bits is the length of total, in
 * [1, 25], and the reciprocal that of total as a mantissa in [2^15, 2^16). At most 2^30 where total >= 2^10. */
static int32_t factor_of(uint32_t total)
{
    const uint32_t bits = 32u - (uint32_t)__builtin_clz(total);
    const uint32_t mantissa = (bits <= 16u) ? total << (16u - bits) : total >> (bits - 16u);
    return (int32_t)(((1u << 31) / mantissa) << (25u - bits));
}

/* One head in plain loops: score, weigh, average, as ../attention.c explains. */
static void plain(int16_t *out, const int16_t *q, const int8_t *keys, const int8_t *values, int16_t *scores,
                  int32_t length, int32_t stride, const mg_attention_t *attention)
{
    int32_t best = INT16_MIN;
    for (int32_t t = 0; t < length; t++) {
        const int8_t *key = keys + t * stride;
        int32_t acc = 0;
        for (int32_t i = 0; i < attention->head_dim; i++) {
            acc += q[i] * key[i];
        }
        const int32_t rounded = mg_saturate_s16(mg_round_shift_s32(acc, attention->shift));
        scores[t] = (int16_t)rounded;
        best = (rounded > best) ? rounded : best;
    }
    uint32_t total = 0;
    for (int32_t t = 0; t < length; t++) {
        const int32_t distance = best - scores[t];
        const int32_t weight = (distance < EXP2_SIZE) ? mg_exp2_reversed_q15[EXP2_SIZE - distance] : 0;
        scores[t] = (int16_t)mg_round_shift_s32(weight, attention->drop);
        total += (uint32_t)scores[t];
    }
    const int32_t bits = 32 - __builtin_clz(total);
    const uint32_t mantissa = (bits <= 16) ? total << (16 - bits) : total >> (bits - 16);
    const int64_t reciprocal = (int64_t)((1u << 31) / mantissa);
    for (int32_t i = 0; i < attention->head_dim; i++) {
        const int8_t *value = values + (i >> 1) * 4 + (i & 1);
        int32_t acc = 0; /* |acc| <= total * 127 < 2^31 */
        for (int32_t t = 0; t < length; t++) {
            acc += scores[t] * value[(t >> 1) * 2 * stride + (t & 1) * 2];
        }
        out[i] = (int16_t)mg_saturate_s16(mg_round_shift_s64(acc * reciprocal, 7 + bits));
    }
}

/* pairs, singles: whether query heads may be left for either, which is known where this is compiled. */
static inline __attribute__((always_inline)) void attend(int16_t *out, const int16_t *q, const int8_t *keys,
                                                         const int8_t *values, int16_t *scores, int32_t length,
                                                         const mg_attention_t *attention, int32_t pairs,
                                                         int32_t singles)
{
    const int32_t head_dim = attention->head_dim;
    const int32_t stride = attention->n_kv_heads * head_dim;
    const int32_t group = attention->n_heads / attention->n_kv_heads;
    const int32_t shift = attention->shift;
    const int32_t fast = ((head_dim & 7) == 0) && (shift >= 2) && (attention->drop <= DROP_MAX);
    const mg_heads_t heads = {length, stride, head_dim, (int32_t)(1u << (32 - shift)),
                              (uint64_t)1 << ((shift < 13) ? 2 * shift + 13 : 39)};
    uint32_t total[2];
    int32_t factor[2];

    for (int32_t kv = 0; kv < attention->n_kv_heads; kv++) {
        for (int32_t left = group; left > 0;) {
            if (fast && pairs && (left > 1)) {
                mg_scores_of_two_dsp(scores, q, keys, &heads, out);
                mg_weigh_two_dsp(scores, length, attention->drop, total);
                factor[0] = factor_of(total[0]);
                factor[1] = factor_of(total[1]);
                mg_average_two_dsp(out, scores, values, &heads, factor);
                out += head_dim;
                q += head_dim;
                left--;
            } else if (fast && singles) {
                mg_scores_of_one_dsp(scores, q, keys, &heads, out);
                mg_weigh_one_dsp(scores, length, attention->drop, total);
                factor[0] = factor_of(total[0]);
                mg_average_one_dsp(out, scores, values, &heads, factor);
            } else {
                plain(out, q, keys, values, scores, length, stride, attention);
            }
            out += head_dim;
            q += head_dim;
            left--;
        }
        keys += head_dim;
        values += 2 * head_dim;
    }
}

void mg_attention_s16_dsp(int16_t *out, const int16_t *q, const int8_t *keys, const int8_t *values, int16_t *scores,
                          int32_t length, const mg_attention_t *attention)
{
    attend(out, q, keys, values, scores, length, attention, 1, 1);
}

void mg_attention_pairs_s16_dsp(int16_t *out, const int16_t *q, const int8_t *keys, const int8_t *values,
                                int16_t *scores, int32_t length, const mg_attention_t *attention)
{
    attend(out, q, keys, values, scores, length, attention, 1, 0);
}

void mg_attention_singles_s16_dsp(int16_t *out, const int16_t *q, const int8_t *keys, const int8_t *values,
                                  int16_t *scores, int32_t length, const mg_attention_t *attention)
{
    attend(out, q, keys, values, scores, length, attention, 0, 1);
}
