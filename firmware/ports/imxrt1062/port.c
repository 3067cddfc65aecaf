/* NXP i.MX RT1062 at 600 MHz with its console on LPUART6, as a Teensy 4.1 has it on pins 0 and 1.
 *
 * Every wait for a ready flag is bounded. Where one runs out, the core stays on the 24 MHz crystal: slower, but alive.
 * The console runs from that crystal in any case, so that its baud rate does not depend on the core's clock.
 * Source: i.MX RT1060 Processor Reference Manual (RM); the chapter stands beside each group of registers. */

#include "port.h"

enum {
    /* Clock Controller Module (CCM) */
    CCM_CACRR = 0x400FC010,  /* the core's divider behind its PLL */
    CCM_CBCDR = 0x400FC014,  /* dividers of the buses, the switch between clocks */
    CCM_CBCMR = 0x400FC018,  /* which clocks */
    CCM_CSCDR1 = 0x400FC024, /* the UARTs' clock */
    CCM_CDHIPR = 0x400FC048, /* what is still being switched */
    CCM_CCGR3 = 0x400FC074,  /* clock gates, two bits each */
    CCM_CCGR4 = 0x400FC078,
    CCM_CCGR6 = 0x400FC080,
    CCM_PLL_ARM = 0x400D8000,
    /* DCDC Converter */
    DCDC_REG0 = 0x40080000,
    DCDC_REG3 = 0x4008000C,
    /* IOMUX Controller */
    MUX_AD_B0_02 = 0x401F80C4, /* pin 1: transmit */
    MUX_AD_B0_03 = 0x401F80C8, /* pin 0: receive */
    PAD_AD_B0_03 = 0x401F82B8,
    LPUART6_RX_SELECT = 0x401F8550,
    /* Low Power Universal Asynchronous Receiver/Transmitter */
    LPUART6_BAUD = 0x40198010,
    LPUART6_STAT = 0x40198014,
    LPUART6_CTRL = 0x40198018,
    LPUART6_DATA = 0x4019801C
};

/* The core's own, beyond what an enumeration holds: Armv7-M Architecture Reference Manual, B2.2.7, B3.2 and B3.5. */
#define SCB_CCR 0xE000ED14u
#define MPU_CTRL 0xE000ED94u
#define MPU_RBAR 0xE000ED9Cu
#define MPU_RASR 0xE000EDA0u
#define SCB_ICIALLU 0xE000EF50u
#define SCB_DCISW 0xE000EF60u

/* Bits of those registers. */
enum {
    CACRR_PODF_DIV2 = 1,
    CBCDR_PERIPH_CLK_SEL = 1 << 25, /* set: from PERIPH_CLK2, here the crystal; clear: from the PLL */
    CBCDR_DIVIDERS = (7 << 27) | (7 << 10) | (3 << 8), /* of PERIPH_CLK2, the core and the peripheral bus */
    CBCDR_IPG_DIV4 = 3 << 8,        /* the peripheral bus: at most 150 MHz */
    CBCMR_PRE_PERIPH_MASK = 3 << 18,
    CBCMR_PRE_PERIPH_PLL_ARM = 3 << 18,
    CBCMR_PERIPH_CLK2_MASK = 3 << 12,
    CBCMR_PERIPH_CLK2_CRYSTAL = 1 << 12,
    CDHIPR_ARM_BUSY = 1 << 16,
    CDHIPR_PERIPH_BUSY = 1 << 5,
    CSCDR1_UART_MASK = 0x7F, /* source and divider */
    CSCDR1_UART_CRYSTAL = 1 << 6,
    CCGR3_LPUART6 = 3 << 6,
    CCGR4_IOMUXC = 3 << 2,
    CCGR6_DCDC = 3 << 6,
    PLL_ENABLE = 1 << 13, /* powered, not bypassed */
    DCDC_TARGET_MASK = 31,
    DCDC_TARGET_1250_MV = (1250 - 800) / 25, /* what 600 MHz need */
    MUX_LPUART6 = 2,
    PAD_PULL_UP = (3 << 14) | (1 << 13) | (1 << 12), /* 22 kohm; pull, not keeper; enabled */
    RX_SELECT_AD_B0_03 = 1,
    BAUD_OVERSAMPLING_16 = 15 << 24,
    STAT_OVERRUN = 1 << 19,
    STAT_RECEIVED = 1 << 21,
    STAT_TX_EMPTY = 1 << 23,
    CTRL_TE_RE = (1 << 19) | (1 << 18),
    CCR_CACHES = (1 << 17) | (1 << 16)
};

