/* Runs on every machine. */
#include "probe.h"

#include "op_done.h"

enum { OPS = 3, SLOTS = 4, ROW = 2 };

/* volatile: nothing else reads them here, and a compiler may drop or delay what only an observer could see. */
static volatile uint8_t ring[SLOTS][ROW]; /* what a KV ring looks like: a row per token, the oldest overwritten */
static volatile int32_t accumulator = 7;  /* .data: not zero, so that it must have been initialised */
static volatile uint32_t position;        /* .bss */
static const uint8_t table[4] = {10, 20, 30, 40};

uint32_t forward(uint32_t token)
{
    ring[position % (uint32_t)SLOTS][0] = (uint8_t)token;
    ring[position % (uint32_t)SLOTS][1] = (uint8_t)(token + 1u);
    mg_op_done(0u);
    accumulator += (int32_t)token;
    mg_op_done(1u);
    position += 1u;
    mg_op_done(2u);
    return position;
}

int32_t sum(int32_t a, int32_t b)
{
    return a + b; /* overflows where the test wants it to */
}

uint32_t add_six(uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint32_t e, uint32_t f)
{
    return a + 10u * b + 100u * c + 1000u * d + 10000u * e + 100000u * f;
}

uint32_t load_at(const volatile uint32_t *address)
{
    return *address;
}

/* Not inlined: the undefined-behaviour sanitizer would see the table's size and leave nothing to the other one. */
__attribute__((noinline)) static uint32_t element(const volatile uint8_t *bytes, uint32_t index)
{
    return bytes[index];
}

uint32_t past_the_end(uint32_t index)
{
    return element(table, index);
}

void spin(void)
{
    for (;;) {
        __asm__ volatile("");
    }
}
