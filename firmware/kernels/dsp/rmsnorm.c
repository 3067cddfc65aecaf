#include "fixedpoint.h"
#include "kernels_dsp.h"

/* The sum of x^2. */
uint64_t mg_squares_dsp(const int16_t *x, int32_t n);

/* y = x * gain * factor / 2^32, or / 2^46, rounded half up and saturated; 0 <= factor <= 2^30. */
void mg_normalise_32_dsp(int16_t *y, const int16_t *x, const int16_t *gain, int32_t n, int32_t factor);
void mg_normalise_46_dsp(int16_t *y, const int16_t *x, const int16_t *gain, int32_t n, int32_t factor);

/* floor(sqrt(x)) for 2^30 <= x, by Newton's method. A step from any r >= 1 gives floor(sqrt(x)) at least. The first r
 * is at most 25 % too large (at 2^30); a relative error of e becomes less than e^2 / 2, so that three steps leave less
 * than 2^-22, and the last r is too large by one at most. */
static uint32_t isqrt32(uint32_t x)
{
    uint32_t r = (x >> 17) + (1u << 15);
    r = (r + x / r) >> 1;
    r = (r + x / r) >> 1;
    r = (r + x / r) >> 1;
    return (x / r < r) ? r - 1u : r;
}

void mg_rmsnorm_s16_dsp(int16_t *y, const int16_t *x, const mg_norm_t *norm)
{
    const uint64_t total = mg_squares_dsp(x, norm->dim) + (uint64_t)norm->eps;

    /* Normalise by an even shift to [2^30, 2^32), so that the root has 16 bits. */
    const uint32_t high = (uint32_t)(total >> 32);
    const int32_t zeros = (high != 0u) ? __builtin_clz(high) - 32 : __builtin_clz((uint32_t)total); /* total >= 1 */
    const int32_t even = zeros & ~1;
    const uint32_t normal = (even >= 0) ? (uint32_t)total << even : (uint32_t)(total >> -even);
    const uint32_t reciprocal = (1u << 31) / isqrt32(normal); /* (2^15, 2^16] */
    const int32_t shift = 31 + norm->gain_frac - (even >> 1);

    /* reciprocal <= 2^16, shifted left by 14 at most */
    if ((shift >= 18) && (shift <= 32)) {
        mg_normalise_32_dsp(y, x, norm->gain, norm->dim, (int32_t)(reciprocal << (32 - shift)));
        return;
    }
    if ((shift > 32) && (shift <= 46)) {
        mg_normalise_46_dsp(y, x, norm->gain, norm->dim, (int32_t)(reciprocal << (46 - shift)));
        return;
    }
    for (int32_t i = 0; i < norm->dim; i++) { /* |product| < 2^47; shift >= 2 */
        const int64_t product = (int64_t)((int32_t)x[i] * norm->gain[i]) * (int64_t)reciprocal;
        y[i] = (int16_t)mg_saturate_s16(mg_round_shift_s64(product, shift));
    }
}
