/* Grouped-query attention of one token, by the words of the rings; the loops are assembly. */
#include "fixedpoint.h"
#include "kernels_v6m.h"
#include "tables.h"

int32_t mg_scores_v6m(int16_t *scores, const int16_t *q, const int8_t *keys, const int32_t *shape);
uint32_t mg_weigh_v6m(int16_t *scores, int32_t length, int32_t best, const uint16_t *table);
void mg_values_v6m(int16_t *out, const int8_t *values, const int16_t *weights, const int32_t *shape);
void mg_values4_v6m(int16_t *out, const int8_t *values, const int16_t *weights, const int32_t *shape);
uint32_t mg_divide_v6m(uint32_t remainder, uint32_t divisor, int32_t bits);

enum { EXP2_SIZE = 1024 };

/* mg_weigh_v6m with weights in Q(15 - drop). A sum of fewer than 10 bits, of a context so long that weights dropped
 * many, is made one of 10 by doubling all weights: their ratio to the sum is what counts, and no bit of it changes.
 * */
static uint32_t weigh_dropped(int16_t *scores, int32_t length, int32_t best, int32_t drop)
{
    uint32_t total = 0;
    for (int32_t t = 0; t < length; t++) {
        const int32_t distance = best - scores[t];
        const int32_t weight = (distance < EXP2_SIZE) ? mg_round_shift_s32(mg_exp2_q15[distance], drop) : 0;
        scores[t] = (int16_t)weight;
        total += (uint32_t)weight;
    }
    for (; total < 512u; total *= 2u) {
        for (int32_t t = 0; t < length; t++) {
            scores[t] = (int16_t)(scores[t] * 2);
        }
    }
    return total;
}

/* Bits of a total, 10 to 25. */
static int32_t bits_of(uint32_t total)
{
    int32_t bits = 25;
    for (; (total >> 24) == 0u; total <<= 1) {
        bits--;
    }
    return bits;
}

/* out [head_dim] where channels lie across words: a head's first word may begin with another's channels, and its last
 * one end so. first: the head's first channel. */
static void across_words(int16_t *out, const int8_t *values, const int16_t *weights, const int32_t *sums,
                         int32_t first, int32_t head_dim)
{
    for (int32_t channel = first & ~3; channel < first + head_dim; channel += 4) {
        int16_t four[4];
        mg_values4_v6m(four, values + channel, weights, sums);
        for (int32_t i = 0; i < 4; i++) {
            if (channel + i >= first && channel + i < first + head_dim) {
                out[channel + i - first] = four[i];
            }
        }
    }
}

void mg_attention_s16_v6m(int16_t *out, const int16_t *q, const int8_t *keys, const int8_t *values, int16_t *scores,
                          int32_t length, const mg_attention_t *attention)
{
    const int32_t head_dim = attention->head_dim;
    const int32_t kv_dim = attention->n_kv_heads * head_dim;
    const int32_t shape[4] = {length, head_dim, attention->shift, 4 * (kv_dim - head_dim)};
    int32_t sums[5] = {length, (kv_dim + 3) & ~3, 0, 0, 0};
    int32_t first = 0; /* the KV head's first channel */
    int32_t group = 0; /* query heads of a KV head; here a division would be a call */
    for (int32_t heads = attention->n_heads; heads > 0; heads -= attention->n_kv_heads) {
        group++;
    }

    for (int32_t head = 0, member = 0; head < attention->n_heads; head++) {
        const int32_t best = mg_scores_v6m(scores, q, keys + 4 * first, shape);
        const uint32_t total = (attention->drop == 0) ? mg_weigh_v6m(scores, length, best, mg_exp2_q15)
                                                      : weigh_dropped(scores, length, best, attention->drop);
        const int32_t bits = bits_of(total);
        const uint32_t mantissa = (bits <= 16) ? total << (16 - bits) : total >> (bits - 16);
        sums[2] = (int32_t)total;
        sums[3] = (int32_t)mg_divide_v6m(1u << 14, mantissa, 17); /* 2^31 / mantissa */
        sums[4] = bits;
        if ((head_dim & 3) != 0) {
            across_words(out, values, scores, sums, first, head_dim);
        } else {
            int32_t i = 0;
            for (; i + 8 <= head_dim; i += 8) {
                mg_values_v6m(out + i, values + first + i, scores, sums);
            }
            if (i < head_dim) {
                mg_values4_v6m(out + i, values + first + i, scores, sums);
            }
        }
        out += head_dim;
        q += head_dim;
        member++;
        if (member == group) {
            member = 0;
            first += head_dim;
        }
    }
}
