/* void mg_average_8_rv32(int32_t *sums, const int16_t *weights, const int8_t *values, int32_t length, int32_t stride)
 *
 * sums [2][8] = the weights [length][2] of two heads times 8 dimensions of values [length][stride]. length >= 1.
 * Bound: the caller's; weights are not negative, and 127 times a head's sum of weights is below 2^31.
 *
 * Registers: s0-s7 first head's sums, s8-s11 t3-t6 second head's, a1 weights, a2 values, a3 end of weights, a4 stride,
 * a5 a6 weights, a7 value, ra product. */

    .macro saved operation
    \operation  ra, 12(sp)
    \operation  s0, 16(sp)
    \operation  s1, 20(sp)
    \operation  s2, 24(sp)
    \operation  s3, 28(sp)
    \operation  s4, 32(sp)
    \operation  s5, 36(sp)
    \operation  s6, 40(sp)
    \operation  s7, 44(sp)
    \operation  s8, 48(sp)
    \operation  s9, 52(sp)
    \operation  s10, 56(sp)
    \operation  s11, 60(sp)
    .endm

    .macro for_all operation
    \operation 0, s0, s8
    \operation 1, s1, s9
    \operation 2, s2, s10
    \operation 3, s3, s11
    \operation 4, s4, t3
    \operation 5, s5, t4
    \operation 6, s6, t5
    \operation 7, s7, t6
    .endm

    .macro clear at, first, second
    li    \first, 0
    li    \second, 0
    .endm

    .macro dimension at, first, second
    lb    a7, \at(a2)
    mul   ra, a7, a5
    mul   a7, a7, a6
    add   \first, \first, ra
    add   \second, \second, a7
    .endm

    .macro store at, first, second
    sw    \first, 4 * \at(a0)
    sw    \second, 4 * \at + 32(a0)
    .endm

    .section .text.mg_average_8_rv32,"ax",@progbits
    .globl  mg_average_8_rv32
    .type   mg_average_8_rv32, @function
    .p2align 2
mg_average_8_rv32:
    addi  sp, sp, -64
    saved sw
    slli  a3, a3, 2
    add   a3, a3, a1
    for_all clear
.Lslot:                             /* 45 instructions for 16 multiply-accumulates */
    lh    a5, 0(a1)
    lh    a6, 2(a1)
    addi  a1, a1, 4
    for_all dimension
    add   a2, a2, a4
    bne   a1, a3, .Lslot
    for_all store
    saved lw
    addi  sp, sp, 64
    ret
    .size   mg_average_8_rv32, . - mg_average_8_rv32
