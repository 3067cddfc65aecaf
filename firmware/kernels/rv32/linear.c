/* Matrix times vector: tiles of rows whose products the assembly leaves on the stack, and their output stage. */
#include "fixedpoint.h"
#include "kernels_rv32.h"

enum {
    BLOCK = 16, /* rows that the assembly takes at a time */
    TILE = 64   /* rows of a tile, whole blocks */
};

/* How one token's products become outputs. up = 32 - shift, so that |acc << up| < 2^31, as |acc| < 2^(shift - 1). */
typedef struct {
    int32_t up;
    int32_t peak2; /* twice the block's peak: <= 2^16 */
} stage_t;

/* acc * (multiplier * peak) / 2^shift, half up: the upper word is that of twice the product, rounded down; one more,
 * halved, is the nearest. multiplier * peak2 <= (2^15 - 1) * 2^16 < 2^31. */
static inline int32_t finish(int32_t acc, int32_t multiplier, stage_t stage)
{
    const int32_t left = (int32_t)((uint32_t)acc << stage.up);
    const int64_t twice = (int64_t)left * (multiplier * stage.peak2); /* |twice| < 2^62 */
    return ((int32_t)(twice >> 32) + 1) >> 1;
}

static inline int32_t clamp_s16(int32_t x)
{
    if (x > INT16_MAX) {
        x = INT16_MAX;
    }
    if (x < INT16_MIN) {
        x = INT16_MIN;
    }
    return x;
}

static inline int32_t clamp_s8(int32_t x)
{
    if (x > 127) {
        x = 127;
    }
    if (x < -127) {
        x = -127;
    }
    return x;
}

static void finish_s16(int16_t *y, const int32_t *acc, const int16_t *multiplier, int32_t rows, stage_t stage)
{
    int32_t i = 0;
    for (; i + 4 <= rows; i += 4) {
        y[0] = (int16_t)clamp_s16(finish(acc[0], multiplier[0], stage));
        y[1] = (int16_t)clamp_s16(finish(acc[1], multiplier[1], stage));
        y[2] = (int16_t)clamp_s16(finish(acc[2], multiplier[2], stage));
        y[3] = (int16_t)clamp_s16(finish(acc[3], multiplier[3], stage));
        y += 4;
        acc += 4;
        multiplier += 4;
    }
    for (; i < rows; i++) {
        *y++ = (int16_t)clamp_s16(finish(*acc++, *multiplier++, stage));
    }
}

/* |y| <= 2^29, because |acc| < 2^(shift - 1) and multiplier * peak <= 2^30: no saturation needed. */
static void finish_s32(int32_t *y, const int32_t *acc, const int16_t *multiplier, int32_t rows, stage_t stage)
{
    int32_t i = 0;
    for (; i + 4 <= rows; i += 4) {
        y[0] = finish(acc[0], multiplier[0], stage);
        y[1] = finish(acc[1], multiplier[1], stage);
        y[2] = finish(acc[2], multiplier[2], stage);
        y[3] = finish(acc[3], multiplier[3], stage);
        y += 4;
        acc += 4;
        multiplier += 4;
    }
    for (; i < rows; i++) {
        *y++ = finish(*acc++, *multiplier++, stage);
    }
}

static void finish_s8(int8_t *y, const int32_t *acc, const int16_t *multiplier, int32_t rows, stage_t stage)
{
    for (int32_t i = 0; i < rows; i++) {
        y[i] = (int8_t)clamp_s8(finish(acc[i], multiplier[i], stage));
    }
}

/* |residual + y| <= 2^15 + 2^29 */
static void finish_add_s16(int16_t *y, const int16_t *residual, const int32_t *acc, const int16_t *multiplier,
                           int32_t rows, stage_t stage)
{
    int32_t i = 0;
    for (; i + 4 <= rows; i += 4) {
        y[0] = (int16_t)clamp_s16(residual[0] + finish(acc[0], multiplier[0], stage));
        y[1] = (int16_t)clamp_s16(residual[1] + finish(acc[1], multiplier[1], stage));
        y[2] = (int16_t)clamp_s16(residual[2] + finish(acc[2], multiplier[2], stage));
        y[3] = (int16_t)clamp_s16(residual[3] + finish(acc[3], multiplier[3], stage));
        y += 4;
        residual += 4;
        acc += 4;
        multiplier += 4;
    }
    for (; i < rows; i++) {
        *y++ = (int16_t)clamp_s16(*residual++ + finish(*acc++, *multiplier++, stage));
    }
}

/* acc [TILE] = the products of up to TILE rows, from `row` on; returns how many. */
typedef int32_t (*gemv_t)(int32_t *acc, const mg_linear_t *w, int32_t row, const int32_t *x);

static int32_t rows_of_tile(const mg_linear_t *w, int32_t row)
{
    return (w->rows - row < TILE) ? w->rows - row : TILE;
}

