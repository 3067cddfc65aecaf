#include "fixedpoint.h"
#include "kernels_v7m.h"

uint64_t mg_squares_v7m(const int16_t *x, int32_t n, uint64_t total);
void mg_normalise_v7m(int16_t *y, const int16_t *x, const int16_t *gain, int32_t n, int32_t reciprocal,
                      int32_t shift);

void mg_rmsnorm_s16_v7m(int16_t *y, const int16_t *x, const mg_norm_t *norm)
{
    const uint64_t total = mg_squares_v7m(x, norm->dim, (uint64_t)norm->eps);

    /* Normalise by an even shift to [2^30, 2^32), so that the root has 16 bits. */
    const uint32_t high = (uint32_t)(total >> 32);
    const int32_t bits = (high != 0u) ? 32 + mg_bit_length(high) : mg_bit_length((uint32_t)total);
    const int32_t even = (32 - bits) & ~1;
    const uint32_t normal = (uint32_t)((even >= 0) ? total << even : total >> -even);
    const int32_t shift = 31 + norm->gain_frac - (even >> 1);
    if (shift < 18) { /* gains far from what their format is made for */
        mg_rmsnorm_s16(y, x, norm);
        return;
    }
    const uint32_t reciprocal = (1u << 31) / mg_isqrt32(normal); /* (2^15, 2^16] */
    mg_normalise_v7m(y, x, norm->gain, norm->dim, (int32_t)reciprocal, shift);
}
