/* The clock and instruction cache of an STM32H562, H563 or H573: 250 MHz from half the 64 MHz oscillator (HSI), which
 * the chip starts on, and stays on where a ready flag does not come. TrustZone is off, as delivered.
 * Registers: RM0481, sections "PWR registers", "RCC registers", "FLASH registers" and "ICACHE registers". */

#include "stm32/stm32.h"

enum {
    RCC_CR = 0x44020C00,       /* clock control */
    RCC_CFGR1 = 0x44020C1C,    /* clock switch */
    RCC_PLL1CFGR = 0x44020C28,
    RCC_PLL1DIVR = 0x44020C34, /* PLL factors */
    PWR_VOSCR = 0x44020810,    /* voltage scaling */
    PWR_VOSSR = 0x44020814,
    FLASH_ACR = 0x40022000,    /* flash access control */
    ICACHE_CR = 0x40030400,
    ICACHE_SR = 0x40030404
};

enum {
    CR_PLL1ON = 1 << 24,
    CR_PLL1RDY = 1 << 25,
    CFGR1_SW_MASK = 3 << 0,
    CFGR1_SW_PLL1 = 3 << 0,
    CFGR1_SWS_MASK = 3 << 3,
    CFGR1_SWS_PLL1 = 3 << 3,
    VOSCR_VOS_0 = 3 << 4,
    VOSSR_VOSRDY = 1 << 3,
    ACR_MASK = 0x3F,
    ACR_LATENCY_5 = 5 | (2 << 4), /* RM0481, read access latency: above 210 MHz at voltage scale 0 */
    ACR_PRFTEN = 1 << 8,
    ICACHE_CR_EN = 1 << 0,
    ICACHE_SR_BUSY = 1 << 0
};

/* The PLL: 32 MHz / 8 = 4 MHz in (4 to 8: range 2), * 125 = 500 MHz VCO (128 to 560), / 2 = 250 MHz. */
enum {
    HSI_HZ = 64000000 / 2, /* HSIDIV after reset */
    PLL_M = 8,
    PLL_N = 125,
    PLL_P = 2,
    PLL_HZ = HSI_HZ / PLL_M * PLL_N / PLL_P,
    PLL1CFGR = 1 | (2 << 2) | (PLL_M << 8) | (1 << 16), /* from HSI; wide VCO, output P is on */
    PLL1DIVR = (PLL_N - 1) | ((PLL_P - 1) << 9) | (1 << 16) | (1 << 24)
};

typedef char mg_clock_is_what_the_board_states[(PLL_HZ == MG_CLOCK_HZ) ? 1 : -1];

/* Voltage scale 0, wait states, PLL. Returns 1 when the PLL may become the system clock. */
static int32_t prepare_pll(void)
{
    mg_stm32_set_bits(PWR_VOSCR, VOSCR_VOS_0);
    if (mg_stm32_wait_for(PWR_VOSSR, VOSSR_VOSRDY, VOSSR_VOSRDY) == 0) {
        return 0;
    }
    *mg_stm32_reg(RCC_PLL1CFGR) = PLL1CFGR;
    *mg_stm32_reg(RCC_PLL1DIVR) = PLL1DIVR;
    mg_stm32_set_bits(RCC_CR, CR_PLL1ON);
    mg_stm32_set_field(FLASH_ACR, ACR_MASK, ACR_PRFTEN | ACR_LATENCY_5);
    if (mg_stm32_wait_for(FLASH_ACR, ACR_MASK, ACR_LATENCY_5) == 0) {
        return 0;
    }
    return mg_stm32_wait_for(RCC_CR, CR_PLL1RDY, CR_PLL1RDY);
}

/* All buses run at the core's clock. */
mg_stm32_clocks_t mg_stm32_start_clock(void)
{
    const mg_stm32_clocks_t slow = {HSI_HZ, HSI_HZ};
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
    mg_stm32_set_field(RCC_CFGR1, CFGR1_SW_MASK, 0u); /* the switch did not happen: back to HSI */
    return slow;
}
