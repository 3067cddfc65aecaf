#include "fixedpoint.h"
#include "kernels.h"
#include "tables.h"

void mg_swiglu_s16(int16_t *y, const int16_t *gate, const int16_t *up, int32_t n, int32_t gate_frac, int32_t shift)
{
    for (int32_t i = 0; i < n; i++) {
        /* Q(gate_frac), |silu| <= 2^15 */
        const int32_t silu = mg_round_shift_s32(gate[i] * mg_gate_q15(mg_sigmoid_q15, gate[i], gate_frac), 15);
        /* |silu * up| <= 2^30, plus half of 2^30: below 2^31 */
        y[i] = (int16_t)mg_saturate_s16(mg_round_shift_s32(silu * up[i], shift));
    }
}
