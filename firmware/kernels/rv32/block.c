/* An int16 vector as a block of codes, in the form that gemv_s8_rv32.S and gemv_s4_rv32.S multiply by. */
#include "kernels_rv32.h"

enum { LOUDEST_QUAD = 258 }; /* 258 * 127 < 2^15: what a lane holds */

/* |x| <= 32768 */
static inline int32_t magnitude(int32_t x)
{
    const int32_t sign = x >> 31;
    return (x ^ sign) - sign;
}

/* The code nearest to x: |x * reciprocal| <= 127 * 2^23, so that it stays in [-127, 127], and the sum below
 * 2^30 + 2^22. */
static inline int32_t code(int32_t x, int32_t reciprocal)
{
    return (x * reciprocal + (1 << 22)) >> 23;
}

/* Write the factors of four codes; returns their sum. |a| <= 127, so that |a1 - 2^8 a0| <= 32639 fits int16. */
static inline int32_t put_quad(int32_t *quad, int32_t a0, int32_t a1, int32_t a2, int32_t a3)
{
    const int32_t sum = a0 + a1 + a2 + a3;
    const uint32_t offset = (uint32_t)sum << 7;
    uint32_t c = (1u << 15) - offset - (offset << 16);
    int16_t *const half = (int16_t *)(void *)quad;
    if (magnitude(a0) + magnitude(a1) + magnitude(a2) + magnitude(a3) > LOUDEST_QUAD) {
        c++;
    }
    half[0] = (int16_t)a0;
    half[1] = (int16_t)(a1 - a0 * 256);
    half[2] = (int16_t)a2;
    half[3] = (int16_t)(a3 - a2 * 256);
    quad[2] = (int32_t)c;
    half[6] = (int16_t)(a2 - a0 * 16);
    half[7] = (int16_t)(a3 - a1 * 16);
    return sum;
}

void mg_block_s8_rv32(int32_t *codes, mg_scale_t *scale, const int16_t *x, int32_t n)
{
    int32_t low = -1;
    int32_t high = 1;
    for (int32_t i = 0; i < n; i++) {
        const int32_t value = x[i];
        if (value > high) {
            high = value;
        }
        if (value < low) {
            low = value;
        }
    }
    const int32_t peak = (high > -low) ? high : -low; /* [1, 2^15] */
    const int32_t reciprocal = (127 << 23) / peak; /* Q23 */
    int32_t sum = 0; /* <= 127 * n */
    int32_t i = 0;
    for (; i + 4 <= n; i += 4) {
        sum += put_quad(codes, code(x[0], reciprocal), code(x[1], reciprocal), code(x[2], reciprocal),
                        code(x[3], reciprocal));
        codes += 4;
        x += 4;
    }
    if (i < n) {
        int32_t a[3] = {0, 0, 0};
        for (int32_t k = 0; i + k < n; k++) {
            a[k] = code(x[k], reciprocal);
        }
        sum += put_quad(codes, a[0], a[1], a[2], 0);
    }
    scale->peak = peak;
    scale->sum = sum;
}
