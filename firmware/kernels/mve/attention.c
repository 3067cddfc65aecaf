/* Grouped-query attention of one token, as in attention.c. Two query heads of a group at a time share the loads of keys
 * and values, the odd one goes alone. The loops are in attend_mve.S; layouts: kernels_mve.h. */
#include "kernels_mve.h"
#include "vectors_mve.h"

/* The keys of one head: octets of channels. Where head_dim is no multiple of 8, the first octet may begin, and the last
 * may end, with channels of another head. */
typedef struct {
    const int8_t *keys; /* slot 0 of the first octet */
    int32_t unit;       /* bytes from unit to unit */
    int32_t octets;
    int32_t down;       /* -shift */
    int32_t head_bytes; /* of a head of q */
} mg_keys_t;

/* What becomes of a head's weighted values; [1] belongs to a second head. unit: bytes from unit to unit; row: bytes of
 * its weights; head_bytes: of its output; steps: fours of channels with two heads, eights with one. */
typedef struct {
    int32_t unit;
    int32_t row;
    int32_t head_bytes;
    int32_t steps;
    int32_t factor[2];
    int32_t up[2];
} mg_sum_t;

void mg_score_octet_mve(int16_t *scores, int32_t row, const int16_t *q, const mg_keys_t *head, int32_t fours);
void mg_score_two_mve(int16_t *scores, int32_t row, const int16_t *q, const mg_keys_t *head, int32_t fours);
void mg_score_one_mve(int16_t *scores, int32_t row, const int16_t *q, const mg_keys_t *head, int32_t eights);
uint32_t mg_weigh_mve(int16_t *scores, int32_t length, int32_t drop);
void mg_sum_two_mve(int16_t *out, const int8_t *values, const int16_t *weights, const mg_sum_t *sum);
void mg_sum_one_mve(int16_t *out, const int8_t *values, const int16_t *weights, const mg_sum_t *sum);

/* For round(acc * reciprocal / 2^(7 + bits)), to Q8 of a V code: the reciprocal of a sum of weights of `bits` bits,
 * normalised to [2^15, 2^16), has 17. |acc| <= total * 127 < 2^(bits + 7) <= 2^31 is shifted up, and so is the
 * reciprocal, by 25 - bits together, so that the upper word of their product is rounded where it must be: up to 14 bits
 * for the reciprocal, to 2^30; the rest, at most 11 - bits, leaves acc below 2^18. */
static void set_scale(mg_sum_t *sum, int32_t head, uint32_t total)
{
    const int32_t bits = 32 - __builtin_clz(total);
    const uint32_t mantissa = (total << (32 - bits)) >> 16;
    const int32_t up = (bits < 11) ? 11 - bits : 0;
    sum->factor[head] = (int32_t)(((1u << 31) / mantissa) << (25 - bits - up));
    sum->up[head] = up;
}

/* Scores of one head whose octets hold other heads' channels, too: the query is 0 there. skipped: channels of the first
 * octet that are another head's. */
static void score_ragged(int16_t *scores, const int16_t *q, const mg_keys_t *head, int32_t skipped, int32_t head_dim,
                         int32_t length)
{
    for (int32_t slot = 0; slot < length; slot++) {
        const int8_t *keys = head->keys + (slot / MG_UNIT) * head->unit + (slot % MG_UNIT) * MG_OCTET;
        int32_t acc = 0; /* <= 2^30 */
        for (int32_t first = -skipped; first < head_dim; first += MG_OCTET) {
            const mve_pred16_t before = vctp16q((uint32_t)((first < 0) ? -first : 0));
            const mve_pred16_t inside = vctp16q((uint32_t)(head_dim - first));
            const int16x8_t eight = vldrhq_z_s16(q + first, (mve_pred16_t)(inside & ~before));
            acc = vmladavaq_s16(acc, vldrbq_s16(keys), eight);
            keys += MG_UNIT * MG_OCTET;
        }
        const int32x4_t rounded = vrshlq_n_s32(vdupq_n_s32(acc), head->down);
        scores[slot] = vgetq_lane_s16(vqmovnbq_s32(vreinterpretq_s16_s32(rounded), rounded), 0);
    }
}

