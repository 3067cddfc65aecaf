#include "fixedpoint.h"
#include "kernels.h"
#include "tables.h"

static void geglu(int16_t *y, const int16_t *gate, const int16_t *up, int32_t n, int32_t gate_frac, int32_t shift,
                  const int16_t *phi)
{
    for (int32_t i = 0; i < n; i++) {
        /* Q(gate_frac), |gelu| <= 2^15 */
        const int32_t gelu = mg_round_shift_s32(gate[i] * mg_gate_q15(phi, gate[i], gate_frac), 15);
        /* |gelu * up| <= 2^30, plus half of 2^30: below 2^31 */
        y[i] = (int16_t)mg_saturate_s16(mg_round_shift_s32(gelu * up[i], shift));
    }
}

void mg_geglu_s16(int16_t *y, const int16_t *gate, const int16_t *up, int32_t n, int32_t gate_frac, int32_t shift)
{
    geglu(y, gate, up, n, gate_frac, shift, mg_phi_q15);
}

void mg_geglu_tanh_s16(int16_t *y, const int16_t *gate, const int16_t *up, int32_t n, int32_t gate_frac,
                       int32_t shift)
{
    geglu(y, gate, up, n, gate_frac, shift, mg_phi_tanh_q15);
}
