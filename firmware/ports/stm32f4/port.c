/* STM32F446 at up to 180 MHz, or STM32F401 at up to 84 MHz, with the console on USART2, as on a Nucleo-64.
 *
 * Every wait for a ready flag is bounded. Where one runs out, the chip stays on its 16 MHz oscillator (HSI): slower,
 * but alive and with the right baud rate. Section numbers are those of the F446's reference manual, RM0390; in the
 * F401's, RM0368, the registers are the same, but for over-drive. */

#include "port.h"

/* Registers: base addresses in section 2.2.2, offsets in the section named. */
enum {
    RCC_CR = 0x40023800,      /* 6.3.1  clock control */
    RCC_PLLCFGR = 0x40023804, /* 6.3.2  PLL factors */
    RCC_CFGR = 0x40023808,    /* 6.3.3  clock switch and bus prescalers */
    RCC_AHB1ENR = 0x40023830, /* 6.3.10 peripheral clocks */
    RCC_APB1ENR = 0x40023840, /* 6.3.13 */
    PWR_CR = 0x40007000,      /* 5.4.1  power control */
    PWR_CSR = 0x40007004,     /* 5.4.2  power status */
    FLASH_ACR = 0x40023C00,   /* 3.8.1  flash access control */
    GPIOA_MODER = 0x40020000, /* 7.4.1  pin modes */
    GPIOA_AFRL = 0x40020020,  /* 7.4.9  alternate functions of pins 0..7 */
    USART2_SR = 0x40004400,   /* 25.6.1 status */
    USART2_DR = 0x40004404,   /* 25.6.2 data */
    USART2_BRR = 0x40004408,  /* 25.6.3 baud rate */
    USART2_CR1 = 0x4000440C   /* 25.6.4 control */
};

/* Bits of those registers. */
enum {
    CR_PLLON = 1 << 24,
    CR_PLLRDY = 1 << 25,
    CFGR_SW_PLL = 2 << 0,
    CFGR_SWS_MASK = 3 << 2,
    CFGR_SWS_PLL = 2 << 2,
    CFGR_PPRE1_DIV4 = 5 << 10, /* APB1: at most 45 MHz */
    CFGR_PPRE2_DIV2 = 4 << 13, /* APB2: at most 90 MHz */
    AHB1ENR_GPIOA = 1 << 0,
    APB1ENR_USART2 = 1 << 17,
    APB1ENR_PWR = 1 << 28,
    PWR_VOS_SCALE_1 = 3 << 14,
    PWR_ODEN = 1 << 16,
    PWR_ODSWEN = 1 << 17,
    PWR_ODRDY = 1 << 16,
    PWR_ODSWRDY = 1 << 17,
    ACR_LATENCY_MASK = 15,
    ACR_LATENCY = (MG_CLOCK_HZ - 1) / 30000000, /* table 5 (RM0368: 6): wait states at 2.7 to 3.6 V */
    ACR_ART = 7 << 8,         /* prefetch, instruction cache, data cache */
    SR_RXNE = 1 << 5,
    SR_TXE = 1 << 7,
    CR1_UE_TE_RE = (1 << 13) | (1 << 3) | (1 << 2)
};

/* The PLL: 16 MHz / 8 = 2 MHz in, * 180 = 360 MHz VCO, / 2 = 180 MHz (6.3.2), or * 168 = 336 MHz, / 4 = 84 MHz: an
 * F401 wants a VCO of at least 192 MHz, an F446 of 100, both of at most 432. Bit 22 clear: the source is HSI, which
 * needs no crystal and no solder bridge. Q and R feed peripherals that are not used; 2 is the lowest legal value. */
enum {
    HSI_HZ = 16000000,
    PLL_M = 8,
    PLL_P = (MG_CLOCK_HZ >= 96000000) ? 2 : 4,
    PLL_N = MG_CLOCK_HZ / (HSI_HZ / PLL_M) * PLL_P,
    PLL_HZ = HSI_HZ / PLL_M * PLL_N / PLL_P,
    PLLCFGR = PLL_M | (PLL_N << 6) | ((PLL_P / 2 - 1) << 16) | (2 << 24) | (2 << 28),
    OVER_DRIVE = MG_CLOCK_HZ > 168000000 /* 5.1.4; below, the voltage scale after reset will do */
};

/* The board file and this clock tree must agree. */
typedef char mg_clock_is_what_the_board_states[(PLL_HZ == MG_CLOCK_HZ) ? 1 : -1];

enum {
    READY_TRIES = 20000,    /* > 3 ms at 16 MHz; the PLL locks within 0.3 ms (DS10693, main PLL characteristics) */
    TRANSMIT_TRIES = 100000 /* > 2 ms at 180 MHz; one byte at 115200 baud takes 0.09 ms */
};

