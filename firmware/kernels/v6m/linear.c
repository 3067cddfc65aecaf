/* Matrix times vector: kernels/row_digits.c on the assembly of this family. */
#include "row_digits.h"

#include "kernels_v6m.h"

const uint32_t *mg_gemv_s8_v6m(int32_t *acc, const uint8_t *x, const uint32_t *w, int32_t cols, int32_t blocks,
                               int32_t offset);
const uint32_t *mg_gemv_s4_v6m(int32_t *acc, const uint8_t *x, const uint32_t *w, int32_t cols, int32_t blocks,
                               int32_t offset);
const uint32_t *mg_gemv_s4_groups_v6m(int32_t *acc, const uint8_t *x, const uint32_t *w, int32_t cols,
                                      int32_t blocks, const int32_t *offsets, int32_t group);
void mg_finish_s8_v6m(void *y, const int32_t *acc, const int16_t *multiplier, int32_t rows, int32_t peak,
                      int32_t shift, const int16_t *residual);
void mg_finish_s16_v6m(void *y, const int32_t *acc, const int16_t *multiplier, int32_t rows, int32_t peak,
                       int32_t shift, const int16_t *residual);
void mg_finish_s32_v6m(void *y, const int32_t *acc, const int16_t *multiplier, int32_t rows, int32_t peak,
                       int32_t shift, const int16_t *residual);
void mg_finish_add_s16_v6m(void *y, const int32_t *acc, const int16_t *multiplier, int32_t rows, int32_t peak,
                           int32_t shift, const int16_t *residual);

/* A slot of the ring holds its channels, padded to four. */
static const mg_product_t to_s8 = {128, -128, mg_gemv_s8_v6m, 0, 0, mg_finish_s8_v6m, 1, 4};
static const mg_product_t to_s16 = {128, -128, mg_gemv_s8_v6m, 0, 0, mg_finish_s16_v6m, 2, 1};
static const mg_product_t to_s32 = {128, -128, mg_gemv_s8_v6m, 0, 0, mg_finish_s32_v6m, 4, 1};
static const mg_product_t to_sum = {128, -128, mg_gemv_s8_v6m, 0, 0, mg_finish_add_s16_v6m, 2, 1};
static const mg_product_t to_s8_4 = {
    128, -8, mg_gemv_s4_v6m, mg_gemv_s4_groups_v6m, 64, mg_finish_s8_v6m, 1, 4,
};
static const mg_product_t to_s16_4 = {
    128, -8, mg_gemv_s4_v6m, mg_gemv_s4_groups_v6m, 64, mg_finish_s16_v6m, 2, 1,
};
static const mg_product_t to_sum_4 = {
    128, -8, mg_gemv_s4_v6m, mg_gemv_s4_groups_v6m, 64, mg_finish_add_s16_v6m, 2, 1,
};

void mg_linear_s16_v6m(int16_t *y, const uint8_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w)
{
    mg_row_digits(y, 0, x, scale, tokens, w, &to_s16);
}

void mg_linear_s32_v6m(int32_t *y, const uint8_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w)
{
    mg_row_digits(y, 0, x, scale, tokens, w, &to_s32);
}

void mg_linear_s8_v6m(int8_t *ring, int32_t slot, const uint8_t *x, const mg_scale_t *scale, int32_t tokens,
                      const mg_linear_t *w)
{
    mg_row_digits(ring + slot * ((w->rows + 3) & ~3), 0, x, scale, tokens, w, &to_s8);
}

void mg_linear_add_s16_v6m(int16_t *y, const int16_t *residual, const uint8_t *x, const mg_scale_t *scale,
                           int32_t tokens, const mg_linear_t *w)
{
    mg_row_digits(y, residual, x, scale, tokens, w, &to_sum);
}

void mg_linear4_s16_v6m(int16_t *y, const uint8_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w)
{
    mg_row_digits(y, 0, x, scale, tokens, w, &to_s16_4);
}

void mg_linear4_s8_v6m(int8_t *ring, int32_t slot, const uint8_t *x, const mg_scale_t *scale, int32_t tokens,
                       const mg_linear_t *w)
{
    mg_row_digits(ring + slot * ((w->rows + 3) & ~3), 0, x, scale, tokens, w, &to_s8_4);
}

void mg_linear4_add_s16_v6m(int16_t *y, const int16_t *residual, const uint8_t *x, const mg_scale_t *scale,
                            int32_t tokens, const mg_linear_t *w)
{
    mg_row_digits(y, residual, x, scale, tokens, w, &to_sum_4);
}
