/* The clock of an STM32L47x or L48x: 80 MHz from the 16 MHz oscillator (HSI16). Where a ready flag does not come, the
 * chip stays on the oscillator that it starts on, MSI at 4 MHz.
 * Registers: RM0351, sections "RCC registers" and "FLASH registers". */

#include "stm32/stm32.h"

enum {
    RCC_CR = 0x40021000,      /* clock control */
    RCC_CFGR = 0x40021008,    /* clock switch and bus prescalers */
    RCC_PLLCFGR = 0x4002100C, /* PLL factors */
    FLASH_ACR = 0x40022000    /* flash access control */
};

enum {
    CR_HSION = 1 << 8,
    CR_HSIRDY = 1 << 10,
    CR_PLLON = 1 << 24,
    CR_PLLRDY = 1 << 25,
    CFGR_SW_MASK = 3 << 0,
    CFGR_SW_PLL = 3 << 0,
    CFGR_SWS_MASK = 3 << 2,
    CFGR_SWS_PLL = 3 << 2,
    ACR_LATENCY_MASK = 7,
    ACR_LATENCY_4 = 4,  /* RM0351, read access latency: above 64 MHz in voltage range 1, which is that after reset */
    ACR_CACHES = 7 << 8 /* prefetch, instruction cache, data cache */
};

/* The PLL: 16 MHz / 1 = 16 MHz in (4 to 16), * 10 = 160 MHz VCO (64 to 344), / 2 = 80 MHz. */
enum {
    MSI_HZ = 4000000,
    HSI16_HZ = 16000000,
    PLL_M = 1,
    PLL_N = 10,
    PLL_R = 2,
    PLL_HZ = HSI16_HZ / PLL_M * PLL_N / PLL_R,
    PLLCFGR = 2 | ((PLL_M - 1) << 4) | (PLL_N << 8) | (1 << 24) | ((PLL_R / 2 - 1) << 25) /* from HSI16; R is on */
};

typedef char mg_clock_is_what_the_board_states[(PLL_HZ == MG_CLOCK_HZ) ? 1 : -1];

/* Returns 1 when the PLL may become the system clock. */
static int32_t prepare_pll(void)
{
    if (mg_stm32_set_and_wait(RCC_CR, CR_HSION, CR_HSIRDY, CR_HSIRDY) == 0) {
        return 0;
    }
    *mg_stm32_reg(RCC_PLLCFGR) = PLLCFGR;
    mg_stm32_set_bits(RCC_CR, CR_PLLON);
    *mg_stm32_reg(FLASH_ACR) = ACR_CACHES | ACR_LATENCY_4;
    if (mg_stm32_wait_for(FLASH_ACR, ACR_LATENCY_MASK, ACR_LATENCY_4) == 0) {
        return 0;
    }
    return mg_stm32_wait_for(RCC_CR, CR_PLLRDY, CR_PLLRDY);
}

/* All buses run at the core's clock. */
mg_stm32_clocks_t mg_stm32_start_clock(void)
{
    const mg_stm32_clocks_t slow = {MSI_HZ, MSI_HZ};
    const mg_stm32_clocks_t fast = {PLL_HZ, PLL_HZ};
    if (prepare_pll() == 0) {
        return slow;
    }
    if (mg_stm32_set_and_wait(RCC_CFGR, CFGR_SW_PLL, CFGR_SWS_MASK, CFGR_SWS_PLL) == 1) {
        return fast;
    }
    mg_stm32_set_field(RCC_CFGR, CFGR_SW_MASK, 0u); /* the switch did not happen: back to MSI */
    return slow;
}
