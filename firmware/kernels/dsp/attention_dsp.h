/* The loops of mg_attention_s16_dsp, of two query heads that share keys and values, or of one. */
#ifndef MG_ATTENTION_DSP_H
#define MG_ATTENTION_DSP_H

#include <stdint.h>

/* What the heads of a call have in common. length: slots. stride: bytes from a slot to the next, and half of those from
 * a pair of slots to the next. scale: 2^(32 - shift) of the scores. limit: of the sum of the squares of two heads of
 * eight, beyond which a score might saturate: 2^(2 * shift + 16) / 8, or what no sum reaches. */
typedef struct {
    int32_t length;
    int32_t stride;
    int32_t head_dim;
    int32_t scale;
    uint64_t limit;
} mg_heads_t;

/* scores [length] = q . keys, rounded and saturated: words of a score of either head; or halfwords of one head.
 * head_dim is a multiple of 8. scratch [heads][head_dim], may be changed. An odd length may make one score too many. */
void mg_scores_of_two_dsp(void *scores, const int16_t *q, const int8_t *keys, const mg_heads_t *heads,
                          int16_t *scratch);
void mg_scores_of_one_dsp(void *scores, const int16_t *q, const int8_t *keys, const mg_heads_t *heads,
                          int16_t *scratch);

/* Scores to weights 2^-(distance / 64) in Q(15 - drop), as words of two slots, with nothing for the slot after an odd
 * length; for every two slots one word of either head. scores may be changed up to a multiple of 8 words. total: of
 * each head. */
void mg_weigh_two_dsp(void *scores, int32_t length, int32_t drop, uint32_t *total);
void mg_weigh_one_dsp(void *scores, int32_t length, int32_t drop, uint32_t *total);

/* out [heads][head_dim] = the weighted sums of values, times factor [heads] / 2^32, rounded and saturated. */
void mg_average_two_dsp(int16_t *out, const void *weights, const int8_t *values, const mg_heads_t *heads,
                        const int32_t *factor);
void mg_average_one_dsp(int16_t *out, const void *weights, const int8_t *values, const mg_heads_t *heads,
                        const int32_t *factor);

#endif
