#include "generate.h"

/* Fill model->prompt with bos, the text and the suffix; returns how many tokens, or -1. */
static int32_t read_prompt(const mg_model_t *model, const char *text, int32_t length)
{
    const int32_t room = model->prompt_capacity - model->suffix_length;
    int32_t count = mg_tokenizer_encode(model->tokenizer, model->prompt, room, text, length, 1);
    for (int32_t i = 0; i < model->suffix_length && count >= 0; i++) {
        model->prompt[count] = model->suffix[i];
        count++;
    }
    return count;
}

int32_t mg_generate(const mg_model_t *model, mg_sampler_t *sampler, const char *text, int32_t length,
                    int32_t max_tokens, mg_emit_t emit, void *context)
{
    const mg_tokenizer_t *tokenizer = model->tokenizer;
    const int32_t prompt_length = read_prompt(model, text, length);
    if (prompt_length < 0) {
        return -1;
    }

    model->reset();
    model->read(model->prompt, prompt_length - 1); /* bos is always there */
    int32_t previous = model->prompt[prompt_length - 1];
    const int32_t *logits = model->step(previous);

    int32_t count = 0;
    while (count < max_tokens) {
        const int32_t token = mg_sample(sampler, logits, tokenizer->vocab_size);
        if (token == tokenizer->eos || token == tokenizer->bos) {
            break;
        }
        uint8_t byte;
        const mg_span_t piece = mg_tokenizer_piece(tokenizer, &byte, previous, token);
        emit(context, piece.bytes, piece.length);
        count++;
        previous = token;
        if (count < max_tokens) {
            logits = model->step(token);
        }
    }
    return count;
}
