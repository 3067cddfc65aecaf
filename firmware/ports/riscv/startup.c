/* From reset to main on any RV32 core, and where faults end.
 *
 * The linker script provides the addresses, and puts Reset_Handler at the beginning of flash, where the core starts.
 * No interrupt is ever enabled. Sources: RISC-V Instruction Set Manual, volume II, section "Reset" (machine mode,
 * interrupts off, other registers unspecified) and "Machine Trap-Vector Base-Address Register (mtvec)"; RISC-V ABIs
 * Specification, "Integer Calling Convention" (sp aligned to 16 bytes). */

#include "freestanding/memories.h"

#include <stdint.h>

int main(void);

__attribute__((naked, noreturn)) void Reset_Handler(void);
__attribute__((noreturn)) void mg_start(void);
__attribute__((noreturn, noinline)) void mg_halt(void); /* noinline: its address marks the end of the program */
__attribute__((noreturn)) void mg_fault(void);

/* First code after reset: a stack, and a place for exceptions to go. Only assembly may run without a stack. */
__attribute__((naked, section(".vectors"), used)) void Reset_Handler(void)
{
    __asm__ volatile(".option push\n\t"
                     ".option norelax\n\t" /* gp, through which the linker would shorten these, is not used */
                     "la   sp, _estack\n\t"
                     "andi sp, sp, -16\n\t"
                     "la   t0, mg_fault\n\t" /* its low bits are 0: every exception goes to that address */
                     "csrw mtvec, t0\n\t"
                     ".option pop\n\t"
                     "tail mg_start");
}

void mg_start(void)
{
    mg_fill_memories();
    (void)main();
    mg_halt();
}

/* main has returned: stay here, where a debugger or an emulator finds the core. */
void mg_halt(void)
{
    for (;;) {
    }
}

/* An exception: mcause tells which, mepc where, mtval the address it is about. Some cores ignore the low 8
 * bits of mtvec (ESP32-C3). */
__attribute__((aligned(256))) void mg_fault(void)
{
    for (;;) {
    }
}
