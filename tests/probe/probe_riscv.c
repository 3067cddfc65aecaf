/* Runs on the emulated RISC-V core only: the counterpart of probe_target.c. main answers each line that it reads. */
#include "port.h"
#include "probe.h"

typedef uint32_t (*function_t)(void);

void store_at(volatile uint32_t *address, uint32_t value);
void store_byte_at(volatile uint8_t *address, uint32_t value);
uint32_t load_byte_at(const volatile uint8_t *address);
uint32_t call_at(function_t function);
uint32_t recurse(uint32_t depth);
uint32_t descend(uint32_t depth);
uint32_t add_ten(uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint32_t e, uint32_t f, uint32_t g, uint32_t h,
                 uint32_t i, uint32_t j);
void illegal_instruction(void);
void environment_call(void);
void breakpoint(void);
void doze(void);
int main(void);

const uint32_t constants[4] = {1u, 2u, 3u, 4u};

void store_at(volatile uint32_t *address, uint32_t value)
{
    *address = value;
}

void store_byte_at(volatile uint8_t *address, uint32_t value)
{
    *address = (uint8_t)value;
}

uint32_t load_byte_at(const volatile uint8_t *address)
{
    return *address;
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

/* The last two lie on the stack. */
uint32_t add_ten(uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint32_t e, uint32_t f, uint32_t g, uint32_t h,
                 uint32_t i, uint32_t j)
{
    return a + b + c + d + e + f + g + h + 1000u * i + 1000000u * j;
}

void illegal_instruction(void)
{
    __asm__ volatile(".2byte 0\n\t.2byte 0");
}

void environment_call(void)
{
    __asm__ volatile("ecall");
}

void breakpoint(void)
{
    __asm__ volatile("ebreak");
}

void doze(void)
{
    __asm__ volatile("wfi");
}

/* counted(n), n > 0: 4 + 7 n + 5 instructions, n + 2 loads, 3 stores, 16 bytes of stack; returns 0x12345. Some are 16
 * bits long, some 32.
 * middle(skip): 4 instructions if skip is 0, else 5; its last block is entered at its start and in its middle. */
__asm__(".section .text.counted,\"ax\",@progbits\n"
        ".global counted\n"
        ".type counted, @function\n"
        "counted:\n"
        "    c.addi sp, -16\n"
        "    c.swsp a0, 0(sp)\n"
        "    sw     a1, -0(sp)\n"
        "    lui    a1, 0x12345\n"
        "1:  lw     a2, 0(sp)\n"
        "    c.addi a0, -1\n"
        "    addi   a3, a0, 1000\n"
        "    mul    a3, a3, a0\n"
        "    c.mv   a4, a3\n"
        "    andi   a4, a4, 1\n"
        "    bnez   a0, 1b\n"
        "    srli   a0, a1, 12\n"
        "    c.swsp a0, 0(sp)\n"
        "    c.lwsp a0, 0(sp)\n"
        "    c.addi sp, 16\n"
        "    ret\n"
        ".size counted, . - counted\n"
        ".section .text.middle,\"ax\",@progbits\n"
        ".global middle\n"
        ".type middle, @function\n"
        "middle:\n"
        "    c.beqz a0, 1f\n"
        "    addi   a1, zero, 1\n"
        "1:  c.li   a2, 2\n"
        "    c.addi a0, 3\n"
        "    c.jr   ra\n"
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
        answer(length + counted(3u) - 0x12345u + middle(length) - length - 3u);
    }
    mg_port_write("\x04", 1u);
    return 0;
}
