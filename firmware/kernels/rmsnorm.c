#include "fixedpoint.h"
#include "kernels.h"

void mg_rmsnorm_s16(int16_t *y, const int16_t *x, const mg_norm_t *norm)
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

    /* |x * gain| <= 2^30, times 2^16: below 2^47. shift >= 31 - 14 - 15 = 2. */
    const int32_t shift = 31 + norm->gain_frac - (even >> 1);
    for (int32_t i = 0; i < norm->dim; i++) {
        const int64_t product = (int64_t)((int32_t)x[i] * norm->gain[i]) * (int64_t)reciprocal;
        y[i] = (int16_t)mg_saturate_s16(mg_round_shift_s64(product, shift));
    }
}
