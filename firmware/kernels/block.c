#include "fixedpoint.h"
#include "kernels.h"

void mg_block_s8(int8_t *codes, mg_scale_t *scale, const int16_t *x, int32_t n)
{
    int32_t peak = 1; /* <= 32768 */
    for (int32_t i = 0; i < n; i++) {
        const int32_t magnitude = (x[i] < 0) ? -(int32_t)x[i] : x[i];
        peak = (magnitude > peak) ? magnitude : peak;
    }
    /* |x * reciprocal| <= 127 * 2^23, so that the code stays in [-127, 127] and the sum below 2^30 + 2^22 */
    const int32_t reciprocal = (127 << 23) / peak; /* Q23 */
    int32_t sum = 0; /* <= 127 * n */
    for (int32_t i = 0; i < n; i++) {
        const int32_t code = mg_round_shift_s32(x[i] * reciprocal, 23);
        codes[i] = (int8_t)code;
        sum += code;
    }
    scale->peak = peak;
    scale->sum = sum;
}
