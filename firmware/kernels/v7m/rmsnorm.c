#include "fixedpoint.h"
#include "kernels_v7m.h"

uint64_t mg_squares_v7m(const int16_t *x, int32_t n, uint64_t total);
void mg_normalise_v7m(int16_t *y, const int16_t *x, const int16_t *gain, int32_t n, int32_t reciprocal,
                      int32_t shift);

/* floor(sqrt(x)) for x in [2^30, 2^32), bit by bit from the top (Warren, Hacker's Delight, section 11-1). */
static uint32_t isqrt32(uint32_t x)
{
    uint32_t root = 1u << 30;
    x -= root;
    for (uint32_t bit = 1u << 28; bit != 0u; bit >>= 2) {
        const uint32_t trial = root + bit;
        root >>= 1;
        if (x >= trial) {
            x -= trial;
            root += bit;
        }
    }
    return root;
}

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
    const uint32_t reciprocal = (1u << 31) / isqrt32(normal); /* (2^15, 2^16] */
    mg_normalise_v7m(y, x, norm->gain, norm->dim, (int32_t)reciprocal, shift);
}
