/* Values in 4 bits, and attention over them. A value is code * step in units of an int8 code: codes in [-7, 7], and a
 * step in [1, 18] for each MG_VALUES4_GROUP channels (the last group may be shorter), so that a group's peak is about
 * 7 codes, whatever its size. */
#include "attention.h"

/* x / step to the nearest code, half up; what is divided is not negative. */
static int32_t code4(int32_t x, int32_t step)
{
    const int32_t largest = 7 * step;
    const int32_t inside = (x > largest) ? largest : (x < -largest) ? -largest : x;
    return (2 * (inside + largest) + step) / (2 * step) - 7;
}

void mg_values4_s16(int8_t *ring, int32_t slot, const int16_t *x, int32_t n)
{
    int8_t *codes = ring + slot * MG_VALUES4_BYTES(n);
    int8_t *steps = codes + n / 2;

    for (int32_t start = 0; start < n; start += MG_VALUES4_GROUP) {
        const int32_t end = (n - start < MG_VALUES4_GROUP) ? n : start + MG_VALUES4_GROUP;
        int32_t peak = 1;
        for (int32_t i = start; i < end; i++) {
            const int32_t magnitude = (x[i] < 0) ? -x[i] : x[i];
            peak = (magnitude > peak) ? magnitude : peak;
        }
        const int32_t step = (peak > 7 * 18) ? 18 : (peak + 6) / 7; /* 127 / 18 is 7, rounded */
        *steps++ = (int8_t)step;
        for (int32_t i = start; i < end; i += 2) {
            const int32_t even = code4(x[i], step);
            const int32_t odd = code4(x[i + 1], step);
            *codes++ = (int8_t)((even & 15) | (odd * 16));
        }
    }
}

void mg_attention4_s16(int16_t *out, const int16_t *q, const int8_t *keys, const int8_t *values, int16_t *scores,
                       int32_t length, const mg_attention_t *attention)
{
    const int32_t head_dim = attention->head_dim;
    const int32_t kv_dim = attention->n_kv_heads * head_dim;
    const int32_t group = attention->n_heads / attention->n_kv_heads;

    for (int32_t head = 0; head < attention->n_heads; head++) {
        const int32_t kv = (head / group) * head_dim;
        const int32_t best = mg_score(scores, q + head * head_dim, keys + kv, length, kv_dim, attention);
        const uint32_t total = mg_weigh(scores, length, best, attention->drop);
        const int32_t bits = mg_bit_length(total);
        const int64_t reciprocal = mg_reciprocal(total, bits);
        const int32_t shift = 15 + bits - 8; /* to Q8 of a V code */

        for (int32_t i = kv; i < kv + head_dim; i += 2) {
            const int8_t *v = values + i / 2;
            const int32_t to_step = kv_dim / 2 + i / MG_VALUES4_GROUP - i / 2;
            int32_t even = 0; /* |acc| <= total * 7 * 18 < 2^31, by the choice of drop for 127 */
            int32_t odd = 0;
            for (int32_t t = 0; t < length; t++) {
                const int32_t weight = scores[t] * v[to_step];
                even += weight * (((*v & 15) ^ 8) - 8);
                odd += weight * (*v >> 4);
                v += MG_VALUES4_BYTES(kv_dim);
            }
            int16_t *o = out + head * head_dim + i - kv;
            o[0] = (int16_t)mg_saturate_s16(mg_round_shift_s64(even * reciprocal, shift));
            o[1] = (int16_t)mg_saturate_s16(mg_round_shift_s64(odd * reciprocal, shift));
        }
    }
}
