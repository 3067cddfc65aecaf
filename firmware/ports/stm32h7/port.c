/* The clock and caches of an STM32H742, H743 or H753 of revision V: 480 MHz from the 64 MHz oscillator (HSI), which
 * the chip starts on, and stays on where a ready flag does not come. The core supply is the LDO.
 * Registers: RM0433, sections "PWR registers", "RCC registers", "FLASH registers" and "SYSCFG registers". */

#include "stm32/stm32.h"

enum {
    RCC_CR = 0x58024400,         /* clock control */
    RCC_CFGR = 0x58024410,       /* clock switch */
    RCC_D1CFGR = 0x58024418,     /* prescalers of domains 1 to 3 */
    RCC_D2CFGR = 0x5802441C,
    RCC_D3CFGR = 0x58024420,
    RCC_PLLCKSELR = 0x58024428,  /* PLL sources */
    RCC_PLLCFGR = 0x5802442C,
    RCC_PLL1DIVR = 0x58024430,   /* PLL factors */
    RCC_APB4ENR = 0x580244F4,    /* peripheral clocks */
    PWR_CSR1 = 0x58024804,       /* power status */
    PWR_CR3 = 0x5802480C,        /* power supply */
    PWR_D3CR = 0x58024818,       /* voltage scaling */
    SYSCFG_PWRCR = 0x5800042C,
    FLASH_ACR = 0x52002000       /* flash access control */
};

enum {
    CR_PLL1ON = 1 << 24,
    CR_PLL1RDY = 1 << 25,
    CFGR_SW_MASK = 7 << 0,
    CFGR_SW_PLL1 = 3 << 0,
    CFGR_SWS_MASK = 7 << 3,
    CFGR_SWS_PLL1 = 3 << 3,
    APB4ENR_SYSCFG = 1,          /* bit number */
    CSR1_ACTVOSRDY = 1 << 13,
    CR3_SUPPLY_MASK = 7,
    CR3_LDOEN = 2,
    D3CR_VOS_1 = 3 << 14,
    D3CR_VOSRDY = 1 << 13,
    PWRCR_ODEN = 1 << 0,         /* voltage scale 1 becomes 0 */
    ACR_MASK = 0x3F,
    ACR_LATENCY_4 = 4 | (2 << 4) /* RM0433 table 17: AXI clock of 225 to 240 MHz at scale 0 */
};

/* The PLL: 64 MHz / 4 = 16 MHz in (8 to 16: range 3), * 60 = 960 MHz VCO (192 to 960), / 2 = 480 MHz. Behind it,
 * 240 MHz for AXI and AHB, 120 MHz for each APB. */
enum {
    HSI_HZ = 64000000,
    PLL_M = 4,
    PLL_N = 60,
    PLL_P = 2,
    PLL_HZ = HSI_HZ / PLL_M * PLL_N / PLL_P,
    BUS_HZ = PLL_HZ / 4,
    PLLCKSELR = 0 | (PLL_M << 4),
    PLLCFGR = (3 << 2) | (1 << 16), /* input of 8 to 16 MHz, wide VCO, output P */
    PLL1DIVR = (PLL_N - 1) | ((PLL_P - 1) << 9) | (1 << 16) | (1 << 24),
    D1CFGR = 8 | (4 << 4),          /* AHB / 2, APB3 / 2 */
    D2CFGR = (4 << 4) | (4 << 8),   /* APB1 / 2, APB2 / 2 */
    D3CFGR = 4 << 4                 /* APB4 / 2 */
};

typedef char mg_clock_is_what_the_board_states[(PLL_HZ == MG_CLOCK_HZ) ? 1 : -1];

/* Caches of the core: DDI 0403, B2.2.7 and B3.2. Each has 16 KiB in lines of 32 B; that of data, 4 ways of 128. */
enum { CACHE_WAYS = 4, CACHE_SETS = 128 };
static const uint32_t CCR = 0xE000ED14u;
static const uint32_t ICIALLU = 0xE000EF50u; /* write: invalidate the instruction cache */
static const uint32_t DCISW = 0xE000EF60u;   /* write: invalidate a line of the data cache, by set and way */

static void start_caches(void)
{
    __asm__ volatile("dsb\n\tisb" ::: "memory");
    *mg_stm32_reg(ICIALLU) = 0u;
    for (uint32_t way = 0; way < CACHE_WAYS; way++) {
        for (uint32_t set = 0; set < CACHE_SETS; set++) {
            *mg_stm32_reg(DCISW) = (way << 30) | (set << 5);
        }
    }
    __asm__ volatile("dsb" ::: "memory");
    mg_stm32_set_bits(CCR, (1u << 17) | (1u << 16)); /* IC, DC */
    __asm__ volatile("dsb\n\tisb" ::: "memory");
}

/* Voltage scale 0 (RM0433 section 6.6.2), wait states, PLL. Returns 1 when the PLL may become the system clock. */
static int32_t prepare_pll(void)
{
    mg_stm32_set_field(PWR_CR3, CR3_SUPPLY_MASK, CR3_LDOEN); /* until then, the voltage cannot be changed */
    if (mg_stm32_wait_for(PWR_CSR1, CSR1_ACTVOSRDY, CSR1_ACTVOSRDY) == 0) {
        return 0;
    }
    if (mg_stm32_set_and_wait(PWR_D3CR, D3CR_VOS_1, D3CR_VOSRDY, D3CR_VOSRDY) == 0) {
        return 0;
    }
    mg_stm32_enable(RCC_APB4ENR, APB4ENR_SYSCFG);
    mg_stm32_set_bits(SYSCFG_PWRCR, PWRCR_ODEN);
    if (mg_stm32_wait_for(PWR_D3CR, D3CR_VOSRDY, D3CR_VOSRDY) == 0) {
        return 0;
    }
    *mg_stm32_reg(RCC_PLLCKSELR) = PLLCKSELR;
    *mg_stm32_reg(RCC_PLLCFGR) = PLLCFGR;
    *mg_stm32_reg(RCC_PLL1DIVR) = PLL1DIVR;
    mg_stm32_set_bits(RCC_CR, CR_PLL1ON);
    mg_stm32_set_field(FLASH_ACR, ACR_MASK, ACR_LATENCY_4);
    if (mg_stm32_wait_for(FLASH_ACR, ACR_MASK, ACR_LATENCY_4) == 0) {
        return 0;
    }
    return mg_stm32_wait_for(RCC_CR, CR_PLL1RDY, CR_PLL1RDY);
}

mg_stm32_clocks_t mg_stm32_start_clock(void)
{
    const mg_stm32_clocks_t slow = {HSI_HZ, HSI_HZ};
    const mg_stm32_clocks_t fast = {PLL_HZ, BUS_HZ};
    start_caches();
    if (prepare_pll() == 0) {
        return slow;
    }
    *mg_stm32_reg(RCC_D1CFGR) = D1CFGR;
    *mg_stm32_reg(RCC_D2CFGR) = D2CFGR;
    *mg_stm32_reg(RCC_D3CFGR) = D3CFGR;
    if (mg_stm32_set_and_wait(RCC_CFGR, CFGR_SW_PLL1, CFGR_SWS_MASK, CFGR_SWS_PLL1) == 1) {
        return fast;
    }
    mg_stm32_set_field(RCC_CFGR, CFGR_SW_MASK, 0u); /* the switch did not happen: HSI, no prescalers */
    *mg_stm32_reg(RCC_D1CFGR) = 0u;
    *mg_stm32_reg(RCC_D2CFGR) = 0u;
    *mg_stm32_reg(RCC_D3CFGR) = 0u;
    return slow;
}
