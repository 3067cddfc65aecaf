/* Rotary position embedding into a ring of keys that holds words of one channel in four slots, [slot / 4][channel],
 * byte slot % 4, all but the last byte with the top bit turned over; shared by the families v6m and v7m. Why int32 is
 * enough: see rope.c, whose twin in every number this is. */
#ifndef MG_KEY_QUADS_H
#define MG_KEY_QUADS_H

#include <stdint.h>

#include "fixedpoint.h"
#include "kernels.h"
#include "tables.h"

typedef struct {
    int32_t cosine; /* Q15 */
    int32_t sine;   /* Q15 */
} mg_turn_t;

/* sin(2 pi phase / 2^32) in Q15, linear between 512 table steps. */
static inline int32_t mg_sine(uint32_t phase)
{
    const int16_t *at = mg_sine_q15 + (phase >> 23);
    const int32_t fraction = (int32_t)((phase >> 8) & 0x7FFFu); /* Q15 */
    return at[0] + mg_round_shift_s32((at[1] - at[0]) * fraction, 15);
}

static inline mg_turn_t mg_turn_at(int32_t position, uint32_t step)
{
    const uint32_t phase = (uint32_t)position * step; /* whole turns wrap away */
    const mg_turn_t turn = {mg_sine(phase + (1u << 30)), mg_sine(phase)};
    return turn;
}

/* What turns the top bit over in the byte of a slot. */
static inline int32_t mg_key_flip(int32_t slot)
{
    return ((slot & 3) == 3) ? 0 : 128;
}

static inline uint8_t *mg_key(int8_t *ring, int32_t slot, int32_t size)
{
    return (uint8_t *)ring + (slot >> 2) * (4 * size) + (slot & 3);
}

static inline uint8_t mg_key_code(int32_t sum, int32_t shift, int32_t flip)
{
    const int32_t x = mg_round_shift_s32(sum, shift);
    return (uint8_t)(((x > 127) ? 127 : (x < -127) ? -127 : x) ^ flip);
}

/* Turn the pair a, b (int16 range) that starts at channel i, to the bytes of its slot. */
static inline void mg_turn_pair(uint8_t *y, int32_t a, int32_t b, int32_t i, mg_turn_t turn, int32_t flip,
                                const mg_rope_t *rope)
{
    const int32_t shift = 15 + rope->shift;
    y[4 * i] = mg_key_code(a * turn.cosine - b * turn.sine + rope->zero[i], shift, flip);
    y[4 * i + 4] = mg_key_code(a * turn.sine + b * turn.cosine + rope->zero[i + 1], shift, flip);
}

static inline void mg_rope_quads(int8_t *ring, int32_t slot, const int16_t *x, int32_t position,
                                 const mg_rope_t *rope)
{
    const int32_t size = rope->heads * rope->head_dim;
    const int32_t flip = mg_key_flip(slot);
    uint8_t *y = mg_key(ring, slot, size);
    for (int32_t pair = 0; pair < rope->head_dim; pair += 2) {
        const mg_turn_t turn = mg_turn_at(position, rope->step[pair >> 1]);
        for (int32_t i = pair; i < size; i += rope->head_dim) {
            mg_turn_pair(y, x[i], x[i + 1], i, turn, flip, rope);
        }
    }
}

/* A cached code without its zero point, 2^shift finer: |code * 2^7| + 127 * 2^7 <= 32512 fits int16. */
static inline int32_t mg_plain_key(uint8_t byte, int32_t flip, int32_t i, const mg_rope_t *rope)
{
    const int32_t code = ((byte ^ flip) ^ 128) - 128;
    return code * ((int32_t)1 << rope->shift) - mg_round_shift_s32(rope->zero[i], 15);
}

static inline void mg_rebase_quads(int8_t *ring, int32_t rows, int32_t delta, const mg_rope_t *rope)
{
    const int32_t size = rope->heads * rope->head_dim;
    for (int32_t pair = 0; pair < rope->head_dim; pair += 2) {
        const mg_turn_t turn = mg_turn_at(-delta, rope->step[pair >> 1]);
        for (int32_t slot = 0; slot < rows; slot++) {
            const int32_t flip = mg_key_flip(slot);
            uint8_t *y = mg_key(ring, slot, size);
            for (int32_t i = pair; i < size; i += rope->head_dim) {
                const int32_t a = mg_plain_key(y[4 * i], flip, i, rope);
                const int32_t b = mg_plain_key(y[4 * i + 4], flip, i + 1, rope);
                mg_turn_pair(y, a, b, i, turn, flip, rope);
            }
        }
    }
}

#endif
