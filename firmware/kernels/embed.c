#include "fixedpoint.h"
#include "kernels.h"

void mg_embed_s16(int16_t *y, int32_t token, const mg_linear_t *table)
{
    const int8_t *row = (const int8_t *)table->codes + token * table->cols;
    const int32_t multiplier = table->multiplier[token];

    for (int32_t i = 0; i < table->cols; i++) {
        y[i] = (int16_t)mg_saturate_s16(mg_requantize(row[i], multiplier, table->shift));
    }
}
