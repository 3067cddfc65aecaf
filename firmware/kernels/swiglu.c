#include "fixedpoint.h"
#include "kernels.h"
#include "tables.h"

/* The logistic function of a Q(frac) gate in Q15: linear between 64 table steps on [-8, 8), flat beyond. */
static int32_t sigmoid_q15(int32_t gate, int32_t frac)
{
    const int32_t limit = 8 << frac; /* <= 2^14 */
    const int32_t inside = (gate < -limit) ? -limit : (gate > limit - 1) ? limit - 1 : gate;
    const int32_t z = inside + limit;  /* [0, 2^15): 64 steps of 2^(frac - 2) */
    const int32_t step_bits = frac - 2; /* [2, 9] */
    const int32_t index = z >> step_bits;
    const int32_t fraction = z & ((1 << step_bits) - 1);
    const int32_t low = mg_sigmoid_q15[index];
    const int32_t step = mg_sigmoid_q15[index + 1] - low; /* [0, 2^11]: step * fraction < 2^20 */
    return low + mg_round_shift_s32(step * fraction, step_bits);
}

void mg_swiglu_s16(int16_t *y, const int16_t *gate, const int16_t *up, int32_t n, int32_t gate_frac, int32_t shift)
{
    for (int32_t i = 0; i < n; i++) {
        /* Q(gate_frac), |silu| <= 2^15 */
        const int32_t silu = mg_round_shift_s32(gate[i] * sigmoid_q15(gate[i], gate_frac), 15);
        /* |silu * up| <= 2^30, plus half of 2^30: below 2^31 */
        y[i] = (int16_t)mg_saturate_s16(mg_round_shift_s32(silu * up[i], shift));
    }
}
