/* The integer kernels of a decode step. Each has a numpy twin of the same name (without mg_) in mcugen/kernels.py;
 * the two agree bit for bit. Outputs come first, then inputs, sizes, parameters. Unless stated, an output does not
 * overlap an input.
 *
 * A vector that feeds a matrix is a block: int8 codes in [-127, 127] that use the whole range, and one scale.
 * value = code * peak / 127, peak = mantissa * 2^exponent. */
#ifndef MG_KERNELS_H
#define MG_KERNELS_H

#include <stdint.h>

/* mantissa in [2^13, 2^14), exponent in [-13, 2]. */
typedef struct {
    int32_t mantissa;
    int32_t exponent;
} mg_scale_t;

/* An int8 matrix [rows][cols], row-major, codes in [-127, 127], with sum|row| * 127 < 2^31; multiplier [rows] in
 * [0, 2^15); 2 < shift <= 49, common to all rows (an embedding table: 1 <= shift <= 62). */
typedef struct {
    const int8_t *codes;
    const int16_t *multiplier;
    int32_t rows;
    int32_t cols;
    int32_t shift;
} mg_linear_t;

/* gain [dim] in Q(gain_frac), -14 <= gain_frac <= 15; eps >= 1 in squared units of the input. */
typedef struct {
    const int16_t *gain;
    int32_t dim;
    int32_t gain_frac;
    int64_t eps;
} mg_norm_t;

/* step [head_dim / 2]: turns per position in Q32. zero [heads * head_dim] in Q(15 + shift) of an int8 code,
 * |zero| <= 127 * 2^(15 + shift), 0 <= shift <= 7 (int8 keys only). */
typedef struct {
    const uint32_t *step;
    const int32_t *zero;
    int32_t heads;
    int32_t head_dim;
    int32_t shift;
} mg_rope_t;

/* multiplier [n_heads] in [0, 2^15) and shift in [1, 62]: scores to 1/64 octaves. drop: bits dropped from the Q15
 * weights so that context * 2^(15 - drop) * 127 < 2^31. n_kv_heads divides n_heads; head_dim is even, <= 256. */
typedef struct {
    const int16_t *multiplier;
    int32_t n_heads;
    int32_t n_kv_heads;
    int32_t head_dim;
    int32_t shift;
    int32_t drop;
} mg_attention_t;

/* y [cols] = requantize(codes[token]) to int16. */
void mg_embed_s16(int16_t *y, int32_t token, const mg_linear_t *table);

/* The block nearest to x [n]: codes [n] and their scale. */
void mg_block_s8(int8_t *codes, mg_scale_t *scale, const int16_t *x, int32_t n);

/* y [rows] = requantize(w x), saturated to the output's width. x [cols] with its scale. */
void mg_linear_s8(int8_t *y, const int8_t *x, const mg_scale_t *scale, const mg_linear_t *w);
void mg_linear_s16(int16_t *y, const int8_t *x, const mg_scale_t *scale, const mg_linear_t *w);
void mg_linear_s32(int32_t *y, const int8_t *x, const mg_scale_t *scale, const mg_linear_t *w);

/* y [rows] = residual + requantize(w x), saturated once; y may be residual. */
void mg_linear_add_s16(int16_t *y, const int16_t *residual, const int8_t *x, const mg_scale_t *scale,
                       const mg_linear_t *w);

/* y [dim] = x * gain / sqrt(sum(x^2) + eps). */
void mg_rmsnorm_s16(int16_t *y, const int16_t *x, const mg_norm_t *norm);

/* y [heads * head_dim] = x with neighbouring pairs turned by position; y may be x. */
void mg_rope_s16(int16_t *y, const int16_t *x, int32_t position, const mg_rope_t *rope);

/* The same, plus the zero point, to int8 key codes. x is 2^shift finer than a code. */
void mg_rope_s8(int8_t *y, const int16_t *x, int32_t position, const mg_rope_t *rope);

/* Turn `rows` cached keys [rows][heads * head_dim] back by delta positions, in place; y is keys. */
void mg_rebase_s8(int8_t *y, const int8_t *keys, int32_t rows, int32_t delta, const mg_rope_t *rope);

/* out [n_heads * head_dim] in Q8 of a V code: softmax(q . keys) . values over `length` >= 1 rows of
 * keys, values [length][n_kv_heads * head_dim]. scores [length] is scratch. */
void mg_attention_s16(int16_t *out, const int16_t *q, const int8_t *keys, const int8_t *values, int32_t *scores,
                      int32_t length, const mg_attention_t *attention);

/* y [n] = silu(gate) * up >> shift, 1 <= shift <= 30; gate in Q(gate_frac), 4 <= gate_frac <= 11. y may be gate. */
void mg_swiglu_s16(int16_t *y, const int16_t *gate, const int16_t *up, int32_t n, int32_t gate_frac, int32_t shift);

#endif
