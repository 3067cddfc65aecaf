#include "kernels_mve.h"
#include "vectors_mve.h"

/* Eight values round(code * multiplier / 2^shift), saturated; |product| < 2^22, 1 <= shift <= 62. */
static inline int16x8_t embedded(const int8_t *codes, int16x8_t multiplier, int32_t shift)
{
    const int16x8_t eight = vldrbq_s16(codes);
    const int32x4_t even = vrshlq_n_s32(vmullbq_int_s16(eight, multiplier), -shift);
    const int32x4_t odd = vrshlq_n_s32(vmulltq_int_s16(eight, multiplier), -shift);
    return mg_narrow_s16(even, odd);
}

void mg_embed_s16_mve(int16_t *y, int32_t token, const mg_linear_t *table)
{
    const int32_t cols = table->cols;
    const int32_t vectors = (cols + 15) >> 4;
    const int32_t place = ((token & 1) << 2) + ((token & 7) >> 1); /* even rows before odd ones: packing/mve.py */
    const int8_t *codes = (const int8_t *)table->codes + (token >> 3) * 128 * vectors + place * 16;
    const int16x8_t multiplier = vdupq_n_s16(table->multiplier[token]);
    const int32_t shift = table->shift;

    int32_t left = cols;
    for (; left >= 16; left -= 16) {
        vstrhq_s16(y, embedded(codes, multiplier, shift));
        vstrhq_s16(y + 8, embedded(codes + 8, multiplier, shift));
        codes += 128;
        y += 16;
    }
    if (left >= 8) {
        vstrhq_s16(y, embedded(codes, multiplier, shift));
        codes += 8;
        y += 8;
        left -= 8;
    }
    vstrhq_p_s16(y, embedded(codes, multiplier, shift), vctp16q((uint32_t)left));
}
