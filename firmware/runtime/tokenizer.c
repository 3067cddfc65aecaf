#include "tokenizer.h"

enum {
    NO_MERGE = 0xFFFF,    /* rank of a piece that is never the result of a merge */
    CODE_POINT_BYTES = 4, /* UTF-8, RFC 3629 */
    BYTE_TOKENS = 256
};

static mg_span_t piece_of(const mg_tokenizer_t *tokenizer, int32_t token)
{
    const uint32_t start = tokenizer->offsets[token];
    const mg_span_t piece = {tokenizer->bytes + start, (int32_t)(tokenizer->offsets[token + 1] - start)};
    return piece;
}

/* Compare a piece with `head` followed by `tail`, as unsigned bytes: negative, 0 or positive. */
static int32_t compare(mg_span_t piece, mg_span_t head, mg_span_t tail)
{
    const int32_t length = head.length + tail.length;
    for (int32_t i = 0; i < piece.length && i < length; i++) {
        const int32_t byte = i < head.length ? head.bytes[i] : tail.bytes[i - head.length];
        if (piece.bytes[i] != byte) {
            return piece.bytes[i] - byte;
        }
    }
    return piece.length - length;
}

/* Return the lowest id whose piece is `head` followed by `tail`, or -1: a binary search for the first in `order`
 * that is not less. */
static int32_t find(const mg_tokenizer_t *tokenizer, mg_span_t head, mg_span_t tail)
{
    int32_t low = 0;
    int32_t high = tokenizer->vocab_size;
    while (low < high) {
        const int32_t middle = (low + high) / 2;
        if (compare(piece_of(tokenizer, tokenizer->order[middle]), head, tail) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low == tokenizer->vocab_size) {
        return -1;
    }
    const int32_t token = tokenizer->order[low];
    return compare(piece_of(tokenizer, token), head, tail) == 0 ? token : -1;
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

/* Copy the code point at the start of `text`, lowered if the vocabulary wants it. Return its length: up to the next
 * byte that does not continue it, at most 4, so that malformed UTF-8 gets through as well. */
static int32_t read_code_point(const mg_tokenizer_t *tokenizer, uint8_t *code_point, const char *text, int32_t length)
{
    int32_t count = 0;
    do {
        uint8_t byte = (uint8_t)text[count];
        if (tokenizer->lowercase != 0 && byte >= (uint8_t)'A' && byte <= (uint8_t)'Z') {
            byte = (uint8_t)(byte + 32u); /* 'a' - 'A' in ASCII */
        }
        code_point[count] = byte;
        count++;
    } while (count < length && count < CODE_POINT_BYTES && ((uint8_t)text[count] & 0xC0u) == 0x80u);
    return count;
}

/* Append the token of a code point, or those of its bytes, or unk. Return the new count or -1. */
static int32_t append_code_point(const mg_tokenizer_t *tokenizer, uint16_t *tokens, int32_t capacity, int32_t count,
                                 mg_span_t code_point)
{
    const mg_span_t nothing = {code_point.bytes, 0};
    const int32_t token = find(tokenizer, code_point, nothing);
    if (token >= 0) {
        return append(tokens, capacity, count, token);
    }
    if (tokenizer->first_byte < 0) {
        return append(tokens, capacity, count, tokenizer->unk);
    }
    for (int32_t i = 0; i < code_point.length; i++) {
        count = append(tokens, capacity, count, tokenizer->first_byte + code_point.bytes[i]);
    }
    return count;
}

/* Merge the neighbours whose piece has the lowest rank, leftmost on ties, until none is left. Return the count. */
static int32_t merge(const mg_tokenizer_t *tokenizer, uint16_t *tokens, int32_t count)
{
    for (;;) { /* count falls by one each time */
        int32_t best = -1;
        int32_t best_token = -1;
        uint16_t best_rank = NO_MERGE;
        for (int32_t i = 0; i + 1 < count; i++) {
            const int32_t token = find(tokenizer, piece_of(tokenizer, tokens[i]), piece_of(tokenizer, tokens[i + 1]));
            if (token >= 0 && tokenizer->ranks[token] < best_rank) {
                best = i;
                best_token = token;
                best_rank = tokenizer->ranks[token];
            }
        }
        if (best < 0) {
            return count;
        }
        tokens[best] = (uint16_t)best_token;
        count--;
        for (int32_t i = best + 1; i < count; i++) {
            tokens[i] = tokens[i + 1];
        }
    }
}

int32_t mg_tokenizer_encode(const mg_tokenizer_t *tokenizer, uint16_t *tokens, int32_t capacity, const char *text,
                            int32_t length, int32_t bos)
{
    int32_t count = 0; /* -1 once the tokens do not fit */
    if (bos != 0) {
        count = append(tokens, capacity, count, tokenizer->bos);
    }
    if (length > 0 && tokenizer->dummy_prefix >= 0) {
        count = append(tokens, capacity, count, tokenizer->dummy_prefix);
    }
    for (int32_t at = 0; at < length && count >= 0;) {
        uint8_t bytes[CODE_POINT_BYTES];
        const mg_span_t code_point = {bytes, read_code_point(tokenizer, bytes, text + at, length - at)};
        count = append_code_point(tokenizer, tokens, capacity, count, code_point);
        at += code_point.length;
    }
    return count < 0 ? -1 : merge(tokenizer, tokens, count);
}

mg_span_t mg_tokenizer_piece(const mg_tokenizer_t *tokenizer, uint8_t *byte, int32_t previous, int32_t token)
{
    mg_span_t piece = piece_of(tokenizer, token);
    if (token == tokenizer->unk || token == tokenizer->bos || token == tokenizer->eos) {
        piece.length = 0;
        return piece;
    }
    const int32_t first = tokenizer->first_byte;
    if (first >= 0 && token >= first && token < first + BYTE_TOKENS) {
        *byte = (uint8_t)(token - first);
        piece.bytes = byte;
        piece.length = 1;
        return piece;
    }
    if (previous == tokenizer->bos && piece.length > 0 && piece.bytes[0] == (uint8_t)' ') {
        piece.bytes++;
        piece.length--;
    }
    return piece;
}