static int32_t gemv_s8(int32_t *acc, const mg_linear_t *w, int32_t row, const int32_t *x)
{
    const int32_t rows = rows_of_tile(w, row);
    const int32_t quads = (w->cols + 3) >> 2;
    mg_gemv_s8_rv32(acc, (const uint32_t *)w->codes + row * quads, x, quads, (rows + BLOCK - 1) / BLOCK);
    return rows;
}

static int32_t gemv_s4(int32_t *acc, const mg_linear_t *w, int32_t row, const int32_t *x)
{
    const int32_t rows = rows_of_tile(w, row);
    const int32_t quads = (w->cols + 3) >> 2;
    const int32_t chunk = (w->chunk + 3) >> 2; /* quads */
    const int32_t scales = (w->group != 0) ? 4 * ((quads + chunk - 1) / chunk) : 0; /* words: 16 int8 per chunk */
    const int32_t words = 8 * quads + scales; /* of a block */
    mg_gemv_s4_rv32(acc, (const uint32_t *)w->codes + (row / BLOCK) * words, x, quads, (rows + BLOCK - 1) / BLOCK,
                    chunk, scales);
    return rows;
}

static stage_t stage_of(const mg_linear_t *w, const mg_scale_t *scale)
{
    const stage_t stage = {32 - w->shift, 2 * scale->peak};
    return stage;
}

/* Words of one token's codes. */
static int32_t stride_of(const mg_linear_t *w)
{
    return (w->cols + 3) & ~3;
}

static void linear_s16(int16_t *y, const int32_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w,
                       gemv_t gemv)
{
    int32_t acc[TILE];
    for (int32_t t = 0; t < tokens; t++) {
        int32_t rows = 0;
        for (int32_t row = 0; row < w->rows; row += rows) {
            rows = gemv(acc, w, row, x);
            finish_s16(y + row, acc, w->multiplier + row, rows, stage_of(w, scale));
        }
        y += w->rows;
        x += stride_of(w);
        scale++;
    }
}

static void linear_s8(int8_t *y, const int32_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w,
                      gemv_t gemv)
{
    int32_t acc[TILE];
    for (int32_t t = 0; t < tokens; t++) {
        int32_t rows = 0;
        for (int32_t row = 0; row < w->rows; row += rows) {
            rows = gemv(acc, w, row, x);
            finish_s8(y + row, acc, w->multiplier + row, rows, stage_of(w, scale));
        }
        y += w->rows;
        x += stride_of(w);
        scale++;
    }
}

static void linear_add_s16(int16_t *y, const int16_t *residual, const int32_t *x, const mg_scale_t *scale,
                           int32_t tokens, const mg_linear_t *w, gemv_t gemv)
{
    int32_t acc[TILE];
    for (int32_t t = 0; t < tokens; t++) {
        int32_t rows = 0;
        for (int32_t row = 0; row < w->rows; row += rows) {
            rows = gemv(acc, w, row, x);
            finish_add_s16(y + row, residual + row, acc, w->multiplier + row, rows, stage_of(w, scale));
        }
        y += w->rows;
        residual += w->rows;
        x += stride_of(w);
        scale++;
    }
}

void mg_linear_s16_rv32(int16_t *y, const int32_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w)
{
    linear_s16(y, x, scale, tokens, w, gemv_s8);
}

void mg_linear_s32_rv32(int32_t *y, const int32_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w)
{
    int32_t acc[TILE];
    for (int32_t t = 0; t < tokens; t++) {
        int32_t rows = 0;
        for (int32_t row = 0; row < w->rows; row += rows) {
            rows = gemv_s8(acc, w, row, x);
            finish_s32(y + row, acc, w->multiplier + row, rows, stage_of(w, scale));
        }
        y += w->rows;
        x += stride_of(w);
        scale++;
    }
}

void mg_linear_s8_rv32(int8_t *ring, int32_t slot, const int32_t *x, const mg_scale_t *scale, int32_t tokens,
                       const mg_linear_t *w)
{
    linear_s8(ring + slot * w->rows, x, scale, tokens, w, gemv_s8);
}

void mg_linear_add_s16_rv32(int16_t *y, const int16_t *residual, const int32_t *x, const mg_scale_t *scale,
                            int32_t tokens, const mg_linear_t *w)
{
    linear_add_s16(y, residual, x, scale, tokens, w, gemv_s8);
}

void mg_linear4_s16_rv32(int16_t *y, const int32_t *x, const mg_scale_t *scale, int32_t tokens, const mg_linear_t *w)
{
    linear_s16(y, x, scale, tokens, w, gemv_s4);
}

void mg_linear4_s8_rv32(int8_t *ring, int32_t slot, const int32_t *x, const mg_scale_t *scale, int32_t tokens,
                        const mg_linear_t *w)
{
    linear_s8(ring + slot * w->rows, x, scale, tokens, w, gemv_s4);
}

void mg_linear4_add_s16_rv32(int16_t *y, const int16_t *residual, const int32_t *x, const mg_scale_t *scale,
                             int32_t tokens, const mg_linear_t *w)
{
    linear_add_s16(y, residual, x, scale, tokens, w, gemv_s4);
}
