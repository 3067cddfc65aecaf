/* Root mean square normalisation without 64-bit shifts: the upper word of one product per element is enough. */
#include "fixedpoint.h"
#include "kernels_rv32.h"

/* x * gain * reciprocal / 2^shift, half up, for any shift: |x * gain| <= 2^30, reciprocal <= 2^16, below 2^47. */
static void scale_wide(int16_t *y, const int16_t *x, const int16_t *gain, int32_t dim, uint32_t reciprocal,
                       int32_t shift)
{
    for (int32_t i = 0; i < dim; i++) {
        const int64_t product = (int64_t)((int32_t)x[i] * gain[i]) * (int64_t)reciprocal;
        y[i] = (int16_t)mg_saturate_s16(mg_round_shift_s64(product, shift));
    }
}

/* The same for shift = right + 19, 0 <= right <= 31: the upper word of the product with reciprocal * 2^14 <= 2^30 has
 * lost 18 bits, and after `right` more it is twice the result, rounded down. One more, halved, is the nearest. */
static void scale(int16_t *y, const int16_t *x, const int16_t *gain, int32_t dim, int32_t reciprocal, int32_t right)
{
    for (const int16_t *const end = x + dim; x != end; x++) {
        const int64_t product = (int64_t)((int32_t)*x * *gain) * reciprocal;
        int32_t value = (((int32_t)(product >> 32) >> right) + 1) >> 1;
        if (value > INT16_MAX) {
            value = INT16_MAX;
        }
        if (value < INT16_MIN) {
            value = INT16_MIN;
        }
        *y = (int16_t)value;
        y++;
        gain++;
    }
}

void mg_rmsnorm_s16_rv32(int16_t *y, const int16_t *x, const mg_norm_t *norm)
{
    uint64_t total = (uint64_t)norm->eps; /* each square is at most 2^30: no dim overflows 64 bits */
    for (int32_t i = 0; i < norm->dim; i++) {
        total += (uint32_t)((int32_t)x[i] * x[i]);
    }

    /* Normalise by an even shift to [2^30, 2^32), so that the root has 16 bits. */
    const uint32_t high = (uint32_t)(total >> 32);
    const int32_t bits = (high != 0u) ? 32 + mg_bit_length(high) : mg_bit_length((uint32_t)total);
    const int32_t even = (32 - bits) & ~1;
    const uint32_t normal = (uint32_t)((even >= 0) ? total << even : total >> -even);
    const uint32_t reciprocal = (1u << 31) / mg_isqrt32(normal); /* (2^15, 2^16], 17 bits */

    const int32_t shift = 31 + norm->gain_frac - (even >> 1); /* >= 2 */
    if (shift >= 19 && shift <= 50) {
        scale(y, x, norm->gain, norm->dim, (int32_t)(reciprocal << 14), shift - 19);
    } else {
        scale_wide(y, x, norm->gain, norm->dim, reciprocal, shift);
    }
}
