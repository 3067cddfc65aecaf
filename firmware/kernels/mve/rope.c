/* Rotary embedding, eight channels, that is four pairs, at a time. */
#include "kernels_mve.h"
#include "tables.h"
#include "vectors_mve.h"

/* Cosine and sine of four pairs, {c, s, c, s, ..} in Q15, of position * step. The fraction below the table's 512 steps
 * is the same for both, as they lie a quarter of a turn apart. VQRDMULH is round(step of the table * fraction / 2^15). */
static inline int16x8_t turns(int32_t position, uint32x4_t step)
{
    const uint32x4_t sine = vmulq_n_u32(step, (uint32_t)position); /* phase: whole turns wrap away */
    const uint32x4_t cosine = vaddq_n_u32(sine, 1u << 30);
    const uint16x8_t index =
        vreinterpretq_u16_u32(vsliq_n_u32(vshrq_n_u32(cosine, 23), vshrq_n_u32(sine, 23), 16));
    const uint32x4_t half = vshrq_n_u32(vshlq_n_u32(sine, 9), 17); /* [0, 2^15) */
    const int16x8_t fraction = vreinterpretq_s16_u32(vsliq_n_u32(half, half, 16));
    const int16x8_t low = vldrhq_gather_shifted_offset_s16(mg_sine_q15, index);
    const int16x8_t next = vldrhq_gather_shifted_offset_s16(mg_sine_q15 + 1, index);
    return vaddq_s16(low, vqrdmulhq_s16(vsubq_s16(next, low), fraction));
}

/* The steps of four pairs from channel `at` on; a head's steps begin again with every head. */
static inline uint32x4_t steps_from(int32_t at, const mg_rope_t *rope)
{
    const uint32_t pairs = (uint32_t)rope->head_dim >> 1;
    const uint32x4_t pair = viwdupq_n_u32(((uint32_t)at >> 1) % pairs, pairs, 1);
    return vldrwq_gather_shifted_offset_u32(rope->step, pair);
}

/* a c - b s and a s + b c, rounded from Q15 and saturated, of pairs a, b. */
static inline int16x8_t turned_s16(int16x8_t x, int16x8_t turn)
{
    return vqrdmladhxq_s16(vqrdmlsdhq_s16(x, x, turn), x, turn);
}

/* The same plus zero [8], rounded from Q(15 + shift), to codes in [-127, 127]. Pairs of int16 turn to at most
 * 2^15.5 * 2^15, and |zero| <= 127 * 2^22: their sum is below 2^31. */
static inline int16x8_t turned_s8(int16x8_t x, int16x8_t turn, const int32_t *zero, int32_t shift)
{
    const int16x8_t swapped = vrev32q_s16(turn); /* s, c */
    const int32x4_t even = vsubq_s32(vmullbq_int_s16(x, turn), vmulltq_int_s16(x, turn));
    const int32x4_t odd = vaddq_s32(vmullbq_int_s16(x, swapped), vmulltq_int_s16(x, swapped));
    const int16x8_t codes = mg_narrow_s16(vrshlq_n_s32(vaddq_s32(even, mg_every_other_s32(zero)), -15 - shift),
                                          vrshlq_n_s32(vaddq_s32(odd, mg_every_other_s32(zero + 1)), -15 - shift));
    return vmaxq_s16(vminq_s16(codes, vdupq_n_s16(127)), vdupq_n_s16(-127));
}

/* zero [8] from channel `at` on, as it is, or a copy where fewer than eight are left. */
static const int32_t *zeros_from(int32_t *copy, int32_t at, int32_t left, const mg_rope_t *rope)
{
    if (left >= MG_OCTET) {
        return rope->zero + at;
    }
    for (int32_t i = 0; i < MG_OCTET; i++) {
        copy[i] = (i < left) ? rope->zero[at + i] : 0;
    }
    return copy;
}

