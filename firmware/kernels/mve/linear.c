/* Products that go into the ring of values, token by token: the rest of a matrix product is linear_mve.S. */
#include "kernels_mve.h"

enum { MG_UNIT = 16 }; /* slots of the ring whose bytes of one channel lie together */

/* linear_mve.S: the slot that begins at `column`, one byte in sixteen. tokens is 1. */
void mg_linear_column_s8_mve(int8_t *column, const int8_t *x, const mg_scale_t *scale, int32_t tokens,
                             const mg_linear_t *w);
void mg_linear4_column_s8_mve(int8_t *column, const int8_t *x, const mg_scale_t *scale, int32_t tokens,
                              const mg_linear_t *w);

static int8_t *column_of(int8_t *ring, int32_t slot, const mg_linear_t *w)
{
    return ring + (slot / MG_UNIT) * MG_UNIT * w->rows + slot % MG_UNIT;
}

void mg_linear_s8_mve(int8_t *ring, int32_t slot, const int8_t *x, const mg_scale_t *scale, int32_t tokens,
                      const mg_linear_t *w)
{
    const int32_t stride = (w->cols + 15) & ~15;
    for (int32_t t = 0; t < tokens; t++) {
        mg_linear_column_s8_mve(column_of(ring, slot + t, w), x + t * stride, scale + t, 1, w);
    }
}

void mg_linear4_s8_mve(int8_t *ring, int32_t slot, const int8_t *x, const mg_scale_t *scale, int32_t tokens,
                       const mg_linear_t *w)
{
    const int32_t stride = (w->cols + 15) & ~15;
    for (int32_t t = 0; t < tokens; t++) {
        mg_linear4_column_s8_mve(column_of(ring, slot + t, w), x + t * stride, scale + t, 1, w);
    }
}
