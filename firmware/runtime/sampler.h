/* The next token from the logits, in integers: greedy, temperature, top-k, top-p.
 *
 * No memory beyond the logits, which are only read; no sort: the cuts are found by binary search over at most
 * 1025 distances, one pass over the logits per step. A draw takes 3 passes, top-k and top-p up to 12 more each;
 * per pass and logit one 16 x 15 bit multiplication.
 * Twin: mcugen/sampler.py, which also turns a user's temperature into these integers. */
#ifndef MG_SAMPLER_H
#define MG_SAMPLER_H

#include <stdint.h>

/* multiplier, shift: from a distance in logits (Q16 nats) to one in 1/64 octaves of probability, at the
 *   temperature wanted: ((distance >> shift) * multiplier + 2^19) >> 20.
 *   multiplier in [2^14, 2^15), or 0: greedy, and nothing below matters. shift <= 31.
 * top_k: keep the top_k likeliest tokens; 0: all.
 * top_p: Q16 in [1, 65536]; keep the likeliest tokens that together hold this share; 65536: all.
 * state: of xorshift32; never 0. */
typedef struct {
    uint32_t multiplier;
    uint32_t shift;
    uint32_t top_k;
    uint32_t top_p;
    uint32_t state;
} mg_sampler_t;

/* Start the sequence of random numbers that belongs to `seed`; any seed will do. Twin: seed_state. */
void mg_sampler_seed(mg_sampler_t *sampler, uint32_t seed);

/* Return the next token, and advance sampler->state unless the sampler is greedy.
 *   logits  [vocab_size]  int32, Q16 nats, any values; 1 <= vocab_size <= 65536
 * Equal logits: greedy takes the lowest index, top-k keeps the lowest indices.
 * Twin: sample. */
int32_t mg_sample(mg_sampler_t *sampler, const int32_t *logits, int32_t vocab_size);

#endif