void mg_rope_s16_mve(int16_t *y, const int16_t *x, int32_t position, const mg_rope_t *rope)
{
    const int32_t size = rope->heads * rope->head_dim;
    if ((rope->head_dim & 7) != 0) {
        for (int32_t at = 0; at < size; at += MG_OCTET) {
            const mve_pred16_t here = vctp16q((uint32_t)(size - at));
            const int16x8_t turn = turns(position, steps_from(at, rope));
            vstrhq_p_s16(y + at, turned_s16(vldrhq_z_s16(x + at, here), turn), here);
        }
        return;
    }
    const int32_t stride = rope->head_dim;
    for (int32_t first = 0; first < stride; first += MG_OCTET) { /* the same channels of every head */
        const int16x8_t turn = turns(position, vldrwq_u32(rope->step + (first >> 1)));
        const int16_t *from = x + first;
        int16_t *to = y + first;
        for (int32_t heads = rope->heads; heads > 0; heads--) {
            vstrhq_s16(to, turned_s16(vldrhq_s16(from), turn));
            from += stride;
            to += stride;
        }
    }
}

/* Where the octet of channels from `at` on lies, of a slot of a ring of keys with `size` channels. */
static int8_t *octet_of(int8_t *ring, int32_t slot, int32_t at, int32_t size)
{
    const int32_t padded = (size + MG_OCTET - 1) & -MG_OCTET;
    return ring + (slot / MG_UNIT) * MG_UNIT * padded + at * MG_UNIT + (slot % MG_UNIT) * MG_OCTET;
}

void mg_rope_s8_mve(int8_t *ring, int32_t slot, const int16_t *x, int32_t position, const mg_rope_t *rope)
{
    const int32_t size = rope->heads * rope->head_dim;
    int8_t *octet = octet_of(ring, slot, 0, size);
    if ((rope->head_dim & 7) != 0) {
        int32_t copy[MG_OCTET];
        for (int32_t at = 0; at < size; at += MG_OCTET) {
            const int16x8_t turn = turns(position, steps_from(at, rope));
            const int32_t *zero = zeros_from(copy, at, size - at, rope);
            const int16x8_t eight = vldrhq_z_s16(x + at, vctp16q((uint32_t)(size - at)));
            vstrbq_s16(octet + at * MG_UNIT, turned_s8(eight, turn, zero, rope->shift));
        }
        return;
    }
    const int32_t stride = rope->head_dim;
    const int32_t shift = rope->shift;
    for (int32_t first = 0; first < stride; first += MG_OCTET) {
        const int16x8_t turn = turns(position, vldrwq_u32(rope->step + (first >> 1)));
        const int16_t *from = x + first;
        const int32_t *zero = rope->zero + first;
        int8_t *to = octet + first * MG_UNIT;
        for (int32_t heads = rope->heads; heads > 0; heads--) {
            vstrbq_s16(to, turned_s8(vldrhq_s16(from), turn, zero, shift));
            from += stride;
            zero += stride;
            to += stride * MG_UNIT;
        }
    }
}

void mg_rebase_s8_mve(int8_t *y, const int8_t *keys, int32_t rows, int32_t delta, const mg_rope_t *rope)
{
    const int32_t size = rope->heads * rope->head_dim;
    for (int32_t at = 0; at < size; at += MG_OCTET) {
        const int16x8_t turn = turns(-delta, steps_from(at, rope));
        int32_t copy[MG_OCTET];
        const int32_t *zero = zeros_from(copy, at, size - at, rope);
        /* A code without its zero point, 2^shift finer: |code * 2^7| + 127 * 2^7 <= 32512 fits int16. */
        const int16x8_t plain =
            mg_narrow_s16(vrshrq_n_s32(mg_every_other_s32(zero), 15), vrshrq_n_s32(mg_every_other_s32(zero + 1), 15));
        for (int32_t slot = 0; slot < rows; slot++) {
            const int32_t place = (int32_t)(octet_of(y, slot, at, size) - y);
            const int16x8_t fine = vsubq_s16(vshlq_r_s16(vldrbq_s16(keys + place), rope->shift), plain);
            vstrbq_s16(y + place, turned_s8(fine, turn, zero, rope->shift));
        }
    }
}
