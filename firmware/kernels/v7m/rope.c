#include "key_quads.h"

#include "kernels_v7m.h"

void mg_rope_s8_v7m(int8_t *ring, int32_t slot, const int16_t *x, int32_t position, const mg_rope_t *rope)
{
    mg_rope_quads(ring, slot, x, position, rope);
}

/* In place: keys is y. */
void mg_rebase_s8_v7m(int8_t *y, const int8_t *keys, int32_t rows, int32_t delta, const mg_rope_t *rope)
{
    (void)keys;
    mg_rebase_quads(y, rows, delta, rope);
}