static uint32_t clock_hz = HSI_HZ;

static volatile uint32_t *reg(uint32_t address)
{
    return (volatile uint32_t *)address;
}

static void set_bits(uint32_t address, uint32_t bits)
{
    *reg(address) |= bits;
}

/* Replace the bits of `mask` by `bits`. */
static void set_field(uint32_t address, uint32_t mask, uint32_t bits)
{
    *reg(address) = (*reg(address) & ~mask) | bits;
}

/* Poll until the bits of `mask` read `bits`. Returns 1, or 0 when the tries are used up. */
static int32_t wait_for(uint32_t address, uint32_t mask, uint32_t bits)
{
    for (int32_t i = 0; i < READY_TRIES; i++) {
        if ((*reg(address) & mask) == bits) {
            return 1;
        }
    }
    return 0;
}

/* Section 5.1.4, "Entering Over-drive mode", once the PLL is on. Returns 1 when the core has the voltage. */
static int32_t start_over_drive(void)
{
    set_bits(PWR_CR, PWR_ODEN);
    if (wait_for(PWR_CSR, PWR_ODRDY, PWR_ODRDY) == 0) {
        return 0;
    }
    set_bits(PWR_CR, PWR_ODSWEN);
    return wait_for(PWR_CSR, PWR_ODSWRDY, PWR_ODSWRDY);
}

/* Voltage, PLL, wait states, PLL locked. Returns 1 when the PLL may become the system clock. */
static int32_t prepare_pll(void)
{
    if (OVER_DRIVE == 1) {
        set_bits(RCC_APB1ENR, APB1ENR_PWR);
        (void)*reg(RCC_APB1ENR); /* read back: a peripheral answers two clocks after its enable bit (ES0298) */
        set_bits(PWR_CR, PWR_VOS_SCALE_1);
    }
    *reg(RCC_PLLCFGR) = PLLCFGR;
    set_bits(RCC_CR, CR_PLLON);
    if (OVER_DRIVE == 1 && start_over_drive() == 0) {
        return 0;
    }
    *reg(FLASH_ACR) = ACR_ART | ACR_LATENCY;
    if (wait_for(FLASH_ACR, ACR_LATENCY_MASK, ACR_LATENCY) == 0) {
        return 0;
    }
    return wait_for(RCC_CR, CR_PLLRDY, CR_PLLRDY);
}

static void start_clock(void)
{
    if (prepare_pll() == 0) {
        return;
    }
    set_bits(RCC_CFGR, CFGR_PPRE1_DIV4 | CFGR_PPRE2_DIV2);
    set_bits(RCC_CFGR, CFGR_SW_PLL);
    if (wait_for(RCC_CFGR, CFGR_SWS_MASK, CFGR_SWS_PLL) == 1) {
        clock_hz = PLL_HZ;
        return;
    }
    *reg(RCC_CFGR) = 0u; /* the switch did not happen: HSI, no prescalers */
}

/* USART2 on PA2 (transmit) and PA3 (receive), alternate function 7, 8 data bits, no parity, 1 stop bit. */
static void start_console(void)
{
    const uint32_t apb1_hz = (clock_hz == (uint32_t)PLL_HZ) ? clock_hz / 4u : clock_hz;
    set_bits(RCC_AHB1ENR, AHB1ENR_GPIOA);
    set_bits(RCC_APB1ENR, APB1ENR_USART2);
    (void)*reg(RCC_APB1ENR); /* see prepare_pll */
    set_field(GPIOA_AFRL, (15u << 8) | (15u << 12), (7u << 8) | (7u << 12));
    set_field(GPIOA_MODER, (3u << 4) | (3u << 6), (2u << 4) | (2u << 6));
    *reg(USART2_BRR) = (apb1_hz + MG_UART_BAUD / 2u) / MG_UART_BAUD; /* 25.4.4: USARTDIV * 16, rounded */
    *reg(USART2_CR1) = CR1_UE_TE_RE;
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
        while (((*reg(USART2_SR) & SR_TXE) == 0u) && (tries > 0)) {
            tries--;
        }
        *reg(USART2_DR) = (uint8_t)bytes[i];
    }
}

int32_t mg_port_read(void)
{
    while ((*reg(USART2_SR) & SR_RXNE) == 0u) {
    }
    return (int32_t)(*reg(USART2_DR) & 0xFFu); /* reading SR, then DR also clears an overrun (25.6.1) */
}

uint32_t mg_port_clock_hz(void)
{
    return clock_hz;
}
