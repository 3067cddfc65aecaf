#include "fixedpoint.h"
#include "kernels.h"

void mg_block_s8(int8_t *codes, mg_scale_t *scale, const int16_t *x, int32_t n)
{
    int32_t peak = 1; /* <= 32768 */
    for (int32_t i = 0; i < n; i++) {
        const int32_t magnitude = (x[i] < 0) ? -(int32_t)x[i] : x[i];
        peak = (magnitude > peak) ? magnitude : peak;
    }
    const int32_t bits = mg_bit_length((uint32_t)peak); /* [1, 16] */
    scale->exponent = bits - 14;
    scale->mantissa = (bits < 14) ? peak << (14 - bits) : peak >> (bits - 14);

    /* |x * reciprocal| <= 127 * 2^23, so that the code stays in [-127, 127] and the sum below 2^30 + 2^22 */
    const int32_t reciprocal = (127 << 23) / peak; /* Q23 */
    for (int32_t i = 0; i < n; i++) {
        codes[i] = (int8_t)mg_round_shift_s32(x[i] * reciprocal, 23);
    }
}
