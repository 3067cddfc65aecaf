/* Matrix times vector, 48 rows at a time: a family's assembly makes the accumulators and brings them to the output's
 * units. |acc| < 2^(shift - 1) <= 2^31, which mcugen proves from the weights of every row it emits. */
#include "row_digits.h"

enum { BLOCK = 8, GROUPS = 16, SPACE = 48 };

/* x, sum: the vector and the sum of its codes. first, cols: the columns to multiply with. start: the first column of
 * those that the offsets of groups are for; below 0, of none. space: accumulators; with group scales, those offsets
 * at its end, and with chunks of columns, in front of them the sums of a block in one chunk. */
typedef struct {
    const mg_linear_t *w;
    const mg_product_t *product;
    const uint8_t *x;
    int32_t sum;
    int32_t first;
    int32_t cols;
    int32_t start;
    int32_t space[SPACE];
} state_t;

enum { OFFSETS = SPACE - GROUPS, SUMS = OFFSETS - BLOCK };

/* The sum of x [n] as codes + bias, n a multiple of 4. */
static int32_t sum_of(const uint8_t *x, int32_t n, int32_t bias)
{
    const uint32_t *words = (const uint32_t *)(const void *)x; /* 4-byte aligned, as all vectors are */
    const uint32_t flip = (bias != 0) ? 0u : 0x80808080u;      /* int8 as code + 128, too */
    int32_t total = (bias != 0) ? 0 : -128 * n;
    while (n > 0) {
        uint32_t lanes = 0; /* two of 16 bits: 64 words add at most 64 * 2 * 255 < 2^16 to each */
        for (int32_t i = 0; i < 64 && n > 0; i++, n -= 4) {
            const uint32_t four = *words++ ^ flip;
            lanes += (four & 0x00FF00FFu) + ((four >> 8) & 0x00FF00FFu);
        }
        total += (int32_t)((lanes & 0xFFFFu) + (lanes >> 16));
    }
    return total;
}

/* acc [blocks * 8] = the products of blocks of the stream, from `codes` up, with the columns; returns where the
 * stream goes on. */
static const uint32_t *multiply(state_t *p, int32_t *acc, const uint32_t *codes, int32_t blocks)
{
    const mg_product_t *product = p->product;
    const int32_t group = (p->w->group < product->largest) ? p->w->group : product->largest;
    const int32_t cols = p->cols;
    const uint8_t *x = p->x + p->first;
    if (group == 0) {
        const int32_t bias = product->bias;
        const int32_t sum = (cols >= p->w->cols) ? p->sum : sum_of(x, cols, bias) - bias * cols;
        return product->gemv(acc, x, codes, cols, blocks, product->unit * sum);
    }
    if (p->start != p->first) {
        p->start = p->first;
        for (int32_t i = OFFSETS, at = 0; at < cols; i++, at += group) {
            p->space[i] = product->unit * sum_of(x + at, (cols - at < group) ? cols - at : group, product->bias);
        }
    }
    return product->groups(acc, x, codes, cols, blocks, p->space + OFFSETS, group);
}

/* The same for all columns, where rows are split into chunks of them: a stream holds block by block, and in each
 * chunk by chunk. */
static const uint32_t *multiply_chunks(state_t *p, const uint32_t *codes, int32_t blocks, int32_t cols)
{
    const int32_t chunk = p->w->chunk;
    for (int32_t *acc = p->space; blocks > 0; blocks--, acc += BLOCK) {
        p->first = 0;
        p->cols = chunk;
        codes = multiply(p, acc, codes, 1);
        for (p->first = chunk; p->first < cols; p->first += chunk) {
            p->cols = (cols - p->first < chunk) ? cols - p->first : chunk;
            codes = multiply(p, p->space + SUMS, codes, 1);
            for (int32_t i = 0; i < BLOCK; i++) {
                acc[i] += p->space[SUMS + i];
            }
        }
    }
    return codes;
}

void mg_row_digits(void *y, const int16_t *residual, const void *x, const mg_scale_t *scale, int32_t tokens,
                    const mg_linear_t *w, const mg_product_t *product)
{
    const int32_t cols = (w->cols + 7) & ~7;
    const int32_t step = (w->rows + product->align - 1) & -product->align;
    const int32_t tile = (w->chunk < w->cols) ? SUMS : (w->group != 0) ? OFFSETS : SPACE;
    const uint32_t *codes = (const uint32_t *)w->codes;
    const uint32_t *next = codes;
    state_t p;
    p.w = w;
    p.product = product;
    p.x = 0;
    p.sum = 0;
    p.first = 0;
    p.cols = cols;
    p.start = -1;
    for (int32_t row = 0; row < w->rows; row += tile, codes = next) {
        const int32_t rows = (w->rows - row < tile) ? w->rows - row : tile;
        const int32_t blocks = (rows + BLOCK - 1) >> 3;
        for (int32_t t = 0; t < tokens; t++) {
            const uint8_t *chosen = (const uint8_t *)x + t * cols;
            if (p.x != chosen) { /* a single token's sums are kept from tile to tile */
                p.x = chosen;
                p.sum = scale[t].sum;
                p.start = -1;
            }
            next = (w->chunk < w->cols) ? multiply_chunks(&p, codes, blocks, cols)
                                        : multiply(&p, p.space, codes, blocks);
            product->finish((uint8_t *)y + (t * step + row) * product->bytes, p.space, w->multiplier + row, rows,
                            scale[t].peak, w->shift, (residual != 0) ? residual + t * w->rows + row : 0);
        }
    }
}
