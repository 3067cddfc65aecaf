/* RP2040 and RP2350 with their console on UART0, as on a Raspberry Pi Pico and Pico 2.
 *
 * The two chips have the same registers at other addresses, which the board file states. Every wait for a ready flag
 * is bounded. Where the PLL does not lock, the chip stays on its crystal: slower, and with the right baud rate. Where
 * the crystal does not start either, the ring oscillator goes on, and the baud rate is right for its nominal rate.
 * Sources: "RP2040 Datasheet" and "RP2350 Datasheet", chapters named below; pico-sdk, hardware/regs/. */

#include "port.h"

enum {
    RESETS_RESET = MG_RESETS_BASE, /* "Resets": 1 holds a peripheral in reset */
    RESETS_DONE = MG_RESETS_BASE + 0x08,
    CLK_REF_CTRL = MG_CLOCKS_BASE + 0x30, /* "Clocks" */
    CLK_REF_SELECTED = MG_CLOCKS_BASE + 0x38,
    CLK_SYS_CTRL = MG_CLOCKS_BASE + 0x3C,
    CLK_SYS_SELECTED = MG_CLOCKS_BASE + 0x44,
    CLK_PERI_CTRL = MG_CLOCKS_BASE + 0x48,
    XOSC_CTRL = MG_XOSC_BASE, /* "Crystal Oscillator (XOSC)" */
    XOSC_STATUS = MG_XOSC_BASE + 0x04,
    XOSC_STARTUP = MG_XOSC_BASE + 0x0C,
    PLL_CS = MG_PLL_BASE, /* "PLL" */
    PLL_PWR = MG_PLL_BASE + 0x04,
    PLL_FBDIV = MG_PLL_BASE + 0x08,
    PLL_PRIM = MG_PLL_BASE + 0x0C,
    GPIO0_CTRL = MG_IO_BASE + 0x04, /* "GPIO" */
    GPIO1_CTRL = MG_IO_BASE + 0x0C,
    PADS_GPIO0 = MG_PADS_BASE + 0x04,
    PADS_GPIO1 = MG_PADS_BASE + 0x08,
    UART_DR = MG_UART_BASE, /* "UART": Arm's PL011 (DDI 0183) */
    UART_FR = MG_UART_BASE + 0x18,
    UART_IBRD = MG_UART_BASE + 0x24,
    UART_FBRD = MG_UART_BASE + 0x28,
    UART_LCR_H = MG_UART_BASE + 0x2C,
    UART_CR = MG_UART_BASE + 0x30
};

/* Bits of those registers; "sources" are glitchless multiplexers, of which SELECTED has one bit each. */
enum {
    REF_SOURCE_XOSC = 2,
    SYS_SOURCE_REF = 0,
    SYS_SOURCE_AUX = 1, /* bits 5..7 clear: the auxiliary source is PLL_SYS */
    PERI_ENABLE = 1 << 11, /* bits 5..7 clear: from the system clock */
    XOSC_ENABLE = 0xFABAA0, /* two keys: enable, 1 to 15 MHz */
    PLL_PWR_DOWN = 1 << 0,
    PLL_PWR_DSM = 1 << 2, /* 1: no fractions */
    PLL_PWR_POSTDIV = 1 << 3,
    PLL_PWR_VCO = 1 << 5,
    FUNCTION_UART = 2,
    PAD_TRANSMIT = 0x56, /* input buffer, 4 mA, pull-down, Schmitt trigger; the RP2350's isolation latch (8) opens */
    PAD_RECEIVE = 0x5A,  /* the same with a pull-up: an open pin is an idle line */
    FR_RXFE = 1 << 4,
    FR_TXFF = 1 << 5,
    LCR_8N1_FIFO = (3 << 5) | (1 << 4),
    CR_ON = (1 << 9) | (1 << 8) | (1 << 0) /* receive, transmit, enable */
};

static const uint32_t READY = 1u << 31; /* in XOSC_STATUS: stable; in PLL_CS: locked */

/* The PLL: 12 MHz * 125 = 1500 MHz VCO, / (6 * 2) = 125 MHz or / (5 * 2) = 150 MHz. */
enum {
    PLL_N = 125,
    VCO_HZ = MG_CRYSTAL_HZ * PLL_N,
    POSTDIV2 = 2,
    POSTDIV1 = VCO_HZ / POSTDIV2 / MG_CLOCK_HZ
};

/* The board file and this clock tree must agree; the VCO runs at 750 to 1600 MHz, and dividers go from 1 to 7. */
typedef char mg_clock_is_what_the_board_states
    [(VCO_HZ / POSTDIV2 / POSTDIV1 == MG_CLOCK_HZ && VCO_HZ % (POSTDIV2 * POSTDIV1) == 0 && POSTDIV1 <= 7) ? 1 : -1];

