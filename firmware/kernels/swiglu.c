#include "fixedpoint.h"
#include "kernels.h"
#include "tables.h"

/* The logistic function of a Q11 gate in Q15: linear between 64 table steps on [-8, 8), flat beyond. */
static int32_t sigmoid_q15(int32_t gate)
{
    const int32_t limit = 8 << 11;
    const int32_t inside = (gate < -limit) ? -limit : (gate > limit - 1) ? limit - 1 : gate;
    const int32_t z = inside + limit; /* [0, 2^15) */
    const int32_t low = mg_sigmoid_q15[z >> 9];
    const int32_t step = mg_sigmoid_q15[(z >> 9) + 1] - low; /* [0, 2^11]: step * 511 < 2^20 */
    return low + mg_round_shift_s32(step * (z & 511), 9);
}

void mg_swiglu_s16(int16_t *y, const int16_t *gate, const int16_t *up, int32_t n, int32_t shift)
{
    for (int32_t i = 0; i < n; i++) {
        const int32_t silu = mg_round_shift_s32(gate[i] * sigmoid_q15(gate[i]), 15); /* Q11, |silu| <= 2^15 */
        /* |silu * up| <= 2^30, plus half of 2^30: below 2^31 */
        y[i] = (int16_t)mg_saturate_s16(mg_round_shift_s32(silu * up[i], shift));
    }
}
