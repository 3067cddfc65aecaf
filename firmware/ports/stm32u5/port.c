/* The clock and instruction cache of an STM32U575 or U585: 160 MHz from the 16 MHz oscillator (HSI16). Where a ready
 * flag does not come, the chip stays on what it starts on, MSIS at 4 MHz. TrustZone is off, as delivered.
 * Registers: RM0456, sections "PWR registers", "RCC registers", "FLASH registers" and "ICACHE registers". */

#include "stm32/stm32.h"

enum {
    RCC_CR = 0x46020C00,       /* clock control */
    RCC_CFGR1 = 0x46020C1C,    /* clock switch */
    RCC_PLL1CFGR = 0x46020C28,
    RCC_PLL1DIVR = 0x46020C34, /* PLL factors */
    RCC_AHB3ENR = 0x46020C94,  /* peripheral clocks */
    PWR_VOSR = 0x4602080C,     /* voltage scaling */
    FLASH_ACR = 0x40022000,    /* flash access control */
    ICACHE_CR = 0x40030400,
    ICACHE_SR = 0x40030404
};

enum {
    CR_HSION = 1 << 8,
    CR_HSIRDY = 1 << 10,
    CR_PLL1ON = 1 << 24,
    CR_PLL1RDY = 1 << 25,
    CFGR1_SW_MASK = 3 << 0,
    CFGR1_SW_PLL1 = 3 << 0,
    CFGR1_SWS_MASK = 3 << 2,
    CFGR1_SWS_PLL1 = 3 << 2,
    AHB3ENR_PWR = 2, /* bit number */
    VOSR_BOOSTRDY = 1 << 14,
    VOSR_VOSRDY = 1 << 15,
    VOSR_RANGE_1 = 3 << 16,
    VOSR_BOOSTEN = 1 << 18,
    ACR_LATENCY_MASK = 15,
    ACR_LATENCY_4 = 4, /* RM0456, read access latency: above 128 MHz in voltage range 1 */
    ACR_PRFTEN = 1 << 8,
    ICACHE_CR_EN = 1 << 0,
    ICACHE_SR_BUSY = 1 << 0
};

/* The PLL: 16 MHz / 1 = 16 MHz in (8 to 16: range 3), * 20 = 320 MHz VCO (128 to 544), / 2 = 160 MHz. The voltage
 * booster runs on HSI16, too (4 to 16 MHz). */
enum {
    MSIS_HZ = 4000000,
    HSI16_HZ = 16000000,
    PLL_M = 1,
    PLL_N = 20,
    PLL_R = 2,
    PLL_HZ = HSI16_HZ / PLL_M * PLL_N / PLL_R,
    PLL1CFGR = 2 | (3 << 2) | ((PLL_M - 1) << 8) | (1 << 18), /* from HSI16; output R is on */
    PLL1DIVR = (PLL_N - 1) | (1 << 9) | (1 << 16) | ((PLL_R - 1) << 24)
};

typedef char mg_clock_is_what_the_board_states[(PLL_HZ == MG_CLOCK_HZ) ? 1 : -1];

/* Voltage range 1 and its booster (RM0456 section 10.5.4), wait states, PLL. Returns 1 when the PLL may become the
 * system clock. */
static int32_t prepare_pll(void)
{
    if (mg_stm32_set_and_wait(RCC_CR, CR_HSION, CR_HSIRDY, CR_HSIRDY) == 0) {
        return 0;
    }
    *mg_stm32_reg(RCC_PLL1CFGR) = PLL1CFGR;
    *mg_stm32_reg(RCC_PLL1DIVR) = PLL1DIVR;
    mg_stm32_enable(RCC_AHB3ENR, AHB3ENR_PWR);
    if (mg_stm32_set_and_wait(PWR_VOSR, VOSR_RANGE_1, VOSR_VOSRDY, VOSR_VOSRDY) == 0) {
        return 0;
    }
    if (mg_stm32_set_and_wait(PWR_VOSR, VOSR_BOOSTEN, VOSR_BOOSTRDY, VOSR_BOOSTRDY) == 0) {
        return 0;
    }
    mg_stm32_set_field(FLASH_ACR, ACR_LATENCY_MASK, ACR_PRFTEN | ACR_LATENCY_4);
    if (mg_stm32_wait_for(FLASH_ACR, ACR_LATENCY_MASK, ACR_LATENCY_4) == 0) {
        return 0;
    }
    return mg_stm32_set_and_wait(RCC_CR, CR_PLL1ON, CR_PLL1RDY, CR_PLL1RDY);
}

/* All buses run at the core's clock. */
mg_stm32_clocks_t mg_stm32_start_clock(void)
{
    const mg_stm32_clocks_t slow = {MSIS_HZ, MSIS_HZ};
    const mg_stm32_clocks_t fast = {PLL_HZ, PLL_HZ};
    if (mg_stm32_wait_for(ICACHE_SR, ICACHE_SR_BUSY, 0u) == 1) { /* it empties itself after reset */
        mg_stm32_set_bits(ICACHE_CR, ICACHE_CR_EN);
    }
    if (prepare_pll() == 0) {
        return slow;
    }
    if (mg_stm32_set_and_wait(RCC_CFGR1, CFGR1_SW_PLL1, CFGR1_SWS_MASK, CFGR1_SWS_PLL1) == 1) {
        return fast;
    }
    mg_stm32_set_field(RCC_CFGR1, CFGR1_SW_MASK, 0u); /* the switch did not happen: back to MSIS */
    return slow;
}
