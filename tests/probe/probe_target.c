/* Runs on the emulated Cortex-M only: faults that a PC does not have, and code whose instructions are counted by
 * hand. main answers each line that it reads. */
#include "port.h"
#include "probe.h"

typedef uint32_t (*function_t)(void);

void store_at(volatile uint32_t *address, uint32_t value);
uint32_t call_at(function_t function);
uint32_t recurse(uint32_t depth);
uint32_t descend(uint32_t depth);
void undefined_instruction(void);
void supervisor_call(void);
void breakpoint(void);
void doze(void);
int main(void);

const uint32_t constants[4] = {1u, 2u, 3u, 4u};

void store_at(volatile uint32_t *address, uint32_t value)
{
    *address = value;
}

uint32_t call_at(function_t function)
{
    return function() + 1u; /* not a tail call */
}

uint32_t recurse(uint32_t depth)
{
    volatile uint32_t frame[8];
    frame[depth % 8u] = depth;
    if (depth == 0u) {
        return constants[0];
    }
    return descend(depth - 1u) + frame[depth % 8u];
}

__attribute__((noinline)) uint32_t descend(uint32_t depth)
{
    return recurse(depth) + 1u;
}

void undefined_instruction(void)
{
    __asm__ volatile("udf #0");
}

void supervisor_call(void)
{
    __asm__ volatile("svc #0");
}

void breakpoint(void)
{
    __asm__ volatile("bkpt #0");
}

void doze(void)
{
    __asm__ volatile("wfi");
}

/* counted(n), n > 0: 3 + 9 n + 4 instructions, n + 2 loads, 3 stores, 8 bytes of stack; returns 0x1235.
 * middle(skip): 5 instructions if skip is 0, else 6; its last block is entered at its start and in its middle.
 * Armv6-M has no IT block and only few instructions of 32 bits: it counts the same with others. */
__asm__(".syntax unified\n"
        ".thumb\n"
        ".section .text.counted,\"ax\",%progbits\n"
        ".global counted\n"
        ".type counted, %function\n"
        ".thumb_func\n"
        "counted:\n"
#if defined(__ARM_ARCH_6M__)
        "    push  {r2, r3}\n"
        "    movs  r1, #0\n"
        "    isb\n" /* 32 bits long */
        "1:  ldr   r3, [sp]\n"
        "    adds  r1, r1, #1\n"
        "    movs  r2, #0x91\n"
        "    lsls  r2, r2, #5\n"
        "    adds  r2, r2, #0x15\n"
        "    dmb\n" /* 32 bits long */
        "    nop\n"
        "    cmp   r1, r0\n"
        "    bne   1b\n"
        "    str   r2, [sp]\n"
        "    pop   {r1, r3}\n"
        "    mov   r0, r2\n"
        "    bx    lr\n"
#else
        "    push  {r2, r3}\n"
        "    movs  r1, #0\n"
        "    movw  r2, #0x1234\n" /* 32 bits long */
        "1:  ldr   r3, [sp]\n"
        "    adds  r1, r1, #1\n"
        "    cmp   r1, r0\n"
        "    itte  eq\n"
        "    addeq r2, r2, #1\n"
        "    moveq r3, #7\n"
        "    movne r3, #8\n"
        "    cmp   r1, r0\n"
        "    bne   1b\n"
        "    str.w r2, [sp]\n" /* 32 bits long */
        "    pop   {r1, r3}\n"
        "    mov.w r0, r2\n"  /* 32 bits long */
        "    bx    lr\n"
#endif
        ".size counted, . - counted\n"
        ".section .text.middle,\"ax\",%progbits\n"
        ".global middle\n"
        ".type middle, %function\n"
        ".thumb_func\n"
        "middle:\n"
        "    cmp   r0, #0\n"
        "    beq   1f\n"
        "    movs  r1, #1\n"
        "1:  movs  r2, #2\n"
        "    adds  r0, r0, #3\n"
        "    bx    lr\n"
        ".size middle, . - middle\n"
        ".text\n");

static void answer(uint32_t length)
{
    const char digits[3] = {(char)('0' + (int32_t)(length / 10u % 10u)), (char)('0' + (int32_t)(length % 10u)), '\n'};
    mg_port_write(digits, sizeof digits);
}

/* Print how long each line is, up to an empty one; then EOT. */
int main(void)
{
    uint32_t length = 1u;
    mg_port_init();
    while (length > 0u) {
        mg_port_write("> ", 2u);
        length = 0u;
        while (mg_port_read() != '\n') {
            length++;
        }
        answer(length + counted(3u) - 0x1235u + middle(length) - length - 3u);
    }
    mg_port_write("\x04", 1u);
    return 0;
}
