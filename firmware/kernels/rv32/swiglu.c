/* silu(gate) * up, as ../swiglu.c, with what all elements share kept out of the loop. */
#include "kernels_rv32.h"
#include "tables.h"

void mg_swiglu_s16_rv32(int16_t *y, const int16_t *gate, const int16_t *up, int32_t n, int32_t gate_frac,
                        int32_t shift)
{
    const int32_t limit = 8 << gate_frac;  /* <= 2^14; the sigmoid's table covers [-limit, limit) and is flat beyond */
    const int32_t last = 2 * limit - 1;
    const int32_t step_bits = gate_frac - 2; /* [2, 9]: 64 steps */
    const int32_t mask = ((int32_t)1 << step_bits) - 1;
    const int32_t half_step = (int32_t)1 << (step_bits - 1);
    const int32_t half = (int32_t)1 << (shift - 1);
    for (const int16_t *const end = gate + n; gate != end; gate++) {
        const int32_t g = *gate;
        int32_t z = g + limit;
        if (z < 0) {
            z = 0;
        }
        if (z > last) {
            z = last;
        }
        const int16_t *const low = mg_sigmoid_q15 + (z >> step_bits);
        /* the step is in [0, 2^11], times a fraction below 2^9: below 2^20 */
        const int32_t sigmoid = low[0] + (((low[1] - low[0]) * (z & mask) + half_step) >> step_bits);
        const int32_t silu = (g * sigmoid + (1 << 14)) >> 15; /* Q(gate_frac), |silu| <= 2^15 */
        /* |silu * up| <= 2^30, plus half of 2^30: below 2^31 */
        int32_t value = (silu * *up + half) >> shift;
        if (value > INT16_MAX) {
            value = INT16_MAX;
        }
        if (value < INT16_MIN) {
            value = INT16_MIN;
        }
        *y = (int16_t)value;
        y++;
        up++;
    }
}
