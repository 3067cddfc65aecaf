/* The integer kernels of a forward pass. Each has a numpy twin of the same name (without mg_) in mcugen/kernels.py;
 * the two agree bit for bit. Outputs come first, then inputs, sizes, parameters. Unless stated, an output does not
 * overlap an input. The folders beside this file hold the same kernels for one kind of core each (the suffix of their
 * names), which may keep codes, rings and weights in a layout of their own; here they lie as they are counted.
 *
 * A vector that feeds a matrix is a block: int8 codes in [-127, 127] that use the whole range, and one scale.
 * value = code * peak / 127. */
#ifndef MG_KERNELS_H
#define MG_KERNELS_H

#include <stdint.h>

/* peak in [1, 2^15]; sum: of the block's codes. */
typedef struct {
    int32_t peak;
    int32_t sum;
} mg_scale_t;

/* A matrix of int8 codes in [-127, 127] or int4 codes in [-8, 7]; multiplier [rows] in [0, 2^15), 16 <= shift <= 32,
 * common to all rows (an embedding table: 1 <= shift <= 62); every accumulator is below 2^(shift - 1).
 * codes: here row-major; int4 rows hold two columns per byte, the even one in the low bits, and then their group
 * scales. group: columns per int8 group scale; 0: none. chunk: columns that a packed layout keeps together; here cols. */
typedef struct {
    const void *codes;
    const int16_t *multiplier;
    int32_t rows;
    int32_t cols;
    int32_t shift;
    int32_t chunk;
    int32_t group;
} mg_linear_t;

/* What follows TFLite Micro's FULLY_CONNECTED: multiplier [rows] in [0, 2^15), 16 <= shift <= 32. */
typedef struct {
    const int16_t *multiplier;
    int32_t rows;
    int32_t shift;
} mg_rescale_t;

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

/* shift in [1, 30]: q . k to 1/64 octaves. drop: bits dropped from the Q15 weights so that
 * context * 2^(15 - drop) * 127 < 2^31. n_kv_heads divides n_heads; head_dim is even, <= 256. */
