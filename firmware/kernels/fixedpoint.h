/* Q-format arithmetic shared by the kernels. Twin: mcugen/kernels.py.
 * One rounding, half up: add half, shift right arithmetically. */
#ifndef MG_FIXEDPOINT_H
#define MG_FIXEDPOINT_H

#include <stdint.h>

/* C leaves the right shift of a negative number to the compiler; every one we support shifts arithmetically. */
typedef char mg_needs_arithmetic_shift[((-1 >> 1) == -1) ? 1 : -1];

static inline int32_t mg_saturate_s8(int64_t x)
{
    return (x > 127) ? 127 : (x < -127) ? -127 : (int32_t)x;
}

static inline int32_t mg_saturate_s16(int64_t x)
{
    return (x > INT16_MAX) ? INT16_MAX : (x < INT16_MIN) ? INT16_MIN : (int32_t)x;
}

static inline int32_t mg_saturate_s32(int64_t x)
{
    return (x > INT32_MAX) ? INT32_MAX : (x < INT32_MIN) ? INT32_MIN : (int32_t)x;
}

/* x / 2^shift, half up; 0 <= shift <= 30 and |x| <= 2^31 - 2^(shift-1), so that the sum fits. */
static inline int32_t mg_round_shift_s32(int32_t x, int32_t shift)
{
    return (x + (((int32_t)1 << shift) >> 1)) >> shift;
}

/* x / 2^shift, half up; 0 <= shift <= 62 and |x| <= 2^62. */
static inline int64_t mg_round_shift_s64(int64_t x, int32_t shift)
{
    return (x + (((int64_t)1 << shift) >> 1)) >> shift;
}

/* acc * multiplier / 2^shift, half up. 0 <= multiplier <= 2^30: |product| <= 2^61. */
static inline int64_t mg_requantize(int32_t acc, int32_t multiplier, int32_t shift)
{
    return mg_round_shift_s64((int64_t)acc * multiplier, shift);
}

/* Bits needed to write x: 0 for 0, 32 for 2^31 and above. */
static inline int32_t mg_bit_length(uint32_t x)
{
    int32_t bits = 0;
    for (int32_t half = 16; half > 0; half >>= 1) {
        if ((x >> half) != 0u) {
            x >>= half;
            bits += half;
        }
    }
    return bits + (int32_t)x;
}

/* table [65], 64 steps on [-8, 8], at a Q(frac) gate, 4 <= frac <= 11: linear in between, flat beyond.
 * Neighbours differ by at most 2^12, so that step * fraction stays below 2^21. */
static inline int32_t mg_gate_q15(const int16_t *table, int32_t gate, int32_t frac)
{
    const int32_t limit = 8 << frac; /* <= 2^14 */
    const int32_t inside = (gate < -limit) ? -limit : (gate > limit - 1) ? limit - 1 : gate;
    const int32_t z = inside + limit;  /* [0, 2^15): 64 steps of 2^(frac - 2) */
    const int32_t step_bits = frac - 2; /* [2, 9] */
    const int32_t index = z >> step_bits;
    const int32_t fraction = z & ((1 << step_bits) - 1);
    const int32_t low = table[index];
    const int32_t step = table[index + 1] - low;
    return low + mg_round_shift_s32(step * fraction, step_bits);
}

/* floor(sqrt(x)) for x in [2^30, 2^32), bit by bit from the top (Warren, Hacker's Delight, section 11-1). */
static inline uint32_t mg_isqrt32(uint32_t x)
{
    uint32_t root = 1u << 30;
    x -= root;
    for (uint32_t bit = 1u << 28; bit != 0u; bit >>= 2) {
        const uint32_t trial = root + bit;
        root >>= 1;
        if (x >= trial) {
            x -= trial;
            root += bit;
        }
    }
    return root;
}

#endif
