#include "fixedpoint.h"
#include "kernels.h"

void mg_add_s16(int16_t *y, const int16_t *x, const int16_t *b, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        y[i] = (int16_t)mg_saturate_s16(x[i] + b[i]);
    }
}

void mg_scale_s16(int16_t *y, const int16_t *x, int32_t n, int32_t weight)
{
    for (int32_t i = 0; i < n; i++) {
        /* |x * weight| < 2^30, and the result below 2^15: weight < 2^15 */
        y[i] = (int16_t)mg_round_shift_s32(x[i] * weight, 15);
    }
}
