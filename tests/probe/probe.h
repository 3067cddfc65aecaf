/* The firmware that test_emulate.py runs: the same functions on every machine. */
#ifndef PROBE_H
#define PROBE_H

#include <stdint.h>

/* probe.c: what a forward pass looks like from outside, and faults that every machine finds. */
uint32_t forward(uint32_t token);
int32_t sum(int32_t a, int32_t b);
uint32_t add_six(uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint32_t e, uint32_t f);
uint32_t load_at(const volatile uint32_t *address);
uint32_t past_the_end(uint32_t index);
void spin(void);

/* probe_target.c: what only the target has. */
uint32_t counted(uint32_t n);
uint32_t middle(uint32_t skip);
extern const uint32_t constants[4]; /* in flash */

#endif
