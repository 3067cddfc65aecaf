#include "sampler.h"

#include "tables.h"

/* A distance of 16 octaves, in 1/64 octaves: less than half a unit of weight, hence none. */
static const uint32_t FAR_AWAY = 16u * 64u;

/* The tokens that are left: every one nearer than `distance`, and the first `ties` of those just there. */
typedef struct {
    uint32_t distance;
    uint32_t ties;
} cut_t;

static int32_t argmax(const int32_t *logits, int32_t vocab_size)
{
    int32_t best = 0;
    for (int32_t i = 1; i < vocab_size; i++) {
        if (logits[i] > logits[best]) {
            best = i;
        }
    }
    return best;
}

/* How much less likely than the best token: in 1/64 octaves, at most FAR_AWAY. */
static uint32_t distance_of(const mg_sampler_t *sampler, int32_t best, int32_t logit)
{
    /* best >= logit, so the difference of any two int32 is right modulo 2^32. */
    const uint32_t steps = ((uint32_t)best - (uint32_t)logit) >> sampler->shift;
    if (steps > 0xFFFFu) { /* 2^16 * 2^14 >> 20 is FAR_AWAY already */
        return FAR_AWAY;
    }
    /* steps < 2^16 and multiplier < 2^15: the product is below 2^31, the sum below 2^32. */
    const uint32_t distance = (steps * sampler->multiplier + (1u << 19)) >> 20;
    return distance < FAR_AWAY ? distance : FAR_AWAY;
}

/* 2^(-distance / 64) in Q15, rounded: the weight of a token, at most 32767. */
static uint32_t weight_of(uint32_t distance)
{
    return distance < FAR_AWAY ? mg_exp2_q15[distance] : 0u;
}

/* How many tokens are not further away than `distance`. */
static uint32_t count_within(const mg_sampler_t *sampler, const int32_t *logits, int32_t vocab_size, int32_t best,
                             uint32_t distance)
{
    uint32_t count = 0; /* <= vocab_size */
    for (int32_t i = 0; i < vocab_size; i++) {
        count += distance_of(sampler, best, logits[i]) <= distance ? 1u : 0u;
    }
    return count;
}

/* The weight of the tokens that `cut` leaves. */
static uint32_t weight_within(const mg_sampler_t *sampler, const int32_t *logits, int32_t vocab_size, int32_t best,
                              cut_t cut)
{
    uint32_t weight = 0; /* <= 65536 * 32767 < 2^31, since vocab_size <= 65536 */
    for (int32_t i = 0; i < vocab_size; i++) {
        const uint32_t distance = distance_of(sampler, best, logits[i]);
        if (distance < cut.distance) {
            weight += weight_of(distance);
        } else if (distance == cut.distance && cut.ties > 0u) {
            weight += weight_of(distance);
            cut.ties--;
        }
    }
    return weight;
}

/* Leave the top_k likeliest; the cut is the smallest distance within which there are that many. */
static cut_t cut_top_k(const mg_sampler_t *sampler, const int32_t *logits, int32_t vocab_size, int32_t best)
{
    uint32_t low = 0;
    uint32_t high = FAR_AWAY; /* every token is within: the invariant count_within(high) >= top_k holds */
    while (low < high) {
        const uint32_t middle = (low + high) >> 1;
        if (count_within(sampler, logits, vocab_size, best, middle) >= sampler->top_k) {
            high = middle;
        } else {
            low = middle + 1u;
        }
    }
    cut_t cut = {low, sampler->top_k};
    if (low > 0u) {
        cut.ties -= count_within(sampler, logits, vocab_size, best, low - 1u); /* fewer than top_k */
    }
    return cut;
}

/* Of what `cut` leaves, leave the likeliest that together weigh top_p of it; ties at the new cut all stay. */
static cut_t cut_top_p(const mg_sampler_t *sampler, const int32_t *logits, int32_t vocab_size, int32_t best,
                       cut_t cut)
{
    const uint64_t total = weight_within(sampler, logits, vocab_size, best, cut); /* < 2^31 */
    const uint32_t wanted = (uint32_t)((total * sampler->top_p + 0xFFFFu) >> 16); /* <= total */
    uint32_t low = 0;
    uint32_t high = cut.distance;
    while (low < high) { /* a distance below the cut has all its ties */
        const cut_t middle = {(low + high) >> 1, UINT32_MAX};
        if (weight_within(sampler, logits, vocab_size, best, middle) >= wanted) {
            high = middle.distance;
        } else {
            low = middle.distance + 1u;
        }
    }
    if (low < cut.distance) {
        cut.distance = low;
        cut.ties = UINT32_MAX;
    }
    return cut;
}

/* Marsaglia, Xorshift RNGs (2003), section 3: full period over the non-zero states. */
static uint32_t xorshift32(uint32_t state)
{
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

/* The token at which the running weight passes a random share of the total. */
static int32_t draw(mg_sampler_t *sampler, const int32_t *logits, int32_t vocab_size, int32_t best, cut_t cut)
{
    const uint64_t total = weight_within(sampler, logits, vocab_size, best, cut); /* in [32767, 2^31) */
    sampler->state = xorshift32(sampler->state);
    uint32_t rest = (uint32_t)((sampler->state * total) >> 32); /* < total */
    for (int32_t i = 0; i < vocab_size; i++) {
        const uint32_t distance = distance_of(sampler, best, logits[i]);
        if (distance > cut.distance) {
            continue;
        }
        if (distance == cut.distance) {
            if (cut.ties == 0u) {
                continue;
            }
            cut.ties--;
        }
        const uint32_t weight = weight_of(distance);
        if (rest < weight) {
            return i;
        }
        rest -= weight;
    }
    return 0; /* not reached: rest < total, the sum of the same weights */
}

void mg_sampler_seed(mg_sampler_t *sampler, uint32_t seed)
{
    /* Spread neighbouring seeds over all states: the first numbers of a small state would be small.
     * Two rounds of xor-shift and odd multiplication, so every seed but 0 has its own state. */
    uint32_t state = seed;
    state = (state ^ (state >> 16)) * 0x85EBCA6Bu;
    state = (state ^ (state >> 13)) * 0xC2B2AE35u;
    state ^= state >> 16;
    sampler->state = state != 0u ? state : 1u;
}

int32_t mg_sample(mg_sampler_t *sampler, const int32_t *logits, int32_t vocab_size)
{
    const int32_t likeliest = argmax(logits, vocab_size);
    if (sampler->multiplier == 0u) {
        return likeliest;
    }
    const int32_t best = logits[likeliest];
    cut_t cut = {FAR_AWAY, UINT32_MAX};
    if (sampler->top_k > 0u && sampler->top_k < (uint32_t)vocab_size) {
        cut = cut_top_k(sampler, logits, vocab_size, best);
    }
    if (sampler->top_p < 65536u) {
        cut = cut_top_p(sampler, logits, vocab_size, best, cut);
    }
    return draw(sampler, logits, vocab_size, best, cut);
}