/* Two channels of one head: what is left of a head_dim. */
static void sum_pair(int16_t *out, const int8_t *values, const int16_t *weights, const mg_sum_t *sum)
{
    int32_t a = 0;
    int32_t b = 0;
    for (int32_t slot = 0; slot < sum->row / 2; slot += MG_UNIT / 2) {
        const int16x8_t p = vldrhq_s16(weights + slot);
        const int8_t *from = values + (slot / MG_UNIT) * sum->unit + slot % MG_UNIT;
        a = vmladavaq_s16(a, vldrbq_s16(from), p);
        b = vmladavaq_s16(b, vldrbq_s16(from + MG_UNIT), p);
    }
    const int32x4_t sums = {a, b, 0, 0};
    const int32x4_t two = vrmulhq_s32(vshlq_r_s32(sums, sum->up[0]), vdupq_n_s32(sum->factor[0]));
    vstrhq_p_s32(out, vreinterpretq_s32_s16(vqmovnbq_s32(vreinterpretq_s16_s32(two), two)), vctp32q(2u));
}

/* Two heads of whole octets. */
static void attend_two(int16_t *out, const int16_t *q, const mg_keys_t *head, const int8_t *values, mg_sum_t *sum,
                       int16_t *scores, int32_t length, int32_t drop)
{
    const int32_t fours = (length + 3) >> 2;
    if (head->octets == 1) {
        mg_score_octet_mve(scores, sum->row, q, head, fours);
    } else {
        mg_score_two_mve(scores, sum->row, q, head, fours);
    }
    set_scale(sum, 0, mg_weigh_mve(scores, length, drop));
    set_scale(sum, 1, mg_weigh_mve(scores + sum->row / 2, length, drop));
    sum->steps = 2 * head->octets;
    mg_sum_two_mve(out, values, scores, sum);
}

/* One head of any even number of channels. */
static void attend_one(int16_t *out, const int16_t *q, const mg_keys_t *head, const int8_t *values, mg_sum_t *sum,
                       int16_t *scores, int32_t length, const mg_attention_t *attention, int32_t channel)
{
    const int32_t head_dim = attention->head_dim;
    if ((head_dim & 7) == 0) {
        mg_score_one_mve(scores, sum->row, q, head, (length + 7) >> 3);
    } else {
        score_ragged(scores, q, head, channel & 7, head_dim, length);
    }
    set_scale(sum, 0, mg_weigh_mve(scores, length, attention->drop));
    sum->factor[1] = sum->factor[0];
    sum->up[1] = sum->up[0];
    sum->steps = head_dim >> 3;
    if (sum->steps > 0) {
        mg_sum_one_mve(out, values, scores, sum);
    }
    for (int32_t i = head_dim & ~7; i < head_dim; i += 2) {
        sum_pair(out + i, values + i * MG_UNIT, scores, sum);
    }
}

void mg_attention_s16_mve(int16_t *out, const int16_t *q, const int8_t *keys, const int8_t *values, int16_t *scores,
                          int32_t length, const mg_attention_t *attention)
{
    const int32_t head_dim = attention->head_dim;
    const int32_t kv_dim = attention->n_kv_heads * head_dim;
    const int32_t group = attention->n_heads / attention->n_kv_heads;
    const int32_t slots = (length + MG_UNIT - 1) & -MG_UNIT;
    mg_keys_t head = {
        keys, ((kv_dim + 7) & -MG_OCTET) * MG_UNIT, head_dim >> 3, -attention->shift, 2 * head_dim
    };
    mg_sum_t sum = {kv_dim * MG_UNIT, 2 * slots, 2 * head_dim, 0, {0, 0}, {0, 0}};

    for (int32_t channel = 0; channel < kv_dim; channel += head_dim) {
        head.keys = keys + (channel & -MG_OCTET) * MG_UNIT;
        int32_t left = group;
        for (; left >= 2 && (head_dim & 7) == 0; left -= 2) {
            attend_two(out, q, &head, values, &sum, scores, length, attention->drop);
            out += 2 * head_dim;
            q += 2 * head_dim;
        }
        for (; left > 0; left--) {
            attend_one(out, q, &head, values, &sum, scores, length, attention, channel);
            out += head_dim;
            q += head_dim;
        }
        values += head_dim * MG_UNIT;
    }
}
