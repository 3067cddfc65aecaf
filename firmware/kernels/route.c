/* The router of a mixture of experts: which are chosen, and how much each counts. */
#include "fixedpoint.h"
#include "kernels.h"
#include "tables.h"

enum {
    MG_EXP2_SIZE = 1024, /* distances that the table of weights has; beyond them, a weight is nothing */
    MG_FAR = 1 << 20     /* Q16 nats: 16, and nothing */
};

/* The largest logit behind (logit, id) in falling order, the lowest id first among equals. */
static int32_t next(const int32_t *logits, int32_t n, int32_t logit, int32_t id)
{
    int32_t best = -1;
    for (int32_t i = 0; i < n; i++) {
        const int32_t is_behind = (logits[i] < logit) || ((logits[i] == logit) && (i > id));
        if (is_behind && ((best < 0) || (logits[i] > logits[best]))) {
            best = i;
        }
    }
    return best;
}

/* 2^-(distance in 1/64 octaves) in Q15: 64 log2(e) / 2^16 = 1477.3 / 2^20, and 1477 * 2^20 < 2^31 - 2^19. */
static int32_t part(uint32_t distance)
{
    const int32_t near = (distance < (uint32_t)MG_FAR) ? (int32_t)distance : MG_FAR;
    const int32_t step = mg_round_shift_s32(near * 1477, 20);
    return (step < MG_EXP2_SIZE) ? mg_exp2_q15[step] : 0;
}

void mg_route_s32(int32_t *choice, int16_t *weight, const int32_t *logits, int32_t n, int32_t count)
{
    const int32_t first = next(logits, n, INT32_MAX, -1);
    int32_t id = first;
    uint32_t total = 0; /* [32767, 64 * 32767] */
    for (int32_t rank = 0; rank < count; rank++) {
        const int32_t logit = logits[id];
        choice[rank] = id;
        const int32_t share = part((uint32_t)logits[first] - (uint32_t)logit);
        weight[rank] = (int16_t)share;
        total += (uint32_t)share;
        id = next(logits, n, logit, id); /* behind the last of n there is none, and rank < count <= n */
    }
    for (int32_t rank = 0; rank < count; rank++) {
        /* a dividend below 2^30 + 2^20, a quotient of at most 2^15 */
        const uint32_t share = (((uint32_t)weight[rank] << 15) + (total >> 1)) / total;
        weight[rank] = (int16_t)((share < 32768u) ? share : 32767u);
    }
}
