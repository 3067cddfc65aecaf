/* Grouped-query attention of one token, as ../attention.c, for two query heads of a group at a time: they share the
 * loads of keys and values. Their scores lie side by side: scores [length][2], of a last odd head [length]. */
#include "fixedpoint.h"
#include "kernels_rv32.h"
#include "tables.h"

enum {
    EXP2_SIZE = 1024, /* distances that the table of weights has; beyond them, a weight rounds to nothing */
    DIMS = 8          /* of a head, that are taken at a time */
};

/* One sum of two heads. */
typedef struct {
    int32_t first;
    int32_t second;
} pair_t;

/* Turn a product into a score in 1/64 octaves: |product| <= head_dim * 2^15 * 127 <= 2^30, and half <= 2^29. */
static inline int32_t score_of(int32_t product, int32_t half, int32_t shift)
{
    int32_t score = (product + half) >> shift;
    if (score > INT16_MAX) {
        score = INT16_MAX;
    }
    if (score < INT16_MIN) {
        score = INT16_MIN;
    }
    return score;
}

static inline int32_t larger(int32_t a, int32_t b)
{
    if (b > a) {
        a = b;
    }
    return a;
}

/* The products of two slots with two heads of any even size, which share each load of q and k. */
static inline void dot_two_slots(pair_t *sum, const int16_t *q, const int16_t *q2, const int8_t *k, const int8_t *k2,
                                 int32_t head_dim)
{
    pair_t one = {0, 0};
    pair_t two = {0, 0};
    for (const int8_t *const end = k + head_dim; k != end; k += 2) {
        const int32_t a0 = q[0];
        const int32_t a1 = q[1];
        const int32_t b0 = q2[0];
        const int32_t b1 = q2[1];
        one.first += a0 * k[0] + a1 * k[1];
        one.second += b0 * k[0] + b1 * k[1];
        two.first += a0 * k2[0] + a1 * k2[1];
        two.second += b0 * k2[0] + b1 * k2[1];
        q += 2;
        q2 += 2;
        k2 += 2;
    }
    sum[0] = one;
    sum[1] = two;
}

/* As mg_score_8_rv32, for heads of any even size. */
static void score_pair(int16_t *scores, int32_t *best, const int16_t *q, const int8_t *keys, int32_t length,
                       int32_t stride, int32_t head_dim, int32_t shift)
{
    const int32_t half = (int32_t)1 << (shift - 1);
    pair_t sum[2];
    best[0] = INT16_MIN;
    best[1] = INT16_MIN;
    for (int32_t t = 0; t < length; t += 2) {
        const int32_t more = (t + 1 < length) ? 1 : 0; /* an odd last slot is taken twice, and written once */
        dot_two_slots(sum, q, q + head_dim, keys, keys + more * stride, head_dim);
        for (int32_t i = 0; i <= more; i++) {
            const int32_t first = score_of(sum[i].first, half, shift);
            const int32_t second = score_of(sum[i].second, half, shift);
            scores[0] = (int16_t)first;
            scores[1] = (int16_t)second;
            scores += 2;
            best[0] = larger(best[0], first);
            best[1] = larger(best[1], second);
        }
        keys += 2 * stride;
    }
}

static int32_t score_one(int16_t *scores, const int16_t *q, const int8_t *keys, int32_t length, int32_t stride,
                         int32_t head_dim, int32_t shift)
{
    const int32_t half = (int32_t)1 << (shift - 1);
    int32_t best = INT16_MIN;
    for (int32_t t = 0; t < length; t++) {
        int32_t sum = 0;
        for (int32_t i = 0; i < head_dim; i += 2) {
            sum += q[i] * keys[i] + q[i + 1] * keys[i + 1];
        }
        scores[t] = (int16_t)score_of(sum, half, shift);
        best = larger(best, scores[t]);
        keys += stride;
    }
    return best;
}

/* What divides by a head's sum of weights, which is below 2^25, 127 times it below 2^31. With its 16-bit mantissa,
 * 2^15 <= mantissa < 2^16, and reciprocal = 2^31 / mantissa <= 2^16,
 *     average = acc * reciprocal / 2^(15 + bits - 8), half up, in Q8 of a V code. */
typedef struct {
    int32_t reciprocal; /* times 2^14 */
    int32_t left;       /* |acc << left| < 2^31, because |acc| <= 127 * total and total < 2^bits */
    int32_t right;
} divisor_t;

static divisor_t divisor_of(int32_t total)
{
    const int32_t bits = mg_bit_length((uint32_t)total); /* 1 to 25 */
    const uint32_t mantissa = (bits <= 16) ? (uint32_t)total << (16 - bits) : (uint32_t)total >> (bits - 16);
    const int32_t left = (bits < 24) ? 24 - bits : 0;
    const divisor_t divisor = {(int32_t)(((1u << 31) / mantissa) << 14), left, bits - 12 + left};
    return divisor;
}

