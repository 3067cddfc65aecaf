/* Nordic nRF51 and nRF52: the console on the UART that both have, its pins stated by the board file.
 *
 * The core always runs at its one rate; what starts here is the crystal behind it, for a baud rate without drift.
 * The wait for it is bounded: without a crystal the chip stays on its RC oscillator, which has the same nominal rate.
 * Sources: nRF51 Series Reference Manual (RM) 3.0, chapters CLOCK, GPIO and UART; nRF52833 and nRF52840 Product
 * Specifications (PS), the same chapters and NVMC. Offsets are equal in all of them. */

#include "port.h"

/* Registers: TASKS_ start something when 1 is written, EVENTS_ read 1 when something has happened. */
enum {
    CLOCK_TASKS_HFCLKSTART = 0x40000000,
    CLOCK_EVENTS_HFCLKSTARTED = 0x40000100,
    UART_TASKS_STARTRX = 0x40002000,
    UART_TASKS_STARTTX = 0x40002008,
    UART_EVENTS_RXDRDY = 0x40002108,
    UART_EVENTS_TXDRDY = 0x4000211C,
    UART_ENABLE = 0x40002500,
    UART_PSELTXD = 0x4000250C,
    UART_PSELRXD = 0x40002514,
    UART_RXD = 0x40002518,
    UART_TXD = 0x4000251C,
    UART_BAUDRATE = 0x40002524,
    GPIO_OUTSET = 0x50000508, /* of port 0; port 1 has the same registers behind it */
    GPIO_DIRSET = 0x50000518,
    GPIO_PIN_CNF = 0x50000700, /* of pin 0; a word each */
    GPIO_PORT = 0x300          /* bytes from a port to the next */
};

enum {
    UART_ENABLED = 4,
    PIN_CNF_INPUT_PULL_UP = 3 << 2, /* an input, connected; reset value: disconnected */
    ICACHECNF_CACHEEN = 1 << 0
};

/* The UART runs at 16 MHz in all of them, and counts in 2^-32 of that; the lowest 12 bits are not there. */
enum {
    STEPS_PER_BAUD_X16 = 4295, /* 2^32 / 16 MHz, times 16 */
    BAUDRATE = (MG_UART_BAUD * STEPS_PER_BAUD_X16 / 16 + 0x800) & ~0xFFF
};

typedef char mg_baud_rate_is_one_that_the_uart_can_make[(MG_UART_BAUD >= 1200 && MG_UART_BAUD <= 460800) ? 1 : -1];

enum {
    CRYSTAL_TRIES = 100000, /* > 6 ms at 64 MHz and 4 cycles each; a crystal starts within 1.5 ms (RM, PS) */
    TRANSMIT_TRIES = 100000 /* likewise; one byte at 115200 baud takes 0.09 ms */
};

static volatile uint32_t *reg(uint32_t address)
{
    return (volatile uint32_t *)address;
}

/* Poll until the event has happened. Returns 1, or 0 when the tries are used up. */
static int32_t wait_for(uint32_t event, int32_t tries)
{
    for (int32_t i = 0; i < tries; i++) {
        if (*reg(event) != 0u) {
            return 1;
        }
    }
    return 0;
}

/* The register of `pin` (32 and more: port 1) that is at `address` for port 0. */
static volatile uint32_t *port_reg(uint32_t pin, uint32_t address)
{
    return reg(address + (pin / 32u) * GPIO_PORT);
}

static void start_clock(void)
{
    *reg(CLOCK_EVENTS_HFCLKSTARTED) = 0u;
    *reg(CLOCK_TASKS_HFCLKSTART) = 1u;
    (void)wait_for(CLOCK_EVENTS_HFCLKSTARTED, CRYSTAL_TRIES);
    if (MG_ICACHECNF != 0) {
        *reg(MG_ICACHECNF) = ICACHECNF_CACHEEN; /* where flash has a cache in front of it */
    }
}

/* 8 data bits, no parity, 1 stop bit, no flow control: what CONFIG is after reset. The line rests high, also while the
 * UART does not drive it. Pins are chosen before the UART is enabled. */
static void start_console(void)
{
    *port_reg(MG_UART_TX_PIN, GPIO_OUTSET) = 1u << (MG_UART_TX_PIN % 32u);
    *port_reg(MG_UART_TX_PIN, GPIO_DIRSET) = 1u << (MG_UART_TX_PIN % 32u);
    *port_reg(MG_UART_RX_PIN, GPIO_PIN_CNF + 4u * (MG_UART_RX_PIN % 32u)) = PIN_CNF_INPUT_PULL_UP;
    *reg(UART_PSELTXD) = MG_UART_TX_PIN;
    *reg(UART_PSELRXD) = MG_UART_RX_PIN;
    *reg(UART_BAUDRATE) = BAUDRATE;
    *reg(UART_ENABLE) = UART_ENABLED;
    *reg(UART_TASKS_STARTTX) = 1u;
    *reg(UART_TASKS_STARTRX) = 1u;
}

void mg_port_init(void)
{
    start_clock();
    start_console();
}

void mg_port_write(const char *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        *reg(UART_EVENTS_TXDRDY) = 0u;
        *reg(UART_TXD) = (uint8_t)bytes[i];
        (void)wait_for(UART_EVENTS_TXDRDY, TRANSMIT_TRIES);
    }
}

int32_t mg_port_read(void)
{
    while (*reg(UART_EVENTS_RXDRDY) == 0u) {
    }
    *reg(UART_EVENTS_RXDRDY) = 0u; /* before the byte is taken: the next one may set it at once */
    return (int32_t)(*reg(UART_RXD) & 0xFFu);
}

uint32_t mg_port_clock_hz(void)
{
    return MG_CLOCK_HZ;
}
