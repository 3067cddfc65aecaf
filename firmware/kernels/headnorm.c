#include "kernels.h"

void mg_headnorm_s16(int16_t *y, const int16_t *x, int32_t heads, const mg_norm_t *norm, mg_rmsnorm_t rmsnorm)
{
    mg_norm_t head = *norm;
    for (int32_t i = 0; i < heads; i++) {
        rmsnorm(y, x, &head);
        y += head.dim;
        x += head.dim;
        head.gain += head.dim;
    }
}