/* The upper word is acc * reciprocal * 2^(left + 14 - 32), rounded down, and `right` bits less twice the average; one
 * more, halved, is the nearest. |average| <= 127 * 2^8 * (1 + 2^-15) + 1 < 2^15: the mantissa is rounded down. */
static inline int16_t divided(int32_t acc, divisor_t divisor)
{
    const int32_t wide = (int32_t)((uint32_t)acc << divisor.left);
    const int32_t high = (int32_t)(((int64_t)wide * divisor.reciprocal) >> 32);
    return (int16_t)(((high >> divisor.right) + 1) >> 1);
}

/* Two dimensions of one head, whose weights are `step` apart. */
static void average_2(int16_t *out, const int16_t *weights, int32_t step, const int8_t *values, int32_t length,
                      int32_t stride, divisor_t divisor)
{
    int32_t even = 0; /* |acc| <= total * 127 < 2^31, by the choice of drop */
    int32_t odd = 0;
    for (const int16_t *const end = weights + step * length; weights != end; weights += step) {
        even += *weights * values[0];
        odd += *weights * values[1];
        values += stride;
    }
    out[0] = divided(even, divisor);
    out[1] = divided(odd, divisor);
}

/* Two query heads, one after the other in q and out. */
static void attend_pair(int16_t *out, const int16_t *q, const int8_t *keys, const int8_t *values, int16_t *scores,
                        int32_t length, int32_t stride, const mg_attention_t *attention)
{
    const int32_t head_dim = attention->head_dim;
    int32_t best[2];
    if (head_dim == DIMS) {
        mg_score_8_rv32(scores, best, q, keys, length, stride, attention->shift);
    } else {
        score_pair(scores, best, q, keys, length, stride, head_dim, attention->shift);
    }
    mg_weigh_rv32(scores, best, length, attention->drop);
    const divisor_t divisor[2] = {divisor_of(best[0]), divisor_of(best[1])};
    int32_t sums[2 * DIMS];
    int32_t i = 0;
    for (; i + DIMS <= head_dim; i += DIMS) {
        mg_average_8_rv32(sums, scores, values + i, length, stride);
        for (int32_t k = 0; k < DIMS; k++) {
            out[i + k] = divided(sums[k], divisor[0]);
            out[head_dim + i + k] = divided(sums[DIMS + k], divisor[1]);
        }
    }
    for (; i < head_dim; i += 2) {
        average_2(out + i, scores, 2, values + i, length, stride, divisor[0]);
        average_2(out + head_dim + i, scores + 1, 2, values + i, length, stride, divisor[1]);
    }
}

/* Replace the scores of one head by their weights, as mg_weigh_rv32 does for two; returns the sum. */
static int32_t weigh_one(int16_t *scores, int32_t length, int32_t best, int32_t drop)
{
    int32_t total = 0;
    for (int32_t t = 0; t < length; t++) {
        const int32_t distance = best - scores[t]; /* [0, 2^16) */
        const int32_t weight = (distance < EXP2_SIZE) ? mg_round_shift_s32(mg_exp2_q15[distance], drop) : 0;
        scores[t] = (int16_t)weight;
        total += weight;
    }
    return total;
}

static void attend_one(int16_t *out, const int16_t *q, const int8_t *keys, const int8_t *values, int16_t *scores,
                       int32_t length, int32_t stride, const mg_attention_t *attention)
{
    const int32_t best = score_one(scores, q, keys, length, stride, attention->head_dim, attention->shift);
    const divisor_t divisor = divisor_of(weigh_one(scores, length, best, attention->drop));
    for (int32_t i = 0; i < attention->head_dim; i += 2) {
        average_2(out + i, scores, 1, values + i, length, stride, divisor);
    }
}

void mg_attention_s16_rv32(int16_t *out, const int16_t *q, const int8_t *keys, const int8_t *values, int16_t *scores,
                           int32_t length, const mg_attention_t *attention)
{
    const int32_t head_dim = attention->head_dim;
    const int32_t stride = attention->n_kv_heads * head_dim;
    const int32_t group = attention->n_heads / attention->n_kv_heads;
    for (int32_t kv = 0; kv < attention->n_kv_heads; kv++) {
        int32_t head = 0;
        for (; head + 2 <= group; head += 2) {
            attend_pair(out, q, keys, values, scores, length, stride, attention);
            out += 2 * head_dim;
            q += 2 * head_dim;
        }
        if (head < group) {
            attend_one(out, q, keys, values, scores, length, stride, attention);
            out += head_dim;
            q += head_dim;
        }
        keys += head_dim;
        values += head_dim;
    }
}
