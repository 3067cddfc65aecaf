#include "kernels_mve.h"
#include "tables.h"
#include "vectors_mve.h"

/* What does not change from one vector to the next. */
typedef struct {
    int16x8_t low;  /* -8 in Q(frac) */
    int16x8_t high; /* just below 8 */
    int16_t offset; /* 8 */
    int32_t index;  /* bits below the index of a step of the table: frac - 2 in [2, 9] */
    int32_t shift;
} mg_gates_t;

/* Eight values silu(gate) * up >> shift. The interpolation is that of swiglu.c: the fraction is moved to the top of 16
 * bits, so that VRMULH rounds its product with the step, in [0, 2^11], as a shift by `index` would. */
static inline int16x8_t swiglu(int16x8_t gate, int16x8_t up, const mg_gates_t *gates)
{
    const int16x8_t inside = vminq_s16(vmaxq_s16(gate, gates->low), gates->high);
    const uint16x8_t z = vreinterpretq_u16_s16(vaddq_n_s16(inside, gates->offset)); /* [0, 2^15) */
    const uint16x8_t index = vshlq_r_u16(z, -gates->index);
    const uint16x8_t fraction = vshlq_r_u16(z, 16 - gates->index); /* Q16; the index is shifted out */
    const int16x8_t at = vldrhq_gather_shifted_offset_s16(mg_sigmoid_q15, index);
    const int16x8_t next = vldrhq_gather_shifted_offset_s16(mg_sigmoid_q15 + 1, index);
    const uint16x8_t step = vreinterpretq_u16_s16(vsubq_s16(next, at));
    const int16x8_t sigmoid = vaddq_s16(at, vreinterpretq_s16_u16(vrmulhq_u16(step, fraction)));
    const int16x8_t silu = vqrdmulhq_s16(gate, sigmoid); /* round(gate * sigmoid / 2^15) */
    const int32x4_t even = vrshlq_n_s32(vmullbq_int_s16(silu, up), -gates->shift);
    const int32x4_t odd = vrshlq_n_s32(vmulltq_int_s16(silu, up), -gates->shift);
    return mg_narrow_s16(even, odd);
}

void mg_swiglu_s16_mve(int16_t *y, const int16_t *gate, const int16_t *up, int32_t n, int32_t gate_frac, int32_t shift)
{
    const int32_t limit = 8 << gate_frac; /* <= 2^14 */
    const mg_gates_t gates = {
        vdupq_n_s16((int16_t)-limit), vdupq_n_s16((int16_t)(limit - 1)), (int16_t)limit, gate_frac - 2, shift
    };
    for (int32_t blocks = n >> 3; blocks > 0; blocks--) {
        vstrhq_s16(y, swiglu(vldrhq_s16(gate), vldrhq_s16(up), &gates));
        y += 8;
        gate += 8;
        up += 8;
    }
    if ((n & 7) != 0) {
        const mve_pred16_t tail = vctp16q((uint32_t)n & 7u);
        vstrhq_p_s16(y, swiglu(vldrhq_z_s16(gate, tail), vldrhq_z_s16(up, tail), &gates), tail);
    }
}