/* Bit 31 of PLL_ARM and of DCDC_REG0 */
#define PLL_LOCK (1u << 31)
#define DCDC_OK (1u << 31)

/* The PLL: 24 MHz * 100 / 2 = 1200 MHz, / 2 = 600 MHz (54 to 108 are legal). */
enum {
    CRYSTAL_HZ = 24000000,
    PLL_MULTIPLIER = 100,
    PLL_HZ = CRYSTAL_HZ / 2 * PLL_MULTIPLIER / 2
};

typedef char mg_clock_is_what_the_board_states[(PLL_HZ == MG_CLOCK_HZ) ? 1 : -1];

enum {
    UART_DIVISOR = (CRYSTAL_HZ / 16 + MG_UART_BAUD / 2) / MG_UART_BAUD,
    READY_TRIES = 20000,    /* > 3 ms at 24 MHz and 4 cycles each; the PLL locks within 0.1 ms, DCDC within 1 ms */
    TRANSMIT_TRIES = 200000 /* > 1 ms at 600 MHz and 4 cycles each; one byte at 115200 baud takes 0.09 ms */
};

/* 2 %: what a receiver of 8 bits can bear. */
typedef char mg_baud_rate_is_one_that_the_uart_can_make
    [(UART_DIVISOR >= 1 && UART_DIVISOR * MG_UART_BAUD <= CRYSTAL_HZ / 16 / 50 * 51 &&
      UART_DIVISOR * MG_UART_BAUD >= CRYSTAL_HZ / 16 / 50 * 49)
         ? 1
         : -1];

/* The MPU's regions, later ones before earlier ones. A Cortex-M7 may read ahead from any address that is not forbidden,
 * also where no memory answers: everything is, and then what is there is allowed. */
enum {
    RASR_ENABLE = 1 << 0,
    RASR_CACHED = (1 << 19) | (1 << 17) | (1 << 16), /* write-back, allocated on reads and writes */
    RASR_UNCACHED = 1 << 19,
    RASR_DEVICE = 2 << 19,
    RASR_READ_WRITE = 3 << 24,
    RASR_READ_ONLY = 7 << 24,
    RASR_NO_CODE = 1 << 28,
    RBAR_VALID = 1 << 4,
    MPU_ENABLE = 1 << 0
};

/* A region of 2^log2_size bytes. */
#define RASR_SIZE(log2_size) (((log2_size) - 1) << 1 | RASR_ENABLE)

static const uint32_t regions[][2] = {
    {0x00000000u, RASR_SIZE(32) | RASR_NO_CODE},                                   /* nothing, unless below */
    {0x00000000u, RASR_SIZE(17) | RASR_UNCACHED | RASR_READ_WRITE},                /* instruction TCM */
    {0x20000000u, RASR_SIZE(19) | RASR_UNCACHED | RASR_READ_WRITE | RASR_NO_CODE}, /* data TCM */
    {0x20200000u, RASR_SIZE(19) | RASR_CACHED | RASR_READ_WRITE | RASR_NO_CODE},   /* on-chip RAM */
    {0x40000000u, RASR_SIZE(26) | RASR_DEVICE | RASR_READ_WRITE | RASR_NO_CODE},   /* peripherals */
    {0x60000000u, RASR_SIZE(23) | RASR_CACHED | RASR_READ_ONLY},                   /* serial flash */
};

/* Both caches: 32 KiB each; that of data has 256 sets of 4 ways of 32 bytes. */
enum {
    SETS = 256,
    WAYS = 4
};

static uint32_t clock_hz = CRYSTAL_HZ;

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

static void barrier(void)
{
    __asm__ volatile("dsb\n\tisb" ::: "memory");
}

/* What the caches hold after reset is not defined: it is made invalid first. */
static void start_caches(void)
{
    *reg(MPU_CTRL) = 0u;
    for (uint32_t i = 0; i < sizeof regions / sizeof regions[0]; i++) {
        *reg(MPU_RBAR) = regions[i][0] | RBAR_VALID | i;
        *reg(MPU_RASR) = regions[i][1];
    }
    *reg(MPU_CTRL) = MPU_ENABLE;
    barrier();
    if ((*reg(SCB_CCR) & CCR_CACHES) == CCR_CACHES) {
        return; /* on already, and then what they hold may be needed */
    }
    *reg(SCB_ICIALLU) = 0u;
    for (uint32_t set = 0; set < SETS; set++) {
        for (uint32_t way = 0; way < WAYS; way++) {
            *reg(SCB_DCISW) = (way << 30) | (set << 5);
        }
    }
    barrier();
    set_bits(SCB_CCR, CCR_CACHES);
    barrier();
}

