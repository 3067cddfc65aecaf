/* What follows TFLite Micro's FULLY_CONNECTED, portable C: its int8 codes to the units of the output. */
#include "fixedpoint.h"
#include "kernels.h"

/* round(code * factor / 2^shift), where up = 32 - shift and half a unit of the upper word are added beforehand:
 * |code << up| <= 2^23 and 0 <= factor <= 2^30, so that the result, the upper word, is below 2^22. */
static int32_t scaled(int8_t code, int32_t factor, int32_t up)
{
    return (int32_t)(((int64_t)(code * ((int32_t)1 << up)) * factor + ((int64_t)1 << 31)) >> 32);
}

void mg_rescale_s16(int16_t *y, const int8_t *codes, const mg_scale_t *scale, const mg_rescale_t *rescale)
{
    const int32_t peak = scale->peak;
    const int32_t up = 32 - rescale->shift;
    const int16_t *const multiplier = rescale->multiplier;
    for (int32_t row = 0; row < rescale->rows; row++) {
        y[row] = (int16_t)mg_saturate_s16(scaled(codes[row], multiplier[row] * peak, up));
    }
}

void mg_rescale_add_s16(int16_t *y, const int16_t *residual, const int8_t *codes, const mg_scale_t *scale,
                        const mg_rescale_t *rescale)
{
    const int32_t peak = scale->peak;
    const int32_t up = 32 - rescale->shift;
    const int16_t *const multiplier = rescale->multiplier;
    for (int32_t row = 0; row < rescale->rows; row++) {
        y[row] = (int16_t)mg_saturate_s16(residual[row] + scaled(codes[row], multiplier[row] * peak, up));
    }
}
