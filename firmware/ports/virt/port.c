/* QEMU's machine "virt", which is no real board: the console is its 16550 UART.
 *
 * Registers: TI PC16550D data sheet, section 8.0; addresses: QEMU, hw/riscv/virt.c, virt_memmap. */

#include "port.h"

enum {
    UART_DATA = 0x10000000, /* RBR when read, THR when written */
    UART_FCR = 0x10000002,  /* 8.5 FIFO control */
    UART_LCR = 0x10000003,  /* 8.3 line control */
    UART_LSR = 0x10000005   /* 8.6.1 line status */
};

enum {
    FCR_ON_CLEARED = 7, /* both FIFOs on and empty */
    LCR_8N1 = 3,
    LSR_DATA_READY = 1 << 0,
    LSR_THR_EMPTY = 1 << 5
};

enum { TRANSMIT_TRIES = 100000 }; /* far more than an emulated line, which is always ready, needs */

static volatile uint8_t *reg(uint32_t address)
{
    return (volatile uint8_t *)address;
}

/* The emulated line has no speed, so the divisor of the baud rate is left as it is. */
void mg_port_init(void)
{
    *reg(UART_LCR) = LCR_8N1;
    *reg(UART_FCR) = FCR_ON_CLEARED;
}

void mg_port_write(const char *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        int32_t tries = TRANSMIT_TRIES;
        while (((*reg(UART_LSR) & LSR_THR_EMPTY) == 0u) && (tries > 0)) {
            tries--;
        }
        *reg(UART_DATA) = (uint8_t)bytes[i];
    }
}

int32_t mg_port_read(void)
{
    while ((*reg(UART_LSR) & LSR_DATA_READY) == 0u) {
    }
    return (int32_t)*reg(UART_DATA);
}

uint32_t mg_port_clock_hz(void)
{
    return MG_CLOCK_HZ; /* nominal: an emulator has no clock rate */
}
