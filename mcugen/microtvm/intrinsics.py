"""The C that functions with intrinsics call: its declarations, and what stands between."""

from __future__ import annotations

from collections.abc import Mapping

_DSP = """\
/* Instructions of Armv7E-M that C has no words for. */
static inline int32_t tvm_saturate_s16(int32_t x)
{
    int32_t y;
    __asm__("ssat %0, #16, %1" : "=r"(y) : "r"(x) : "cc");
    return y;
}

/* acc + the products of the two int16 in a and b; wraps. */
static inline int32_t tvm_smlad(uint32_t a, uint32_t b, int32_t acc)
{
    int32_t sum;
    __asm__("smlad %0, %1, %2, %3" : "=r"(sum) : "r"(a), "r"(b), "r"(acc) : "cc");
    return sum;
}

/* The int8 in bytes 0 and 2 as two int16. */
static inline uint32_t tvm_even_bytes(uint32_t word)
{
    uint32_t pair;
    __asm__("sxtb16 %0, %1" : "=r"(pair) : "r"(word));
    return pair;
}

/* The int8 in bytes 1 and 3 as two int16. */
static inline uint32_t tvm_odd_bytes(uint32_t word)
{
    uint32_t pair;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(pair) : "r"(word));
    return pair;
}

/* The larger of the two int16 in a and b, each, as they come in a word. */
static inline int32_t tvm_larger_s16(int32_t a, int32_t b)
{
    int32_t larger;
    __asm__("ssub16 %0, %1, %2; sel %0, %1, %2" : "=&r"(larger) : "r"(a), "r"(b) : "cc");
    return larger;
}

/* The smaller of the two. */
static inline int32_t tvm_smaller_s16(int32_t a, int32_t b)
{
    int32_t smaller;
    __asm__("ssub16 %0, %1, %2; sel %0, %2, %1" : "=&r"(smaller) : "r"(a), "r"(b) : "cc");
    return smaller;
}

/* firmware/kernels/dsp */
const uint32_t *mg_gemv_s8_dsp(int32_t *acc, const int16_t *x, const uint32_t *stream, int32_t cols, int32_t blocks,
                               const int32_t *scale);
const uint32_t *mg_gemv_s4_dsp(int32_t *acc, const int16_t *x, const uint32_t *stream, int32_t cols, int32_t blocks,
                               const int32_t *scale);
const uint32_t *mg_gemv_s4_groups_dsp(int32_t *acc, const int16_t *x, const uint32_t *stream, int32_t cols,
                                      int32_t blocks, const int32_t *records, int32_t add);
void mg_group_records_dsp(int32_t *records, const int16_t *x, int32_t cols);
void mg_finish_s16_dsp(void *y, const int32_t *acc, const int16_t *multiplier, int32_t rows, int32_t peak,
                       int32_t shift, const void *residual);
void mg_finish_s8_dsp(void *y, const int32_t *acc, const int16_t *multiplier, int32_t rows, int32_t peak,
                      int32_t shift, const void *residual);
void mg_finish_s32_dsp(void *y, const int32_t *acc, const int16_t *multiplier, int32_t rows, int32_t peak,
                       int32_t shift, const void *residual);
void mg_finish_add_s16_dsp(void *y, const int32_t *acc, const int16_t *multiplier, int32_t rows, int32_t peak,
                           int32_t shift, const void *residual);

/* acc [blocks][4] = rows with group scales times x [cols]; cols <= 320, as the packing cuts them. */
static inline void tvm_gemv_s4_groups(int32_t *acc, const int16_t *x, const uint32_t *stream, int32_t cols,
                                      int32_t blocks)
{
    int32_t records[40]; /* four words for 32 columns */
    mg_group_records_dsp(records, x, cols);
    mg_gemv_s4_groups_dsp(acc, x, stream, cols, blocks, records, 0);
}
"""

_MVE = """\
/* firmware/kernels/mve; mg_linear_t is that of firmware/kernels/kernels.h */
typedef struct {
    const void *codes;
    const int16_t *multiplier;
    int32_t rows;
    int32_t cols;
    int32_t shift;
    int32_t chunk;
    int32_t group;
} mg_linear_t;

void mg_linear_s16_mve(int16_t *y, const int8_t *x, const int32_t *scale, int32_t tokens, const mg_linear_t *w);
void mg_linear_s32_mve(int32_t *y, const int8_t *x, const int32_t *scale, int32_t tokens, const mg_linear_t *w);
void mg_linear_add_s16_mve(int16_t *y, const int16_t *residual, const int8_t *x, const int32_t *scale, int32_t tokens,
                           const mg_linear_t *w);
void mg_linear4_s16_mve(int16_t *y, const int8_t *x, const int32_t *scale, int32_t tokens, const mg_linear_t *w);
void mg_linear4_add_s16_mve(int16_t *y, const int16_t *residual, const int8_t *x, const int32_t *scale,
                            int32_t tokens, const mg_linear_t *w);

static inline void tvm_linear_s16(int16_t *y, const int8_t *x, const int32_t *scale, const int8_t *codes,
                                  const int16_t *multiplier, int32_t shift, int32_t rows, int32_t cols, int32_t chunk,
                                  int32_t group)
{
    const mg_linear_t w = {codes, multiplier, rows, cols, shift, chunk, group};
    mg_linear_s16_mve(y, x, scale, 1, &w);
}

static inline void tvm_linear_s32(int32_t *y, const int8_t *x, const int32_t *scale, const int8_t *codes,
                                  const int16_t *multiplier, int32_t shift, int32_t rows, int32_t cols, int32_t chunk,
                                  int32_t group)
{
    const mg_linear_t w = {codes, multiplier, rows, cols, shift, chunk, group};
    mg_linear_s32_mve(y, x, scale, 1, &w);
}

static inline void tvm_linear_add_s16(int16_t *y, const int16_t *residual, const int8_t *x, const int32_t *scale,
                                      const int8_t *codes, const int16_t *multiplier, int32_t shift, int32_t rows,
                                      int32_t cols, int32_t chunk, int32_t group)
{
    const mg_linear_t w = {codes, multiplier, rows, cols, shift, chunk, group};
    mg_linear_add_s16_mve(y, residual, x, scale, 1, &w);
}

static inline void tvm_linear4_s16(int16_t *y, const int8_t *x, const int32_t *scale, const int8_t *codes,
                                   const int16_t *multiplier, int32_t shift, int32_t rows, int32_t cols,
                                   int32_t chunk, int32_t group)
{
    const mg_linear_t w = {codes, multiplier, rows, cols, shift, chunk, group};
    mg_linear4_s16_mve(y, x, scale, 1, &w);
}

static inline void tvm_linear4_add_s16(int16_t *y, const int16_t *residual, const int8_t *x, const int32_t *scale,
                                       const int8_t *codes, const int16_t *multiplier, int32_t shift, int32_t rows,
                                       int32_t cols, int32_t chunk, int32_t group)
{
    const mg_linear_t w = {codes, multiplier, rows, cols, shift, chunk, group};
    mg_linear4_add_s16_mve(y, residual, x, scale, 1, &w);
}
"""

# Function.intrinsics -> C in front of the functions.
INTRINSIC_DECLARATIONS: Mapping[str, str] = {"": "", "dsp": _DSP, "mve": _MVE}
