/* What the ports of newer STM32 families share: a family's port.c raises the clock, console.c does the rest. */
#ifndef MG_STM32_H
#define MG_STM32_H

#include <stdint.h>

/* Clocks in Hz: the core's, and that of the bus which feeds the console. */
typedef struct {
    uint32_t core_hz;
    uint32_t bus_hz;
} mg_stm32_clocks_t;

/* Raise the clock to MG_CLOCK_HZ and return the clocks that run then. Never fails: where a ready flag does not come,
 * the chip stays on the oscillator that it started on. */
mg_stm32_clocks_t mg_stm32_start_clock(void);

enum { MG_STM32_READY_TRIES = 20000 }; /* > 1 ms at 64 MHz: every flag that is waited for takes less (data sheets) */

static inline volatile uint32_t *mg_stm32_reg(uint32_t address)
{
    return (volatile uint32_t *)address;
}

static inline void mg_stm32_set_bits(uint32_t address, uint32_t bits)
{
    *mg_stm32_reg(address) |= bits;
}

/* Replace the bits of `mask` by `bits`. */
static inline void mg_stm32_set_field(uint32_t address, uint32_t mask, uint32_t bits)
{
    *mg_stm32_reg(address) = (*mg_stm32_reg(address) & ~mask) | bits;
}

/* Set an enable bit of the RCC; reading it back gives the clock the two cycles that it takes to arrive. */
static inline void mg_stm32_enable(uint32_t address, uint32_t bit)
{
    mg_stm32_set_bits(address, 1u << bit);
    (void)*mg_stm32_reg(address);
}

/* Poll until the bits of `mask` read `bits`. Returns 1, or 0 when the tries are used up. */
static inline int32_t mg_stm32_wait_for(uint32_t address, uint32_t mask, uint32_t bits)
{
    for (int32_t i = 0; i < MG_STM32_READY_TRIES; i++) {
        if ((*mg_stm32_reg(address) & mask) == bits) {
            return 1;
        }
    }
    return 0;
}

/* Set a field and wait until it reads so, or an enable bit until its ready bit is set: as wait_for. */
static inline int32_t mg_stm32_set_and_wait(uint32_t address, uint32_t bits, uint32_t mask, uint32_t ready)
{
    mg_stm32_set_bits(address, bits);
    return mg_stm32_wait_for(address, mask, ready);
}

#endif
