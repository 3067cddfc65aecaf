/* Espressif ESP32-C3 on its 40 MHz crystal, the console on UART0: pins 21 (transmit) and 20 (receive).
 *
 * The boot ROM has talked on those pins already, so that they are set up. The PLL for 160 MHz is configured over a bus
 * inside the chip that no manual describes, so the core stays on the crystal, which also clocks the UART: there is
 * nothing to wait for. Source: ESP32-C3 Technical Reference Manual (TRM); addresses also in ESP-IDF, soc/esp32c3. */

#include "port.h"

enum {
    UART_FIFO = 0x60000000,   /* TRM, chapter UART Controller */
    UART_CLKDIV = 0x60000014,
    UART_STATUS = 0x6000001C,
    UART_CLK_CONF = 0x60000078,
    RTC_WDTCONFIG0 = 0x60008090, /* TRM, chapter Low-power Management */
    RTC_WDTWPROTECT = 0x600080A8,
    RTC_SWD_CONF = 0x600080AC,
    RTC_SWD_WPROTECT = 0x600080B0,
    TIMG0_WDTCONFIG0 = 0x6001F048, /* TRM, chapter Timer Group */
    TIMG0_WDTWPROTECT = 0x6001F064,
    SYSTEM_SYSCLK_CONF = 0x600C0058 /* TRM, chapter System Registers */
};

/* What opens a watchdog's registers; anything else closes them. */
#define WDT_KEY 0x50D83AA1u
#define SWD_KEY 0x8F1D312Au
#define SWD_AUTO_FEED (1u << 31)

enum {
    SYSCLK_MASK = (3 << 10) | 0x3FF, /* source and divider; 0: the crystal, undivided */
    SCLK_CRYSTAL = 3 << 20,
    SCLK_ENABLE = (1 << 25) | (1 << 24) | (1 << 22), /* receiver, transmitter, both; divider 1 */
    STATUS_RECEIVED = 0x3FF,
    STATUS_SENDING_SHIFT = 16,
    STATUS_SENDING_MASK = 0x3FF,
    TRANSMIT_ROOM = 100 /* of 128 bytes */
};

enum {
    CRYSTAL_HZ = 40000000,
    SIXTEENTHS = (CRYSTAL_HZ + MG_UART_BAUD / 32) / (MG_UART_BAUD / 16), /* of a crystal cycle per bit */
    CLKDIV = SIXTEENTHS / 16 + (SIXTEENTHS % 16) * (1 << 20),
    TRANSMIT_TRIES = 100000 /* > 10 ms at 40 MHz and 4 cycles each; one byte at 115200 baud takes 0.09 ms */
};

typedef char mg_clock_is_what_the_board_states[(CRYSTAL_HZ == MG_CLOCK_HZ) ? 1 : -1];
typedef char mg_baud_rate_is_one_that_the_uart_can_make[(SIXTEENTHS / 16 >= 8 && SIXTEENTHS / 16 <= 4095) ? 1 : -1];

static volatile uint32_t *reg(uint32_t address)
{
    return (volatile uint32_t *)address;
}

/* The boot ROM starts three watchdogs, for programs that never begin: two are switched off, one feeds itself. */
static void stop_watchdogs(void)
{
    *reg(TIMG0_WDTWPROTECT) = WDT_KEY;
    *reg(TIMG0_WDTCONFIG0) = 0u;
    *reg(TIMG0_WDTWPROTECT) = 0u;
    *reg(RTC_WDTWPROTECT) = WDT_KEY;
    *reg(RTC_WDTCONFIG0) = 0u;
    *reg(RTC_WDTWPROTECT) = 0u;
    *reg(RTC_SWD_WPROTECT) = SWD_KEY;
    *reg(RTC_SWD_CONF) |= SWD_AUTO_FEED;
    *reg(RTC_SWD_WPROTECT) = 0u;
}

void mg_port_init(void)
{
    stop_watchdogs();
    *reg(SYSTEM_SYSCLK_CONF) &= ~(uint32_t)SYSCLK_MASK;
    *reg(UART_CLK_CONF) = SCLK_CRYSTAL | SCLK_ENABLE;
    *reg(UART_CLKDIV) = CLKDIV;
}

void mg_port_write(const char *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        int32_t tries = TRANSMIT_TRIES;
        while ((((*reg(UART_STATUS) >> STATUS_SENDING_SHIFT) & STATUS_SENDING_MASK) >= TRANSMIT_ROOM) && (tries > 0)) {
            tries--;
        }
        *reg(UART_FIFO) = (uint8_t)bytes[i];
    }
}

int32_t mg_port_read(void)
{
    while ((*reg(UART_STATUS) & STATUS_RECEIVED) == 0u) {
    }
    return (int32_t)(*reg(UART_FIFO) & 0xFFu);
}

uint32_t mg_port_clock_hz(void)
{
    return MG_CLOCK_HZ;
}
