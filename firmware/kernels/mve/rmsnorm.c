#include "fixedpoint.h"
#include "kernels_mve.h"
#include "vectors_mve.h"

/* floor(sqrt(x)) for x in [2^30, 2^32), by Newton's r <- floor((r + floor(x / r)) / 2), which is never below
 * floor(s), s = sqrt(x), and above s by at most (r - s)^2 / (2 r). The straight line is within 3 % of s: after one step
 * r - s < 31, after two < 1/50, so that r is floor(s), or one more. */
static uint32_t isqrt32(uint32_t x)
{
    uint32_t root = (((x >> 16) * 22487u) >> 15) + 22487u; /* 0.3431 x / 2^15 + 0.6863 * 2^15 */
    root = (root + x / root) >> 1;
    root = (root + x / root) >> 1;
    return (x / root < root) ? root - 1u : root;
}

/* sum(x^2) + eps: each square is at most 2^30, no dim overflows 64 bits. */
static uint64_t energy(const int16_t *x, int32_t dim, int64_t eps)
{
    int64_t total = eps;
    for (int32_t blocks = dim >> 3; blocks > 0; blocks--) {
        const int16x8_t eight = vldrhq_s16(x);
        total = vmlaldavaq_s16(total, eight, eight);
        x += 8;
    }
    if ((dim & 7) != 0) {
        const int16x8_t last = vldrhq_z_s16(x, vctp16q((uint32_t)dim & 7u));
        total = vmlaldavaq_s16(total, last, last);
    }
    return (uint64_t)total;
}

/* Eight values x * gain * reciprocal / 2^shift, half up, saturated. factor = reciprocal * 2^14 in (2^29, 2^30], so that
 * the upper word of its product with |x * gain| <= 2^30 lacks down = shift - 18 >= 1 bits. Taking that word rounds
 * down, and half up after it is half up of the whole: floor(floor(a) + 1/2) = floor(a + 1/2) where a counts halves. */
static inline int16x8_t scaled(int16x8_t x, int16x8_t gain, int32x4_t factor, int32_t down)
{
    const int32x4_t even = vrshlq_n_s32(vmulhq_s32(vmullbq_int_s16(x, gain), factor), -down);
    const int32x4_t odd = vrshlq_n_s32(vmulhq_s32(vmulltq_int_s16(x, gain), factor), -down);
    return mg_narrow_s16(even, odd);
}

/* The same where shift < 19: a gain without fraction on a vector of nearly nothing. */
static void scale_slowly(int16_t *y, const int16_t *x, const mg_norm_t *norm, uint32_t reciprocal, int32_t shift)
{
    for (int32_t i = 0; i < norm->dim; i++) {
        const int64_t product = (int64_t)((int32_t)x[i] * norm->gain[i]) * (int64_t)reciprocal; /* < 2^47 */
        y[i] = (int16_t)mg_saturate_s16(mg_round_shift_s64(product, shift));
    }
}

void mg_rmsnorm_s16_mve(int16_t *y, const int16_t *x, const mg_norm_t *norm)
{
    const int32_t dim = norm->dim;
    const uint64_t total = energy(x, dim, norm->eps);

    /* Normalise by an even shift to [2^30, 2^32), so that the root has 16 bits. */
    const uint32_t high = (uint32_t)(total >> 32);
    const int32_t zeros = (high != 0u) ? __builtin_clz(high) - 32 : __builtin_clz((uint32_t)total);
    const int32_t even = zeros & ~1;
    const uint32_t normal = (uint32_t)((even >= 0) ? total << even : total >> -even);
    const uint32_t reciprocal = (1u << 31) / isqrt32(normal); /* (2^15, 2^16], 17 bits */

    const int32_t shift = 31 + norm->gain_frac - (even >> 1);
    if (shift < 19) {
        scale_slowly(y, x, norm, reciprocal, shift);
        return;
    }
    const int16_t *gain = norm->gain;
    const int32x4_t factor = vdupq_n_s32((int32_t)(reciprocal << 14));
    const int32_t down = shift - 18;
    for (int32_t blocks = dim >> 3; blocks > 0; blocks--) {
        vstrhq_s16(y, scaled(vldrhq_s16(x), vldrhq_s16(gain), factor, down));
        y += 8;
        x += 8;
        gain += 8;
    }
    if ((dim & 7) != 0) {
        const mve_pred16_t tail = vctp16q((uint32_t)dim & 7u);
        vstrhq_p_s16(y, scaled(vldrhq_z_s16(x, tail), vldrhq_z_s16(gain, tail), factor, down), tail);
    }
}
