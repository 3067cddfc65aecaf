/* Linear layers of int8 weights. */
#include "kernels_dsp.h"
#include "matrix.h"

static const mg_products_t products = {mg_gemv_s8_dsp, mg_gemm_s8_dsp};

void mg_linear_s16_dsp(int16_t *y, const int16_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w)
{
    const mg_output_t out = {mg_finish_s16_dsp, (int8_t *)y, y, 2, -1};
    mg_multiply_dsp(&out, x, scale, tokens, w, &products);
}

void mg_linear_s32_dsp(int32_t *y, const int16_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w)
{
    const mg_output_t out = {mg_finish_s32_dsp, (int8_t *)y, (int16_t *)y, 4, -1};
    mg_multiply_dsp(&out, x, scale, tokens, w, &products);
}

void mg_linear_s8_dsp(int8_t *ring, int32_t slot, const int16_t *x, const mg_scale_t *scale, int32_t tokens,
                      const mg_linear_t *w)
{
    int8_t *at = ring + mg_value_slot_dsp(slot, w->rows);
    const mg_output_t out = {mg_finish_s8_dsp, at, (int16_t *)(void *)at, 2, slot};
    mg_multiply_dsp(&out, x, scale, tokens, w, &products);
}

void mg_linear_add_s16_dsp(int16_t *y, const int16_t *residual, const int16_t *x, const mg_scale_t *scale,
                           int32_t tokens, const mg_linear_t *w)
{
    const mg_output_t out = {mg_finish_add_s16_dsp, (int8_t *)y, residual, 2, -1};
    mg_multiply_dsp(&out, x, scale, tokens, w, &products);
}
