#include "kernels_mve.h"
#include "vectors_mve.h"

/* Eight codes: round(x * reciprocal / 2^23). |x * reciprocal| <= 127 * 2^23 < 2^30: codes stay in [-127, 127]. */
static inline int16x8_t codes_of(int16x8_t x, int32_t reciprocal)
{
    const int32x4_t even = vrshrq_n_s32(vmulq_n_s32(vmovlbq_s16(x), reciprocal), 23);
    const int32x4_t odd = vrshrq_n_s32(vmulq_n_s32(vmovltq_s16(x), reciprocal), 23);
    return vmovntq_s32(vreinterpretq_s16_s32(even), odd);
}

void mg_block_s8_mve(int8_t *codes, mg_scale_t *scale, const int16_t *x, int32_t n)
{
    const int32_t whole = n & ~7;
    const mve_pred16_t tail = vctp16q((uint32_t)(n - whole)); /* none where n is a multiple of 8 */
    const int16x8_t last = vldrhq_z_s16(x + whole, tail);

    uint16_t magnitude = vmaxavq_s16(1u, last); /* <= 2^15 */
    for (int32_t i = 0; i < whole; i += 8) {
        magnitude = vmaxavq_s16(magnitude, vldrhq_s16(x + i));
    }

    const int32_t peak = magnitude;
    const int32_t reciprocal = (127 << 23) / peak; /* Q23 */
    int32_t sum = 0; /* |sum| <= 127 * n */
    for (int32_t i = 0; i < whole; i += 8) {
        const int16x8_t eight = codes_of(vldrhq_s16(x + i), reciprocal);
        vstrbq_s16(codes + i, eight);
        sum = vaddvaq_s16(sum, eight);
    }
    if ((n & 15) != 0) { /* the padding to 16, and what is left in front of it */
        const int16x8_t eight = codes_of(last, reciprocal);
        vstrbq_s16(codes + whole, eight);
        sum = vaddvaq_s16(sum, eight);
        if ((n & 8) == 0) {
            vstrbq_s16(codes + whole + 8, vdupq_n_s16(0));
        }
    }
    scale->peak = peak;
    scale->sum = sum;
}
