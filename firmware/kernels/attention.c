/* Grouped-query attention of one token over the int8 KV ring. Keys and values are taken in ring order: softmax and
 * its weighted sum do not depend on it. The division by the sum of weights is deferred to the end (one reciprocal per
 * head), so weights stay unnormalised Q(15 - drop) numbers. */
#include "attention.h"

void mg_attention_s16(int16_t *out, const int16_t *q, const int8_t *keys, const int8_t *values, int16_t *scores,
                      int32_t length, const mg_attention_t *attention)
{
    const int32_t head_dim = attention->head_dim;
    const int32_t stride = attention->n_kv_heads * head_dim;
    const int32_t group = attention->n_heads / attention->n_kv_heads;

    for (int32_t head = 0; head < attention->n_heads; head++) {
        const int32_t kv = (head / group) * head_dim;
        const int32_t best = mg_score(scores, q + head * head_dim, keys + kv, length, stride, attention);
        const uint32_t total = mg_weigh(scores, length, best, attention->drop);

        const int32_t bits = mg_bit_length(total);
        const int64_t reciprocal = mg_reciprocal(total, bits);
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
