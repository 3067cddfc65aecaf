#include "fixedpoint.h"
#include "kernels_v6m.h"

void mg_squares_v6m(uint32_t *total, const int16_t *x, int32_t n);
void mg_normalise_v6m(int16_t *y, const int16_t *x, const int16_t *gain, int32_t n, int32_t reciprocal,
                      int32_t shift);
uint32_t mg_divide_v6m(uint32_t remainder, uint32_t divisor, int32_t bits);

void mg_rmsnorm_s16_v6m(int16_t *y, const int16_t *x, const mg_norm_t *norm)
{
    uint32_t total[2] = {(uint32_t)norm->eps, (uint32_t)((uint64_t)norm->eps >> 32)};
    mg_squares_v6m(total, x, norm->dim);

    /* Normalise by an even shift to [2^30, 2^32), so that the root has 16 bits. */
    int32_t even = 0;
    uint32_t normal = total[0];
    if (total[1] != 0u) {
        const int32_t bits = (mg_bit_length(total[1]) + 1) & ~1;
        even = -bits;
        normal = (bits < 32) ? (total[1] << (32 - bits)) | (total[0] >> bits) : total[1];
    } else {
        even = (32 - mg_bit_length(total[0])) & ~1;
        normal = total[0] << even;
    }
    const int32_t shift = 31 + norm->gain_frac - (even >> 1);
    if (shift < 17 || shift > 46) { /* gains far from what their format is made for */
        mg_rmsnorm_s16(y, x, norm);
        return;
    }
    /* 2^31 / root, in (2^15, 2^16] */
    const uint32_t reciprocal = mg_divide_v6m(1u << 14, mg_isqrt32(normal), 17);
    mg_normalise_v6m(y, x, norm->gain, norm->dim, (int32_t)reciprocal, shift);
}
