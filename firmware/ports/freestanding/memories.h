/* What the linker script has startup do, memory by memory. */
#ifndef MG_MEMORIES_H
#define MG_MEMORIES_H

#include <stdint.h>

typedef struct {
    const uint32_t *from;
    uint32_t *to;
    uint32_t *end;
} mg_copy_t;

typedef struct {
    uint32_t *begin;
    uint32_t *end;
} mg_zero_t;

extern const mg_copy_t _scopy[];
extern const mg_copy_t _ecopy[];
extern const mg_zero_t _szero[];
extern const mg_zero_t _ezero[];

/* Bring code, constants and initial values from flash to where they belong, and zero the rest. */
static inline void mg_fill_memories(void)
{
    for (const mg_copy_t *copy = _scopy; copy < _ecopy; copy++) {
        const uint32_t *from = copy->from;
        for (uint32_t *to = copy->to; to < copy->end; to++) {
            *to = *from;
            from++;
        }
    }
    for (const mg_zero_t *zero = _szero; zero < _ezero; zero++) {
        for (uint32_t *to = zero->begin; to < zero->end; to++) {
            *to = 0u;
        }
    }
}

#endif
