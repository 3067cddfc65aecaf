/* Byte-pair encoding whose ranks belong to pairs of tokens, as in Hugging Face's tokenizers.
 *
 * tokenizer_pairs.c takes the place of tokenizer.c and defines the functions of tokenizer.h. Its vocabularies are
 * mg_pairs_t, handed over as a pointer to their first member. Twin: mcugen/tokenizer.py. */
#ifndef MG_TOKENIZER_PAIRS_H
#define MG_TOKENIZER_PAIRS_H

#include "split.h"
#include "tokenizer.h"

enum { MG_PREFIX_NEVER, MG_PREFIX_MISSING, MG_PREFIX_ALWAYS };

/* A vocabulary with merges. Every table is constant and generated (pair_tables in mcugen/tokenizer.py).
 *   base         without ranks, dummy_prefix and lowercase; a special token's piece is empty, a byte token's is its
 *                byte; order: see symbols
 *   pairs        [merges]  left * 65536 + right, ascending
 *   ranks        [merges]  the lowest merges first: lower 16 bits
 *   ranks_high   [merges]  upper 8 bits; 0: all are 0
 *   results      [merges]  by rank, the token that a pair becomes; 0: it is first_result + rank
 *   symbols      tokens in base.order that a text consists of before anything merges, sorted by piece
 *   byte_level   1: each byte is a symbol, and there are all 256; 0: code points are, and U+2581 is a space
 *   prefix       when a space goes in front of a text: never, where it begins with none, always
 *   whole_words  1: a word that is a symbol becomes that token; 0: not
 *   fuse_unk     1: unknown neighbours in a word are one unk; 0: one each
 *   spaces       1: a word ends in front of each space; 0: not
 *   word_end     where a word ends, by `split`; 0: only where `spaces` says so */
typedef struct {
    mg_tokenizer_t base;
    const uint32_t *pairs;
    const uint16_t *ranks;
    const uint8_t *ranks_high;
    const uint16_t *results;
    int32_t merges;
    int32_t first_result;
    int32_t symbols;
    int32_t byte_level;
    int32_t prefix;
    int32_t whole_words;
    int32_t fuse_unk;
    int32_t spaces;
    int32_t (*word_end)(const mg_split_t *split, const char *text, int32_t length, int32_t at);
    const mg_split_t *split;
} mg_pairs_t;

#endif
