/* Rotary position embedding on neighbouring pairs (Su et al., RoFormer, 2021), as llama2.c has it.
 *
 * Why int32 is enough: table and interpolation keep cosine^2 + sine^2 <= (32767 + 1)^2, so by Cauchy-Schwarz
 * |a * cosine - b * sine| <= sqrt(2) * 2^15 * 2^15 < 1518600000. A zero point adds at most 127 * 2^22 < 532800000 and
 * rounding 2^21: the sum stays below 2053500000 < 2^31. */
#include "fixedpoint.h"
#include "kernels.h"
#include "tables.h"

typedef struct {
    int32_t cosine; /* Q15 */
    int32_t sine;   /* Q15 */
} turn_t;

/* sin(2 pi phase / 2^32) in Q15, linear between 512 table steps. */
static int32_t sine_q15(uint32_t phase)
{
    const uint32_t index = phase >> 23;
    const int32_t fraction = (int32_t)((phase >> 8) & 0x7FFFu); /* Q15 */
    const int32_t low = mg_sine_q15[index];
    const int32_t step = mg_sine_q15[index + 1u] - low; /* |step| <= 403: step * fraction < 2^24 */
    return low + mg_round_shift_s32(step * fraction, 15);
}

static turn_t turn_at(int32_t position, uint32_t step)
{
    const uint32_t phase = (uint32_t)position * step; /* whole turns wrap away */
    const turn_t turn = {sine_q15(phase + (1u << 30)), sine_q15(phase)};
    return turn;
}

void mg_rope_s16(int16_t *y, const int16_t *x, int32_t position, const mg_rope_t *rope)
{
    const int32_t size = rope->heads * rope->head_dim;
    for (int32_t pair = 0; pair < rope->head_dim; pair += 2) {
        const turn_t turn = turn_at(position, rope->step[pair >> 1]);
        for (int32_t i = pair; i < size; i += rope->head_dim) {
            const int32_t a = x[i];
            const int32_t b = x[i + 1];
            y[i] = (int16_t)mg_saturate_s16(mg_round_shift_s32(a * turn.cosine - b * turn.sine, 15));
            y[i + 1] = (int16_t)mg_saturate_s16(mg_round_shift_s32(a * turn.sine + b * turn.cosine, 15));
        }
    }
}

/* Turn the pair a, b (int16 range) that starts at channel i, and code it in int8. */
static void turn_pair_s8(int8_t *y, int32_t a, int32_t b, int32_t i, turn_t turn, const mg_rope_t *rope)
{
    const int32_t shift = 15 + rope->shift;
    const int32_t even = a * turn.cosine - b * turn.sine + rope->zero[i];
    const int32_t odd = a * turn.sine + b * turn.cosine + rope->zero[i + 1];
    y[i] = (int8_t)mg_saturate_s8(mg_round_shift_s32(even, shift));
    y[i + 1] = (int8_t)mg_saturate_s8(mg_round_shift_s32(odd, shift));
}

void mg_rope_s8(int8_t *ring, int32_t slot, const int16_t *x, int32_t position, const mg_rope_t *rope)
{
    const int32_t size = rope->heads * rope->head_dim;
    int8_t *y = ring + slot * size;
    for (int32_t pair = 0; pair < rope->head_dim; pair += 2) {
        const turn_t turn = turn_at(position, rope->step[pair >> 1]);
        for (int32_t i = pair; i < size; i += rope->head_dim) {
            turn_pair_s8(y, x[i], x[i + 1], i, turn, rope);
        }
    }
}

/* A cached code without its zero point, 2^shift finer: |code * 2^7| + 127 * 2^7 <= 32512 fits int16. */
static int32_t plain_key(int32_t code, int32_t i, const mg_rope_t *rope)
{
    return code * ((int32_t)1 << rope->shift) - mg_round_shift_s32(rope->zero[i], 15);
}

void mg_rebase_s8(int8_t *y, const int8_t *keys, int32_t rows, int32_t delta, const mg_rope_t *rope)
{
    const int32_t size = rope->heads * rope->head_dim;
    for (int32_t pair = 0; pair < rope->head_dim; pair += 2) {
        const turn_t turn = turn_at(-delta, rope->step[pair >> 1]);
        for (int32_t row = 0; row < rows; row++) {
            const int8_t *key = keys + row * size;
            for (int32_t i = pair; i < size; i += rope->head_dim) {
                const int32_t a = plain_key(key[i], i, rope);
                const int32_t b = plain_key(key[i + 1], i + 1, rope);
                turn_pair_s8(y + row * size, a, b, i, turn, rope);
            }
        }
    }
}
