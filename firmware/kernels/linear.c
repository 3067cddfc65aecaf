/* Matrix times vector, portable C: four rows share each load of x.
 * Accumulators: |acc| <= sum|row| * 127 < 2^31, which mcugen proves from the weights of every row it emits; the order
 * of the products therefore cannot change a result. */
#include "fixedpoint.h"
#include "kernels.h"

static int32_t dot(const int8_t *w, const int8_t *x, int32_t cols)
{
    int32_t acc = 0;
    for (int32_t i = 0; i < cols; i++) {
        acc += (int32_t)w[i] * x[i];
    }
    return acc;
}

/* acc [4] = the products of four neighbouring rows with x. */
static void dot4(int32_t *acc, const int8_t *w, const int8_t *x, int32_t cols)
{
    const int8_t *w0 = w;
    const int8_t *w1 = w0 + cols;
    const int8_t *w2 = w1 + cols;
    const int8_t *w3 = w2 + cols;
    int32_t acc0 = 0;
    int32_t acc1 = 0;
    int32_t acc2 = 0;
    int32_t acc3 = 0;
    for (int32_t i = 0; i < cols; i++) {
        const int32_t xi = x[i];
        acc0 += w0[i] * xi;
        acc1 += w1[i] * xi;
        acc2 += w2[i] * xi;
        acc3 += w3[i] * xi;
    }
    acc[0] = acc0;
    acc[1] = acc1;
    acc[2] = acc2;
    acc[3] = acc3;
}

/* acc [count] = the products of the rows from `row` on, up to four; returns count. */
static int32_t next_rows(int32_t *acc, const int8_t *x, const mg_linear_t *w, int32_t row)
{
    const int8_t *codes = w->codes + row * w->cols;
    if (row + 4 <= w->rows) {
        dot4(acc, codes, x, w->cols);
        return 4;
    }
    acc[0] = dot(codes, x, w->cols);
    return 1;
}

/* The row's multiplier with the block's mantissa in it: < 2^15 * 2^14 / 2^15, rounded: at most 2^14. */
static int32_t row_multiplier(const mg_linear_t *w, int32_t row, const mg_scale_t *scale)
{
    return mg_round_shift_s32(w->multiplier[row] * scale->mantissa, 15);
}

void mg_linear_s8(int8_t *y, const int8_t *x, const mg_scale_t *scale, const mg_linear_t *w)
{
    const int32_t shift = w->shift - scale->exponent;
    int32_t acc[4];
    for (int32_t row = 0, count; row < w->rows; row += count) {
        count = next_rows(acc, x, w, row);
        for (int32_t i = 0; i < count; i++) {
            y[row + i] = (int8_t)mg_saturate_s8(mg_requantize(acc[i], row_multiplier(w, row + i, scale), shift));
        }
    }
}

void mg_linear_s16(int16_t *y, const int8_t *x, const mg_scale_t *scale, const mg_linear_t *w)
{
    const int32_t shift = w->shift - scale->exponent;
    int32_t acc[4];
    for (int32_t row = 0, count; row < w->rows; row += count) {
        count = next_rows(acc, x, w, row);
        for (int32_t i = 0; i < count; i++) {
            y[row + i] = (int16_t)mg_saturate_s16(mg_requantize(acc[i], row_multiplier(w, row + i, scale), shift));
        }
    }
}

void mg_linear_s32(int32_t *y, const int8_t *x, const mg_scale_t *scale, const mg_linear_t *w)
{
    const int32_t shift = w->shift - scale->exponent;
    int32_t acc[4];
    for (int32_t row = 0, count; row < w->rows; row += count) {
        count = next_rows(acc, x, w, row);
        for (int32_t i = 0; i < count; i++) {
            y[row + i] = mg_saturate_s32(mg_requantize(acc[i], row_multiplier(w, row + i, scale), shift));
        }
    }
}

void mg_linear_add_s16(int16_t *y, const int16_t *residual, const int8_t *x, const mg_scale_t *scale,
                       const mg_linear_t *w)
{
    const int32_t shift = w->shift - scale->exponent;
    int32_t acc[4];
    for (int32_t row = 0, count; row < w->rows; row += count) {
        count = next_rows(acc, x, w, row);
        for (int32_t i = 0; i < count; i++) {
            const int64_t change = mg_requantize(acc[i], row_multiplier(w, row + i, scale), shift); /* < 2^46 */
            y[row + i] = (int16_t)mg_saturate_s16(residual[row + i] + change);
        }
    }
}
