/* From a prompt to text: tokenise, step, sample, print, until the model ends its sequence. */
#ifndef MG_GENERATE_H
#define MG_GENERATE_H

#include <stdint.h>

#include "sampler.h"
#include "tokenizer.h"

/* A generated model as the runtime sees it.
 *   step           logits [vocab_size], int32 Q16 nats, valid until the next step; token in [0, vocab_size)
 *   read           takes tokens [count] of a prompt in, without logits
 *   suffix         [suffix_length]  tokens that follow every prompt
 *   prompt         [prompt_capacity]  memory for the prompt's tokens */
typedef struct {
    void (*reset)(void);
    const int32_t *(*step)(int32_t token);
    void (*read)(const uint16_t *tokens, int32_t count);
    const mg_tokenizer_t *tokenizer;
    const uint16_t *suffix;
    int32_t suffix_length;
    uint16_t *prompt;
    int32_t prompt_capacity;
} mg_model_t;

/* Receives text as it is generated; bytes are valid during the call only. */
typedef void (*mg_emit_t)(void *context, const uint8_t *bytes, int32_t length);

/* Forget everything, read text [length], and emit what follows, at most max_tokens tokens.
 * Returns the number of tokens generated (the final bos or eos not counted), or -1 where the prompt has more tokens
 * than prompt_capacity. Twin: generate in mcugen/generate.py. */
int32_t mg_generate(const mg_model_t *model, mg_sampler_t *sampler, const char *text, int32_t length,
                    int32_t max_tokens, mg_emit_t emit, void *context);

#endif
