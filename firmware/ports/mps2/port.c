/* Arm's MPS2 and MPS3 FPGA images: the console on a UART of the Cortex-M System Design Kit (CMSDK).
 *
 * The board starts clocks and memories before the core runs: the clock is what the board file states.
 * Source of the registers: Cortex-M System Design Kit Technical Reference Manual (DDI 0479), section "APB UART". */

#include "port.h"

/* Registers of the UART at MG_UART_BASE, which the board file states. */
enum {
    UART_DATA = MG_UART_BASE + 0x00,   /* write: send a byte; read: the byte received */
    UART_STATE = MG_UART_BASE + 0x04,
    UART_CTRL = MG_UART_BASE + 0x08,
    UART_BAUDDIV = MG_UART_BASE + 0x10 /* clock cycles per bit, at least 16 */
};

/* Bits of those registers. */
enum {
    STATE_TX_FULL = 1 << 0,
    STATE_RX_FULL = 1 << 1,
    CTRL_TX_EN_RX_EN = (1 << 0) | (1 << 1)
};

enum {
    BAUDDIV = (MG_UART_CLOCK_HZ + MG_UART_BAUD / 2) / MG_UART_BAUD, /* rounded */
    TRANSMIT_TRIES = 100000 /* > 3 ms at 100 MHz and 4 cycles each; one byte at 115200 baud takes 0.09 ms */
};

typedef char mg_baud_rate_is_one_that_the_uart_can_make[(BAUDDIV >= 16) ? 1 : -1];

static volatile uint32_t *reg(uint32_t address)
{
    return (volatile uint32_t *)address;
}

void mg_port_init(void)
{
    *reg(UART_BAUDDIV) = BAUDDIV;
    *reg(UART_CTRL) = CTRL_TX_EN_RX_EN;
}

void mg_port_write(const char *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        int32_t tries = TRANSMIT_TRIES;
        while (((*reg(UART_STATE) & STATE_TX_FULL) != 0u) && (tries > 0)) {
            tries--;
        }
        *reg(UART_DATA) = (uint8_t)bytes[i];
    }
}

int32_t mg_port_read(void)
{
    while ((*reg(UART_STATE) & STATE_RX_FULL) == 0u) {
    }
    return (int32_t)(*reg(UART_DATA) & 0xFFu);
}

uint32_t mg_port_clock_hz(void)
{
    return MG_CLOCK_HZ;
}