enum {
    XOSC_DELAY = MG_CRYSTAL_HZ / 1000 / 256, /* about 1 ms, in units of 256 cycles: "Startup Delay" */
    READY_TRIES = 50000,                     /* > 8 ms at 12 MHz */
    TRANSMIT_TRIES = 100000                  /* > 2 ms at 150 MHz; one byte at 115200 baud takes 0.09 ms */
};

static uint32_t clock_hz = MG_ROSC_HZ;

static volatile uint32_t *reg(uint32_t address)
{
    return (volatile uint32_t *)address;
}

/* Poll until one of the bits of `mask` is set. Returns 1, or 0 when the tries are used up. */
static int32_t wait_for(uint32_t address, uint32_t mask)
{
    for (int32_t i = 0; i < READY_TRIES; i++) {
        if ((*reg(address) & mask) != 0u) {
            return 1;
        }
    }
    return 0;
}

/* Reset a peripheral and let it go. */
static void start_peripheral(uint32_t bit)
{
    *reg(RESETS_RESET) |= bit;
    *reg(RESETS_RESET) &= ~bit;
    (void)wait_for(RESETS_DONE, bit);
}

/* The crystal as reference and, through it, as system clock. Returns 1, or 0 where it does not start. */
static int32_t start_crystal(void)
{
    *reg(XOSC_STARTUP) = XOSC_DELAY;
    *reg(XOSC_CTRL) = XOSC_ENABLE;
    if (wait_for(XOSC_STATUS, READY) == 0) {
        return 0;
    }
    *reg(CLK_REF_CTRL) = REF_SOURCE_XOSC;
    return wait_for(CLK_REF_SELECTED, 1u << REF_SOURCE_XOSC);
}

/* "PLL", section "Programming the PLL": dividers, power, lock, dividers behind the VCO. Returns 1 when locked. */
static int32_t start_pll(void)
{
    start_peripheral(MG_RESET_PLL);
    *reg(PLL_CS) = 1u; /* the crystal as it is */
    *reg(PLL_FBDIV) = PLL_N;
    *reg(PLL_PWR) = PLL_PWR_DSM | PLL_PWR_POSTDIV;
    if (wait_for(PLL_CS, READY) == 0) {
        return 0;
    }
    *reg(PLL_PRIM) = (POSTDIV1 << 16) | (POSTDIV2 << 12);
    *reg(PLL_PWR) = PLL_PWR_DSM;
    return 1;
}

static void start_clock(void)
{
    *reg(CLK_SYS_CTRL) = SYS_SOURCE_REF; /* off the PLL, which a debugger's reset leaves running */
    (void)wait_for(CLK_SYS_SELECTED, 1u << SYS_SOURCE_REF);
    if (start_crystal() == 0) {
        return;
    }
    clock_hz = MG_CRYSTAL_HZ;
    if (start_pll() == 0) {
        return;
    }
    *reg(CLK_SYS_CTRL) = SYS_SOURCE_AUX;
    if (wait_for(CLK_SYS_SELECTED, 1u << SYS_SOURCE_AUX) == 1) {
        clock_hz = MG_CLOCK_HZ;
        return;
    }
    *reg(CLK_SYS_CTRL) = SYS_SOURCE_REF; /* the switch did not happen */
}

/* UART0 on GP0 (transmit) and GP1 (receive), 8 data bits, no parity, 1 stop bit. */
static void start_console(void)
{
    const uint32_t divisor = (4u * clock_hz + MG_UART_BAUD / 2u) / MG_UART_BAUD; /* clock / (16 * baud) in 1/64 */
    *reg(CLK_PERI_CTRL) = PERI_ENABLE;
    start_peripheral(MG_RESET_IO);
    start_peripheral(MG_RESET_PADS);
    start_peripheral(MG_RESET_UART);
    *reg(GPIO0_CTRL) = FUNCTION_UART;
    *reg(GPIO1_CTRL) = FUNCTION_UART;
    *reg(PADS_GPIO0) = PAD_TRANSMIT;
    *reg(PADS_GPIO1) = PAD_RECEIVE;
    *reg(UART_IBRD) = divisor >> 6;
    *reg(UART_FBRD) = divisor & 63u;
    *reg(UART_LCR_H) = LCR_8N1_FIFO; /* after the divisor, which this write makes valid (DDI 0183, 3.3.6) */
    *reg(UART_CR) = CR_ON;
}

void mg_port_init(void)
{
    start_clock();
    start_console();
}

void mg_port_write(const char *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        int32_t tries = TRANSMIT_TRIES;
        while (((*reg(UART_FR) & FR_TXFF) != 0u) && (tries > 0)) {
            tries--;
        }
        *reg(UART_DR) = (uint8_t)bytes[i];
    }
}

int32_t mg_port_read(void)
{
    while ((*reg(UART_FR) & FR_RXFE) != 0u) {
    }
    return (int32_t)(*reg(UART_DR) & 0xFFu);
}

uint32_t mg_port_clock_hz(void)
{
    return clock_hz;
}
