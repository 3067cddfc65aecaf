/* Matrix times vector, portable C: four rows share each load of x.
 * Accumulators: |acc| < 2^(shift - 1) <= 2^31, which mcugen proves from the weights of every row it emits; the order of
 * the products therefore cannot change a result. */
#include "fixedpoint.h"
#include "kernels.h"

/* acc [4] = the products of rows with x, from `row` on, as many as fit in one go; returns their number. */
typedef int32_t (*rows_t)(int32_t *acc, const int8_t *x, const mg_linear_t *w, int32_t row);

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

static int32_t rows_int8(int32_t *acc, const int8_t *x, const mg_linear_t *w, int32_t row)
{
    const int8_t *codes = (const int8_t *)w->codes + row * w->cols;
    if (row + 4 <= w->rows) {
        dot4(acc, codes, x, w->cols);
        return 4;
    }
    acc[0] = dot(codes, x, w->cols);
    return 1;
}

/* The products of `count` int4 columns, the first of them at an even place. */
static int32_t dot_int4(const int8_t *pairs, const int8_t *x, int32_t count)
{
    int32_t acc = 0;
    for (int32_t left = count; left > 0; left -= 2, pairs++, x += 2) {
        const int32_t even = ((*pairs & 15) ^ 8) - 8; /* two's complement of four bits */
        acc += even * x[0];
        if (left > 1) {
            acc += (*pairs >> 4) * x[1];
        }
    }
    return acc;
}

static int32_t rows_int4(int32_t *acc, const int8_t *x, const mg_linear_t *w, int32_t row)
{
    const int32_t pairs = (w->cols + 1) >> 1;
    const int32_t group = (w->group != 0) ? w->group : w->cols;
    const int32_t groups = (w->group != 0) ? (w->cols + group - 1) / group : 0;
    const int8_t *codes = (const int8_t *)w->codes + row * (pairs + groups);
    const int8_t *scale = codes + pairs;
    acc[0] = 0;
    for (int32_t start = 0; start < w->cols; start += group) {
        const int32_t count = (start + group <= w->cols) ? group : w->cols - start;
        const int32_t part = dot_int4(codes + (start >> 1), x + start, count);
        acc[0] += (groups != 0) ? part * *scale++ : part;
    }
    return 1;
}

/* acc, scaled by the row's multiplier and the block's peak: their product is at most 2^30. */
static int64_t scaled(int32_t acc, const mg_linear_t *w, int32_t row, int32_t peak)
{
    return mg_requantize(acc, w->multiplier[row] * peak, w->shift);
}

static void to_s8(int8_t *y, const int8_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w,
                  rows_t rows)
{
    int32_t acc[4];
    for (int32_t t = 0; t < tokens; t++, y += w->rows, x += w->cols) {
        for (int32_t row = 0, count; row < w->rows; row += count) {
            count = rows(acc, x, w, row);
            for (int32_t i = 0; i < count; i++) {
                y[row + i] = (int8_t)mg_saturate_s8(scaled(acc[i], w, row + i, scale[t].peak));
            }
        }
    }
}

static void to_s16(int16_t *y, const int8_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w,
                   rows_t rows)
{
    int32_t acc[4];
    for (int32_t t = 0; t < tokens; t++, y += w->rows, x += w->cols) {
        for (int32_t row = 0, count; row < w->rows; row += count) {
            count = rows(acc, x, w, row);
            for (int32_t i = 0; i < count; i++) {
                y[row + i] = (int16_t)mg_saturate_s16(scaled(acc[i], w, row + i, scale[t].peak));
            }
        }
    }
}

static void to_sum_s16(int16_t *y, const int16_t *residual, const int8_t *x, const mg_scale_t *scale, int32_t tokens,
                       const mg_linear_t *w, rows_t rows)
{
    int32_t acc[4];
    for (int32_t t = 0; t < tokens; t++, y += w->rows, residual += w->rows, x += w->cols) {
        for (int32_t row = 0, count; row < w->rows; row += count) {
            count = rows(acc, x, w, row);
            for (int32_t i = 0; i < count; i++) {
                const int64_t change = scaled(acc[i], w, row + i, scale[t].peak); /* < 2^46 */
                y[row + i] = (int16_t)mg_saturate_s16(residual[row + i] + change);
            }
        }
    }
}

void mg_linear_s8(int8_t *ring, int32_t slot, const int8_t *x, const mg_scale_t *scale, int32_t tokens,
                  const mg_linear_t *w)
{
    to_s8(ring + slot * w->rows, x, scale, tokens, w, rows_int8);
}

void mg_linear_s16(int16_t *y, const int8_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w)
{
    to_s16(y, x, scale, tokens, w, rows_int8);
}

void mg_linear_s32(int32_t *y, const int8_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w)
{
    int32_t acc[4];
    for (int32_t t = 0; t < tokens; t++, y += w->rows, x += w->cols) {
        for (int32_t row = 0, count; row < w->rows; row += count) {
            count = rows_int8(acc, x, w, row);
            for (int32_t i = 0; i < count; i++) {
                y[row + i] = mg_saturate_s32(scaled(acc[i], w, row + i, scale[t].peak));
            }
        }
    }
}

void mg_linear_add_s16(int16_t *y, const int16_t *residual, const int8_t *x, const mg_scale_t *scale, int32_t tokens,
                       const mg_linear_t *w)
{
    to_sum_s16(y, residual, x, scale, tokens, w, rows_int8);
}

void mg_linear4_s8(int8_t *ring, int32_t slot, const int8_t *x, const mg_scale_t *scale, int32_t tokens,
                   const mg_linear_t *w)
{
    to_s8(ring + slot * w->rows, x, scale, tokens, w, rows_int4);
}

void mg_linear4_s16(int16_t *y, const int8_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w)
{
    to_s16(y, x, scale, tokens, w, rows_int4);
}

void mg_linear4_add_s16(int16_t *y, const int16_t *residual, const int8_t *x, const mg_scale_t *scale, int32_t tokens,
                        const mg_linear_t *w)
{
    to_sum_s16(y, residual, x, scale, tokens, w, rows_int4);
}
