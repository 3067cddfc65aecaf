/* The console of newer STM32 families, from the STM32L4 on: a USART or an LPUART, which have the same registers.
 *
 * The board file states where it is and which pins it has; registers: RM0351 sections "USART registers", "LPUART
 * registers" and "GPIO registers", the same in the other families' reference manuals. */

#include "port.h"
#include "stm32/stm32.h"

enum {
    GPIO_MODER = MG_GPIO_BASE + 0x00, /* modes, 2 bits per pin */
    GPIO_AFRL = MG_GPIO_BASE + 0x20,  /* alternate functions, 4 bits per pin; AFRH, of pins 8..15, follows */
    UART_CR1 = MG_UART_BASE + 0x00,
    UART_CR3 = MG_UART_BASE + 0x08,
    UART_BRR = MG_UART_BASE + 0x0C, /* baud rate */
    UART_ISR = MG_UART_BASE + 0x1C,
    UART_RDR = MG_UART_BASE + 0x24,
    UART_TDR = MG_UART_BASE + 0x28
};

enum {
    MODE_ALTERNATE = 2,
    CR1_UE_TE_RE = (1 << 0) | (1 << 3) | (1 << 2),
    CR3_OVRDIS = 1 << 12, /* a byte that nobody has read is replaced by the next one: no flag stops reception */
    ISR_RXNE = 1 << 5,
    ISR_TXE = 1 << 7,
    TRANSMIT_TRIES = 200000 /* > 0.4 ms at 480 MHz; one byte at 115200 baud takes 0.09 ms */
};

static uint32_t clock_hz;

/* Give a pin to the console. */
static void connect(uint32_t pin)
{
    const uint32_t function = pin % 8u * 4u;
    mg_stm32_set_field(GPIO_AFRL + pin / 8u * 4u, 15u << function, (uint32_t)MG_UART_FUNCTION << function);
    mg_stm32_set_field(GPIO_MODER, 3u << (pin * 2u), (uint32_t)MODE_ALTERNATE << (pin * 2u));
}

/* Return the length of a bit in units of 1 / MG_UART_STEPS clocks, rounded. The baud rate is at most 2^22, the steps
 * are at most 256: no product or sum exceeds 2^31. */
static uint32_t bit_length(uint32_t hz)
{
    const uint32_t whole = hz / MG_UART_BAUD * MG_UART_STEPS;
    return whole + (hz % MG_UART_BAUD * MG_UART_STEPS + MG_UART_BAUD / 2u) / MG_UART_BAUD;
}

/* 8 data bits, no parity, 1 stop bit. */
void mg_port_init(void)
{
    const mg_stm32_clocks_t clocks = mg_stm32_start_clock();
    clock_hz = clocks.core_hz;
    mg_stm32_enable(MG_GPIO_ENABLE, MG_GPIO_ENABLE_BIT);
    mg_stm32_enable(MG_UART_ENABLE, MG_UART_ENABLE_BIT);
    connect(MG_UART_TX_PIN);
    connect(MG_UART_RX_PIN);
    *mg_stm32_reg(UART_BRR) = bit_length(clocks.bus_hz);
    *mg_stm32_reg(UART_CR3) = CR3_OVRDIS;
    *mg_stm32_reg(UART_CR1) = CR1_UE_TE_RE;
}

void mg_port_write(const char *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        int32_t tries = TRANSMIT_TRIES;
        while (((*mg_stm32_reg(UART_ISR) & ISR_TXE) == 0u) && (tries > 0)) {
            tries--;
        }
        *mg_stm32_reg(UART_TDR) = (uint8_t)bytes[i];
    }
}

int32_t mg_port_read(void)
{
    while ((*mg_stm32_reg(UART_ISR) & ISR_RXNE) == 0u) {
    }
    return (int32_t)(*mg_stm32_reg(UART_RDR) & 0xFFu);
}

uint32_t mg_port_clock_hz(void)
{
    return clock_hz;
}
