/* The demo application: reads lines from the board's console, answers with generated text. */
#ifndef MG_CONSOLE_H
#define MG_CONSOLE_H

#include "generate.h"

/* Serve the console until its input ends (a UART's never does). Call mg_port_init first.
 *   banner      one line of text, printed first
 *   build       which build this is, without spaces
 *   max_tokens  the longest answer, until #tokens changes it
 *
 * A line is a prompt of at most 160 bytes; the answer is text, a newline and the byte 4 (end of transmission), which
 * also follows the banner and is left out of the text. Lines that begin with # steer:
 *   #tokens N                                      at most N tokens an answer
 *   #sampler MULTIPLIER SHIFT TOP_K TOP_P SEED     the integers of mg_sampler_t
 *   #check N                                       N greedy tokens from nothing: "index token hash" lines, where
 *                                                  hash is FNV-1a over the logits, little-endian
 *   #build                                         one line: the banner, ", build " and the build */
void mg_console(const mg_model_t *model, const char *banner, const char *build, int32_t max_tokens);

#endif
