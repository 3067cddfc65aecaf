#include "fixedpoint.h"
#include "kernels.h"

void mg_reglu_s16(int16_t *y, const int16_t *gate, const int16_t *up, int32_t n, int32_t shift)
{
    for (int32_t i = 0; i < n; i++) {
        const int32_t open = (gate[i] > 0) ? gate[i] : 0;
        /* |open * up| < 2^30, plus half of 2^30: below 2^31 */
        y[i] = (int16_t)mg_saturate_s16(mg_round_shift_s32(open * up[i], shift));
    }
}

void mg_relu2glu_s16(int16_t *y, const int16_t *gate, const int16_t *up, int32_t n, int32_t shift)
{
    for (int32_t i = 0; i < n; i++) {
        const int32_t open = (gate[i] > 0) ? gate[i] : 0;
        const int32_t square = mg_round_shift_s32(open * open, 15); /* <= 32766, as 32767^2 < 2^30 */
        y[i] = (int16_t)mg_saturate_s16(mg_round_shift_s32(square * up[i], shift));
    }
}