/* The crystal drives the core meanwhile. Returns 1 when the PLL may. */
static int32_t prepare_pll(void)
{
    set_field(CCM_CBCMR, CBCMR_PERIPH_CLK2_MASK, CBCMR_PERIPH_CLK2_CRYSTAL);
    set_bits(CCM_CBCDR, CBCDR_PERIPH_CLK_SEL);
    if (wait_for(CCM_CDHIPR, CDHIPR_PERIPH_BUSY, 0u) == 0) {
        return 0;
    }
    set_field(CCM_CBCDR, CBCDR_DIVIDERS, 0u);
    set_bits(CCM_CCGR6, CCGR6_DCDC);
    set_field(DCDC_REG3, DCDC_TARGET_MASK, DCDC_TARGET_1250_MV);
    if (wait_for(DCDC_REG0, DCDC_OK, DCDC_OK) == 0) {
        return 0;
    }
    *reg(CCM_PLL_ARM) = PLL_ENABLE | PLL_MULTIPLIER;
    if (wait_for(CCM_PLL_ARM, PLL_LOCK, PLL_LOCK) == 0) {
        return 0;
    }
    *reg(CCM_CACRR) = CACRR_PODF_DIV2;
    set_field(CCM_CBCMR, CBCMR_PRE_PERIPH_MASK, CBCMR_PRE_PERIPH_PLL_ARM);
    return wait_for(CCM_CDHIPR, CDHIPR_ARM_BUSY, 0u);
}

static void start_clock(void)
{
    if (prepare_pll() == 0) {
        return;
    }
    set_field(CCM_CBCDR, CBCDR_DIVIDERS, CBCDR_IPG_DIV4);
    set_field(CCM_CBCDR, CBCDR_PERIPH_CLK_SEL, 0u);
    if (wait_for(CCM_CDHIPR, CDHIPR_PERIPH_BUSY, 0u) == 1) {
        clock_hz = PLL_HZ;
        return;
    }
    set_bits(CCM_CBCDR, CBCDR_PERIPH_CLK_SEL); /* the switch did not happen: the crystal */
}

/* 8 data bits, no parity, 1 stop bit. */
static void start_console(void)
{
    set_field(CCM_CSCDR1, CSCDR1_UART_MASK, CSCDR1_UART_CRYSTAL);
    set_bits(CCM_CCGR4, CCGR4_IOMUXC);
    set_bits(CCM_CCGR3, CCGR3_LPUART6);
    *reg(MUX_AD_B0_02) = MUX_LPUART6;
    *reg(MUX_AD_B0_03) = MUX_LPUART6;
    *reg(PAD_AD_B0_03) = PAD_PULL_UP;
    *reg(LPUART6_RX_SELECT) = RX_SELECT_AD_B0_03;
    *reg(LPUART6_BAUD) = BAUD_OVERSAMPLING_16 | UART_DIVISOR;
    *reg(LPUART6_CTRL) = CTRL_TE_RE;
}

void mg_port_init(void)
{
    start_caches();
    start_clock();
    start_console();
}

void mg_port_write(const char *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        int32_t tries = TRANSMIT_TRIES;
        while (((*reg(LPUART6_STAT) & STAT_TX_EMPTY) == 0u) && (tries > 0)) {
            tries--;
        }
        *reg(LPUART6_DATA) = (uint8_t)bytes[i];
    }
}

int32_t mg_port_read(void)
{
    uint32_t status = *reg(LPUART6_STAT);
    while ((status & STAT_RECEIVED) == 0u) {
        if ((status & STAT_OVERRUN) != 0u) {
            *reg(LPUART6_STAT) = STAT_OVERRUN; /* cleared by a 1; nothing is received until then */
        }
        status = *reg(LPUART6_STAT);
    }
    return (int32_t)(*reg(LPUART6_DATA) & 0xFFu);
}

uint32_t mg_port_clock_hz(void)
{
    return clock_hz;
}
