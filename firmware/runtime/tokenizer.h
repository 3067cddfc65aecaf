/* Byte-pair encoding with integer merge ranks, in the caller's token buffer and no other memory.
 *
 * Algorithm: llama2.c, run.c (encode, decode). Twin: mcugen/tokenizer.py. */
#ifndef MG_TOKENIZER_H
#define MG_TOKENIZER_H

#include <stdint.h>

/* A vocabulary. Every table is constant and generated (tokenizer_tables in mcugen/tokenizer.py).
 *   bytes         all pieces, one after the other
 *   offsets       [vocab_size + 1]  piece i is bytes[offsets[i]] up to, not including, bytes[offsets[i + 1]];
 *                 no piece is empty
 *   ranks         [vocab_size]  the lowest rank merges first; 0xFFFF: never the result of a merge
 *   order         [vocab_size]  ids sorted by piece, then by id
 *   vocab_size    <= 65536
 *   first_byte    id of "<0x00>", the first of 256 byte tokens in order; -1: there are none, and a character
 *                 outside the vocabulary becomes unk
 *   dummy_prefix  id of " ", which goes in front of a text; -1: none
 *   lowercase     1: A to Z are lowered before anything else; 0: not */
typedef struct {
    const uint8_t *bytes;
    const uint32_t *offsets;
    const uint16_t *ranks;
    const uint16_t *order;
    int32_t vocab_size;
    int32_t first_byte;
    int32_t dummy_prefix;
    int32_t unk;
    int32_t bos;
    int32_t eos;
    int32_t lowercase;
} mg_tokenizer_t;

/* Bytes that belong to someone else. */
typedef struct {
    const uint8_t *bytes;
    int32_t length;
} mg_span_t;

/* Turn text into tokens. Return how many, or -1 if they need more than `capacity`.
 *   tokens    [capacity]  the result, and the only memory used; the worst case, before merging, is
 *             length + 2 tokens: one per byte, bos and the dummy prefix
 *   text      [length]  any bytes, UTF-8 or not; no terminator needed
 *   bos       1: begin with bos; 0: not
 * Time grows with the square of length: n tokens before merging take up to n^2 / 2 lookups of log2(vocab_size)
 * comparisons. Twin: encode. */
int32_t mg_tokenizer_encode(const mg_tokenizer_t *tokenizer, uint16_t *tokens, int32_t capacity, const char *text,
                            int32_t length, int32_t bos);

/* Return the bytes to print for `token` after `previous`: none for unk, bos and eos; no leading space after bos.
 *   byte      [1]  where the byte of a byte token is put; the span may point there
 *   previous  the token before, or -1
 *   token     in [0, vocab_size)
 * Twin: piece_text. */
mg_span_t mg_tokenizer_piece(const mg_tokenizer_t *tokenizer, uint8_t *byte, int32_t previous, int32_t token);

#endif
