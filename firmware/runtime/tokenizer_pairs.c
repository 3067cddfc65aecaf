#include "tokenizer_pairs.h"

enum {
    NO_MERGE = 0x1000000, /* above every rank */
    BYTE_TOKENS = 256
};

static const mg_pairs_t *pairs_of(const mg_tokenizer_t *tokenizer)
{
    return (const mg_pairs_t *)(const void *)tokenizer; /* base is the first member */
}

static mg_span_t piece_of(const mg_tokenizer_t *tokenizer, int32_t token)
{
    const uint32_t start = tokenizer->offsets[token];
    const mg_span_t piece = {tokenizer->bytes + start, (int32_t)(tokenizer->offsets[token + 1] - start)};
    return piece;
}

/* Compare a piece with text [start, end), as unsigned bytes: negative, 0 or positive. At -1 stands a space. */
static int32_t compare(mg_span_t piece, const char *text, int32_t start, int32_t end)
{
    for (int32_t i = 0; i < piece.length && i < end - start; i++) {
        const int32_t byte = start + i < 0 ? ' ' : (uint8_t)text[start + i];
        if (piece.bytes[i] != byte) {
            return piece.bytes[i] - byte;
        }
    }
    return piece.length - (end - start);
}

/* Return the symbol that text [start, end) is, or -1. */
static int32_t find(const mg_pairs_t *pairs, const char *text, int32_t start, int32_t end)
{
    int32_t low = 0;
    int32_t high = pairs->symbols;
    while (low < high) {
        const int32_t middle = (low + high) / 2;
        const int32_t token = pairs->base.order[middle];
        const int32_t sign = compare(piece_of(&pairs->base, token), text, start, end);
        if (sign == 0) {
            return token;
        }
        if (sign < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return -1;
}

/* Append a token. Return the new count, or -1 if there is no room, or was none before. */
static int32_t append(uint16_t *tokens, int32_t capacity, int32_t count, int32_t token)
{
    if (count < 0 || count >= capacity) {
        return -1;
    }
    tokens[count] = (uint16_t)token; /* ids are below 65536 */
    return count + 1;
}

/* Is the code point in [at, end) a space? In vocabularies of code points, U+2581 is one as well. */
static int32_t is_space(const mg_pairs_t *pairs, const char *text, int32_t at, int32_t end)
{
    if (end - at == 1) {
        return at < 0 || text[at] == ' ';
    }
    return pairs->byte_level == 0 && end - at == 3 && (uint8_t)text[at] == 0xE2u && (uint8_t)text[at + 1] == 0x96u &&
           (uint8_t)text[at + 2] == 0x81u;
}

static int32_t word_end(const mg_pairs_t *pairs, const char *text, int32_t length, int32_t at)
{
    if (pairs->word_end != 0) {
        return pairs->word_end(pairs->split, text, length, at);
    }
    if (pairs->spaces == 0) {
        return length;
    }
    int32_t end = mg_code_point_end(text, length, at);
    while (end < length && is_space(pairs, text, end, mg_code_point_end(text, length, end)) == 0) {
        end = mg_code_point_end(text, length, end);
    }
    return end;
}

/* Append the symbols of the word in [at, end). Return the new count or -1. */
static int32_t append_word(const mg_pairs_t *pairs, uint16_t *tokens, int32_t capacity, int32_t count,
                           const char *text, int32_t at, int32_t end)
{
    int32_t fuses = 0;
    while (at < end && count >= 0) {
        const int32_t next = pairs->byte_level != 0 ? at + 1 : mg_code_point_end(text, end, at);
        const int32_t space = is_space(pairs, text, at, next);
        const int32_t token = space != 0 ? find(pairs, " ", 0, 1) : find(pairs, text, at, next);
        if (token >= 0) {
            count = append(tokens, capacity, count, token);
        } else if (pairs->base.first_byte >= 0) {
            for (int32_t i = space != 0 ? next - 1 : at; i < next; i++) {
                const int32_t byte = space != 0 ? ' ' : (uint8_t)text[i];
                count = append(tokens, capacity, count, pairs->base.first_byte + byte);
            }
        } else if (pairs->base.unk >= 0 && fuses == 0) {
            count = append(tokens, capacity, count, pairs->base.unk);
        }
        fuses = pairs->fuse_unk != 0 && token < 0;
        at = next;
    }
    return count;
}

/* The rank of a pair, or NO_MERGE. */
static int32_t rank_of(const mg_pairs_t *pairs, int32_t left, int32_t right)
{
    const uint32_t wanted = (uint32_t)left * 65536u + (uint32_t)right;
    int32_t low = 0;
    int32_t high = pairs->merges;
    while (low < high) {
        const int32_t middle = (low + high) / 2;
        if (pairs->pairs[middle] < wanted) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low == pairs->merges || pairs->pairs[low] != wanted) {
        return NO_MERGE;
    }
    return pairs->ranks[low] + (pairs->ranks_high != 0 ? pairs->ranks_high[low] * 65536 : 0);
}

/* Merge the neighbours with the lowest rank, leftmost on ties, until none is left. Return the count. */
static int32_t merge(const mg_pairs_t *pairs, uint16_t *tokens, int32_t count)
{
    for (;;) { /* count falls by one each time */
        int32_t best = -1;
        int32_t best_rank = NO_MERGE;
        for (int32_t i = 0; i + 1 < count; i++) {
            const int32_t rank = rank_of(pairs, tokens[i], tokens[i + 1]);
            if (rank < best_rank) {
                best = i;
                best_rank = rank;
            }
        }
        if (best < 0) {
            return count;
        }
        const int32_t token = pairs->results != 0 ? pairs->results[best_rank] : pairs->first_result + best_rank;
        tokens[best] = (uint16_t)token;
        count--;
        for (int32_t i = best + 1; i < count; i++) {
            tokens[i] = tokens[i + 1];
        }
    }
}

int32_t mg_tokenizer_encode(const mg_tokenizer_t *tokenizer, uint16_t *tokens, int32_t capacity, const char *text,
                            int32_t length, int32_t bos)
{
    const mg_pairs_t *pairs = pairs_of(tokenizer);
    int32_t count = 0; /* -1 once the tokens do not fit */
    if (bos != 0) {
        count = append(tokens, capacity, count, tokenizer->bos);
    }
    int32_t at = 0;
    if (length > 0 && pairs->prefix != MG_PREFIX_NEVER) {
        const int32_t begins = is_space(pairs, text, 0, mg_code_point_end(text, length, 0));
        at = pairs->prefix == MG_PREFIX_ALWAYS || begins == 0 ? -1 : 0;
    }
    while (at < length && count >= 0) {
        const int32_t end = word_end(pairs, text, length, at);
        const int32_t start = count;
        count = append_word(pairs, tokens, capacity, count, text, at, end);
        const int32_t whole = pairs->whole_words != 0 ? find(pairs, text, at, end) : -1;
        if (count >= 0 && whole >= 0) {
            tokens[start] = (uint16_t)whole; /* a word of a symbol has a byte at least */
            count = start + 1;
        } else if (count >= 0) {
            count = start + merge(pairs, tokens + start, count - start);
        }
        at = end;
    }
    return count;
}

mg_span_t mg_tokenizer_piece(const mg_tokenizer_t *tokenizer, uint8_t *byte, int32_t previous, int32_t token)
{
    mg_span_t piece = piece_of(tokenizer, token);
    const int32_t first = tokenizer->first_byte;
    const int32_t is_byte = first >= 0 && token >= first && token < first + BYTE_TOKENS;
    const int32_t strips = pairs_of(tokenizer)->prefix != MG_PREFIX_NEVER && previous == tokenizer->bos && is_byte == 0;
    (void)byte;
    if (strips != 0 && piece.length > 0 && piece.bytes[0] == (uint8_t)' ') {
        piece.bytes++;
        piece.length--;
    }
    return piece;
}