typedef struct {
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

/* y [tokens][rows] = requantize(w x), saturated to the output's width. x [tokens][cols] with scale [tokens]. */
void mg_linear_s16(int16_t *y, const int8_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w);
void mg_linear_s32(int32_t *y, const int8_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w);

/* The same, into the slots of a ring [][rows] from `slot` on. */
void mg_linear_s8(int8_t *ring, int32_t slot, const int8_t *x, const mg_scale_t *scale, int32_t tokens,
                  const mg_linear_t *w);

/* y [tokens][rows] = residual + requantize(w x), saturated once; y may be residual. */
void mg_linear_add_s16(int16_t *y, const int16_t *residual, const int8_t *x, const mg_scale_t *scale, int32_t tokens,
                       const mg_linear_t *w);

/* The same with int4 weights. */
void mg_linear4_s16(int16_t *y, const int8_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w);
void mg_linear4_s8(int8_t *ring, int32_t slot, const int8_t *x, const mg_scale_t *scale, int32_t tokens,
                   const mg_linear_t *w);
void mg_linear4_add_s16(int16_t *y, const int16_t *residual, const int8_t *x, const mg_scale_t *scale, int32_t tokens,
                        const mg_linear_t *w);

/* y [rows] = requantize(codes), saturated. codes [rows], any int8: products with a block of this scale, in units of
 * FULLY_CONNECTED's output. */
void mg_rescale_s16(int16_t *y, const int8_t *codes, const mg_scale_t *scale, const mg_rescale_t *rescale);

/* y [rows] = residual + requantize(codes), saturated once; y may be residual. */
void mg_rescale_add_s16(int16_t *y, const int16_t *residual, const int8_t *codes, const mg_scale_t *scale,
                        const mg_rescale_t *rescale);

/* y [dim] = x * gain / sqrt(sum(x^2) + eps). */
void mg_rmsnorm_s16(int16_t *y, const int16_t *x, const mg_norm_t *norm);

/* The same for each head of x [heads * dim]; norm->gain [heads * dim]. rmsnorm: mg_rmsnorm_s16 of any family. */
typedef void (*mg_rmsnorm_t)(int16_t *y, const int16_t *x, const mg_norm_t *norm);
void mg_headnorm_s16(int16_t *y, const int16_t *x, int32_t heads, const mg_norm_t *norm, mg_rmsnorm_t rmsnorm);

/* y [n] = x + b, saturated. y may be x. */
void mg_add_s16(int16_t *y, const int16_t *x, const int16_t *b, int32_t n);

/* y [n] = x * weight, a Q15 number in [0, 2^15). y may be x. */
void mg_scale_s16(int16_t *y, const int16_t *x, int32_t n, int32_t weight);

/* y [heads * head_dim] = x with neighbouring pairs turned by position; y may be x. */
void mg_rope_s16(int16_t *y, const int16_t *x, int32_t position, const mg_rope_t *rope);

/* The same, plus the zero point, to int8 key codes in one slot of a ring [][heads * head_dim]. x is 2^shift finer than
 * a code. */
void mg_rope_s8(int8_t *ring, int32_t slot, const int16_t *x, int32_t position, const mg_rope_t *rope);

/* Row `row` >= 0 of y [rows][n] becomes x [n]; where it has no such row, y stays as it is. */
void mg_keep_s16(int16_t *y, int32_t rows, int32_t row, const int16_t *x, int32_t n);

/* Turn all `rows` cached keys of a ring back by delta positions, in place; y is keys. */
void mg_rebase_s8(int8_t *y, const int8_t *keys, int32_t rows, int32_t delta, const mg_rope_t *rope);

/* out [n_heads * head_dim] in Q8 of a V code: softmax(q . keys) . values over the first `length` >= 1 slots of the
 * rings keys, values [][n_kv_heads * head_dim]. scores [length] is scratch. */
void mg_attention_s16(int16_t *out, const int16_t *q, const int8_t *keys, const int8_t *values, int16_t *scores,
                      int32_t length, const mg_attention_t *attention);

/* Channels that share a step in a ring of int4 values, and bytes of a slot of n channels: two codes in each, the even
 * channel in the lower half, then the steps (attention4.c). */
enum { MG_VALUES4_GROUP = 16 };
#define MG_VALUES4_BYTES(n) ((n) / 2 + ((n) + MG_VALUES4_GROUP - 1) / MG_VALUES4_GROUP)

/* The slot of a ring of int4 values [][MG_VALUES4_BYTES(n)]: x [n] in units of an int8 code, saturated to [-127, 127];
 * n even. */
void mg_values4_s16(int8_t *ring, int32_t slot, const int16_t *x, int32_t n);

/* mg_attention_s16 over int4 values. */
void mg_attention4_s16(int16_t *out, const int16_t *q, const int8_t *keys, const int8_t *values, int16_t *scores,
                       int32_t length, const mg_attention_t *attention);

/* y [n] = silu(gate) * up >> shift, 1 <= shift <= 30; gate in Q(gate_frac), 4 <= gate_frac <= 11. y may be gate. */
void mg_swiglu_s16(int16_t *y, const int16_t *gate, const int16_t *up, int32_t n, int32_t gate_frac, int32_t shift);

/* The same with gelu(gate), and with its tanh approximation. */
void mg_geglu_s16(int16_t *y, const int16_t *gate, const int16_t *up, int32_t n, int32_t gate_frac, int32_t shift);
void mg_geglu_tanh_s16(int16_t *y, const int16_t *gate, const int16_t *up, int32_t n, int32_t gate_frac,
                       int32_t shift);

/* y [n] = max(gate, 0) * up >> shift, and (max(gate, 0)^2 >> 15) * up >> shift; 1 <= shift <= 30. y may be gate. */
void mg_reglu_s16(int16_t *y, const int16_t *gate, const int16_t *up, int32_t n, int32_t shift);
void mg_relu2glu_s16(int16_t *y, const int16_t *gate, const int16_t *up, int32_t n, int32_t shift);

/* choice [count] = the ids of the largest of logits [n], the lowest first among equals; weight [count] = their softmax
 * in Q15, at most 32767. logits in Q16 nats; 1 <= count <= n <= 64. */
void mg_route_s32(int32_t *choice, int16_t *weight, const int32_t *logits, int32_t n, int32_t count);

#endif
