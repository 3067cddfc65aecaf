/* Linear layers of int4 weights, with or without a scale for every group of columns. */
#include "kernels_dsp.h"
#include "matrix.h"

static const mg_products_t products = {mg_gemv_s4_dsp, mg_gemm_s4_dsp};

static void multiply(const mg_output_t *out, const int16_t *x, const mg_scale_t *scale, int32_t tokens,
                     const mg_linear_t *w)
{
    if (w->group != 0) {
        mg_groups_dsp(out, x, scale, tokens, w);
    } else {
        mg_multiply_dsp(out, x, scale, tokens, w, &products);
    }
}

void mg_linear4_s16_dsp(int16_t *y, const int16_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w)
{
    const mg_output_t out = {mg_finish_s16_dsp, (int8_t *)y, y, 2, -1};
    multiply(&out, x, scale, tokens, w);
}

void mg_linear4_s8_dsp(int8_t *ring, int32_t slot, const int16_t *x, const mg_scale_t *scale, int32_t tokens,
                       const mg_linear_t *w)
{
    int8_t *at = ring + mg_value_slot_dsp(slot, w->rows);
    const mg_output_t out = {mg_finish_s8_dsp, at, (int16_t *)(void *)at, 2, slot};
    multiply(&out, x, scale, tokens, w);
}

void mg_linear4_add_s16_dsp(int16_t *y, const int16_t *residual, const int16_t *x, const mg_scale_t *scale,
                            int32_t tokens, const mg_linear_t *w)
{
    const mg_output_t out = {mg_finish_add_s16_dsp, (int8_t *)y, residual, 2, -1};
    multiply(&out, x, scale, tokens, w);
}
