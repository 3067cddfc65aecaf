/* Grouped-query attention of one token, by the words of the rings; the loops are assembly. Two query heads of a group
 * share the words. */
#include "fixedpoint.h"
#include "kernels_v7m.h"
#include "tables.h"

void mg_scores_v7m(int16_t *scores, const int16_t *q, const int8_t *keys, const int32_t *shape, int32_t *best);
void mg_scores_pair_v7m(int16_t *scores, const int16_t *q, const int8_t *keys, const int32_t *shape, int32_t *best);
void mg_weigh_v7m(uint32_t *total, int16_t *scores, int32_t pairs, const int32_t *best, const uint16_t *table);
void mg_values_v7m(int16_t *out, const int8_t *values, const int16_t *weights, const int32_t *shape);
void mg_values4_v7m(int16_t *out, const int8_t *values, const int16_t *weights, const int32_t *shape);
void mg_values_pair_v7m(int16_t *out, const int8_t *values, const int16_t *weights, const int32_t *shape,
                        int16_t *out_of_second);

enum { EXP2_SIZE = 1024, LEAST_TOTAL = 1024 };

/* What the assembly calls shape: of one head, or of two. */
typedef struct {
    int32_t length;
    int32_t bytes; /* from slot to slot */
    int32_t total;
    int32_t reciprocal;
    int32_t second_total;
    int32_t second_reciprocal;
} sums_t;

/* The weight of a score in Q(15 - drop); `step` is the way to the next score of the head. A sum of fewer than 11
 * bits, of a context so long that weights dropped many, is made one of 11 by doubling all weights: their ratio to the
 * sum is what counts, and no bit of it changes. */
static uint32_t weigh_dropped(int16_t *scores, int32_t length, int32_t step, int32_t best, int32_t drop)
{
    uint32_t total = 0;
    for (int32_t t = 0; t < length * step; t += step) {
        const int32_t distance = best - scores[t];
        const int32_t weight = (distance < EXP2_SIZE) ? mg_round_shift_s32(mg_exp2_q15[distance], drop) : 0;
        scores[t] = (int16_t)weight;
        total += (uint32_t)weight;
    }
    for (; total < LEAST_TOTAL; total *= 2u) {
        for (int32_t t = 0; t < length * step; t += step) {
            scores[t] = (int16_t)(scores[t] * 2);
        }
    }
    return total;
}

/* The last score of an odd number, to its weight. */
static uint32_t weigh_last(int16_t *score, int32_t best)
{
    const int32_t distance = best - *score;
    const uint32_t weight = (distance < EXP2_SIZE) ? mg_exp2_q15[distance] : 0u;
    *score = (int16_t)weight;
    return weight;
}

/* 2^31 / mantissa, in (2^15, 2^16], times 2^(25 - bits), for a total with 11 to 25 bits. */
static int32_t reciprocal_of(uint32_t total)
{
    const int32_t zeros = 32 - mg_bit_length(total);
    const uint32_t mantissa = (total << zeros) >> 16;
    return (int32_t)(((1u << 31) / mantissa) << (zeros - 7));
}

/* out [head_dim] where channels lie across words: a head's first word may begin with another's channels, and its last
 * one end so. first: the head's first channel. */
static void across_words(int16_t *out, const int8_t *values, const int16_t *weights, const sums_t *sums,
                         int32_t first, int32_t head_dim)
{
    for (int32_t channel = first & ~3; channel < first + head_dim; channel += 4) {
        int16_t four[4];
        mg_values4_v7m(four, values + channel, weights, &sums->length);
        for (int32_t i = 0; i < 4; i++) {
            if (channel + i >= first && channel + i < first + head_dim) {
                out[channel + i - first] = four[i];
            }
        }
    }
}

/* One query head; shape: as mg_scores_v7m has it. first: its KV head's first channel. */
static void one_head(int16_t *out, const int16_t *q, const int8_t *keys, const int8_t *values, int16_t *scores,
                     const int32_t *shape, sums_t *sums, int32_t first, int32_t drop)
{
    const int32_t length = shape[0];
    const int32_t head_dim = shape[1];
    int32_t best[2];
    uint32_t total[2] = {0, 0};
    mg_scores_v7m(scores, q, keys + 4 * first, shape, best);
    if (drop == 0) {
        best[1] = best[0];
        if (length > 1) {
            mg_weigh_v7m(total, scores, length >> 1, best, mg_exp2_q15);
        }
        total[0] += total[1];
        if ((length & 1) != 0) {
            total[0] += weigh_last(scores + length - 1, best[0]);
        }
    } else {
        total[0] = weigh_dropped(scores, length, 1, best[0], drop);
    }
    sums->total = (int32_t)total[0];
    sums->reciprocal = reciprocal_of(total[0]);
    if ((head_dim & 3) != 0) {
        across_words(out, values, scores, sums, first, head_dim);
        return;
    }
    int32_t i = 0;
    for (; i + 8 <= head_dim; i += 8) {
        mg_values_v7m(out + i, values + first + i, scores, &sums->length);
    }
    if (i < head_dim) {
        mg_values4_v7m(out + i, values + first + i, scores, &sums->length);
    }
}

/* Two neighbouring query heads of one KV head; head_dim is a multiple of 4. */
static void two_heads(int16_t *out, const int16_t *q, const int8_t *keys, const int8_t *values, int16_t *scores,
                      const int32_t *shape, sums_t *sums, int32_t first, int32_t drop)
{
    const int32_t length = shape[0];
    const int32_t head_dim = shape[1];
    int32_t best[2];
    uint32_t total[2];
    mg_scores_pair_v7m(scores, q, keys + 4 * first, shape, best);
    if (drop == 0) {
        mg_weigh_v7m(total, scores, length, best, mg_exp2_q15);
    } else {
        total[0] = weigh_dropped(scores, length, 2, best[0], drop);
        total[1] = weigh_dropped(scores + 1, length, 2, best[1], drop);
    }
    sums->total = (int32_t)total[0];
    sums->reciprocal = reciprocal_of(total[0]);
    sums->second_total = (int32_t)total[1];
    sums->second_reciprocal = reciprocal_of(total[1]);
    for (int32_t i = 0; i < head_dim; i += 4) {
        mg_values_pair_v7m(out + i, values + first + i, scores, &sums->length, out + head_dim + i);
    }
}

void mg_attention_s16_v7m(int16_t *out, const int16_t *q, const int8_t *keys, const int8_t *values, int16_t *scores,
                          int32_t length, const mg_attention_t *attention)
{
    const int32_t head_dim = attention->head_dim;
    const int32_t kv_dim = attention->n_kv_heads * head_dim;
    const int32_t group = attention->n_heads / attention->n_kv_heads;
    const int32_t shape[4] = {length, head_dim, attention->shift, 4 * (kv_dim - head_dim)};
    sums_t sums = {length, (kv_dim + 3) & ~3, 0, 0, 0, 0};
    for (int32_t first = 0; first < kv_dim; first += head_dim) {
        for (int32_t member = 0, heads; member < group; member += heads) {
            heads = (member + 2 <= group && (head_dim & 3) == 0) ? 2 : 1;
            if (heads == 2) {
                two_heads(out, q, keys, values, scores, shape, &sums, first, attention->drop);
            } else {
                one_head(out, q, keys, values, scores, shape, &sums, first, attention->drop);
            }
            out += heads * head_dim;
            q += heads * head_dim;
        }
    }
}
