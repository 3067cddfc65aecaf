/* The clock of an STM32G4: 170 MHz from the 16 MHz oscillator (HSI16), which the chip starts on, and stays on where a
 * ready flag does not come. Registers: RM0440, sections "PWR registers", "RCC registers" and "FLASH registers". */

#include "stm32/stm32.h"

enum {
    RCC_CR = 0x40021000,       /* clock control */
    RCC_CFGR = 0x40021008,     /* clock switch and prescalers */
    RCC_PLLCFGR = 0x4002100C,  /* PLL factors */
    RCC_APB1ENR1 = 0x40021058, /* peripheral clocks */
    PWR_CR5 = 0x40007080,      /* power control */
    FLASH_ACR = 0x40022000     /* flash access control */
};

enum {
    CR_PLLON = 1 << 24,
    CR_PLLRDY = 1 << 25,
    CFGR_SW_HSI16 = 1 << 0,
    CFGR_SW_PLL = 3 << 0,
    CFGR_SWS_MASK = 3 << 2,
    CFGR_SWS_PLL = 3 << 2,
    CFGR_HPRE_MASK = 15 << 4,
    CFGR_HPRE_DIV2 = 8 << 4,
    APB1ENR1_PWR = 28, /* bit number */
    CR5_R1MODE = 1 << 8,
    ACR_LATENCY_MASK = 15,
    ACR_LATENCY_4 = 4,   /* RM0440, read access latency: above 136 MHz in voltage range 1, boost mode */
    ACR_CACHES = 7 << 8, /* prefetch, instruction cache, data cache */
    SETTLE_READS = 100   /* > 1 us at 85 MHz: a read of a register takes at least one cycle */
};

/* The PLL: 16 MHz / 4 = 4 MHz in (2.66 to 16), * 85 = 340 MHz VCO (96 to 344), / 2 = 170 MHz. */
enum {
    HSI16_HZ = 16000000,
    PLL_M = 4,
    PLL_N = 85,
    PLL_R = 2,
    PLL_HZ = HSI16_HZ / PLL_M * PLL_N / PLL_R,
    PLLCFGR = 2 | ((PLL_M - 1) << 4) | (PLL_N << 8) | (1 << 24) | ((PLL_R / 2 - 1) << 25) /* from HSI16; R is on */
};

typedef char mg_clock_is_what_the_board_states[(PLL_HZ == MG_CLOCK_HZ) ? 1 : -1];

/* Boost mode of voltage range 1, wait states, PLL. Returns 1 when the PLL may become the system clock. */
static int32_t prepare_pll(void)
{
    mg_stm32_enable(RCC_APB1ENR1, APB1ENR1_PWR);
    mg_stm32_set_field(PWR_CR5, CR5_R1MODE, 0u);
    *mg_stm32_reg(RCC_PLLCFGR) = PLLCFGR;
    mg_stm32_set_bits(RCC_CR, CR_PLLON);
    mg_stm32_set_field(FLASH_ACR, ACR_LATENCY_MASK, ACR_CACHES | ACR_LATENCY_4);
    if (mg_stm32_wait_for(FLASH_ACR, ACR_LATENCY_MASK, ACR_LATENCY_4) == 0) {
        return 0;
    }
    return mg_stm32_wait_for(RCC_CR, CR_PLLRDY, CR_PLLRDY);
}

/* RM0440 section 6.1.5: above 80 MHz, the core spends the first microsecond at half the clock. All buses run at the
 * core's clock. */
mg_stm32_clocks_t mg_stm32_start_clock(void)
{
    const mg_stm32_clocks_t slow = {HSI16_HZ, HSI16_HZ};
    const mg_stm32_clocks_t fast = {PLL_HZ, PLL_HZ};
    if (prepare_pll() == 0) {
        return slow;
    }
    if (mg_stm32_set_and_wait(RCC_CFGR, CFGR_HPRE_DIV2 | CFGR_SW_PLL, CFGR_SWS_MASK, CFGR_SWS_PLL) == 0) {
        *mg_stm32_reg(RCC_CFGR) = CFGR_SW_HSI16; /* the switch did not happen: no prescaler */
        return slow;
    }
    for (int32_t i = 0; i < SETTLE_READS; i++) {
        (void)*mg_stm32_reg(RCC_CFGR);
    }
    mg_stm32_set_field(RCC_CFGR, CFGR_HPRE_MASK, 0u);
    return fast;
}
