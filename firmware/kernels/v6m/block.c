#include "kernels_v6m.h"

int32_t mg_peak_v6m(const int16_t *x, int32_t n);
int32_t mg_codes_v6m(uint8_t *codes, const int16_t *x, int32_t n, int32_t reciprocal);
uint32_t mg_divide_v6m(uint32_t remainder, uint32_t divisor, int32_t bits);

void mg_block_s8_v6m(uint8_t *codes, mg_scale_t *scale, const int16_t *x, int32_t n)
{
    const int32_t peak = mg_peak_v6m(x, n);
    uint32_t remainder = 127;
    uint32_t whole = 0;
    while (remainder >= (uint32_t)peak) { /* a peak below 128 is rare */
        remainder -= (uint32_t)peak;
        whole++;
    }
    const uint32_t reciprocal = (whole << 23) + mg_divide_v6m(remainder, (uint32_t)peak, 23); /* (127 << 23) / peak */
    scale->peak = peak;
    scale->sum = mg_codes_v6m(codes, x, n, (int32_t)reciprocal) - 128 * n;
    for (int32_t i = n; (i & 7) != 0; i++) {
        codes[i] = 128;
    }
}
