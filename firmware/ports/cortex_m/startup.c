/* From reset to main on any Cortex-M, and where faults end.
 *
 * The linker script provides the addresses. Names with a leading underscore are the ones that debuggers and
 * vendors' scripts use. No interrupt is ever enabled, so the table stops after the 16 system vectors.
 * Source: Armv7-M Architecture Reference Manual (DDI 0403), B1.5.2 and B1.5.3. */

#include "freestanding/memories.h"

#include <stdint.h>

/* The board file states it; 1 where the core has a floating-point or a vector unit. */
enum { MG_FPU = MG_HAS_FPU };

/* 1 where the architecture has low-overhead loops: Armv8.1-M, as the compiler says (Arm C Language Extensions). */
#ifdef __ARM_ARCH_8_1M_MAIN__
enum { MG_LOW_OVERHEAD_LOOPS = 1 };
#else
enum { MG_LOW_OVERHEAD_LOOPS = 0 };
#endif

extern uint32_t _estack[];       /* one past the stack's highest word */

int main(void);

__attribute__((noreturn)) void Reset_Handler(void);
__attribute__((noreturn, noinline)) void mg_halt(void); /* noinline: its address marks the end of the program */
void mg_fault_nmi(void);
void mg_fault_hard(void);
void mg_fault_memory(void);
void mg_fault_bus(void);
void mg_fault_usage(void);
void mg_fault_unexpected(void);

typedef void (*mg_handler_t)(void);

/* The vector table: the hardware loads the stack pointer from word 0 and starts at word 1. */
typedef struct {
    uint32_t *initial_stack;
    mg_handler_t handler[15]; /* exception n is handler[n - 1]; 0 = reserved */
} mg_vectors_t;

extern const mg_vectors_t mg_vectors;
__attribute__((section(".vectors"), used)) const mg_vectors_t mg_vectors = {
    _estack,
    {
        Reset_Handler,       /*  1 */
        mg_fault_nmi,        /*  2 */
        mg_fault_hard,       /*  3 */
        mg_fault_memory,     /*  4: MemManage, Armv7-M and later */
        mg_fault_bus,        /*  5: a stack overflow ends here or in 3 */
        mg_fault_usage,      /*  6 */
        0,                   /*  7: SecureFault on Armv8-M */
        0,                   /*  8 */
        0,                   /*  9 */
        0,                   /* 10 */
        mg_fault_unexpected, /* 11: SVCall */
        mg_fault_unexpected, /* 12: DebugMonitor */
        0,                   /* 13 */
        mg_fault_unexpected, /* 14: PendSV */
        mg_fault_unexpected, /* 15: SysTick */
    },
};

/* Give full access to coprocessors 10 and 11, the FPU and the vector unit: CPACR bits 20..23 (DDI 0403, B3.2.20). */
static void enable_fpu(void)
{
    volatile uint32_t *const cpacr = (volatile uint32_t *)0xE000ED88u;
    *cpacr |= 0xFu << 20;
    __asm__ volatile("dsb\n\tisb" ::: "memory"); /* the next instruction may already use it */
}

/* Let the core remember where loops end, so that LE costs nothing: CCR.LOB, bit 19 (DDI 0553, D1.2, CCR). */
static void enable_loop_cache(void)
{
    volatile uint32_t *const ccr = (volatile uint32_t *)0xE000ED14u;
    *ccr |= 1u << 19;
    __asm__ volatile("dsb\n\tisb" ::: "memory");
}

/* First code after reset. The FPU comes first: main may save its registers on entry. */
void Reset_Handler(void)
{
    if (MG_FPU == 1) {
        enable_fpu();
    }
    if (MG_LOW_OVERHEAD_LOOPS == 1) {
        enable_loop_cache();
    }
    mg_fill_memories();
    __asm__ volatile("dsb\n\tisb" ::: "memory"); /* what was copied may be executed */
    (void)main();
    mg_halt();
}

/* main has returned: stay here, where a debugger or an emulator finds the core. */
void mg_halt(void)
{
    for (;;) {
    }
}

/* One endless loop per fault, so that the program counter alone tells which it was. */
void mg_fault_nmi(void)
{
    for (;;) {
    }
}

void mg_fault_hard(void)
{
    for (;;) {
    }
}

void mg_fault_memory(void)
{
    for (;;) {
    }
}

void mg_fault_bus(void)
{
    for (;;) {
    }
}

void mg_fault_usage(void)
{
    for (;;) {
    }
}

void mg_fault_unexpected(void)
{
    for (;;) {
    }
}
