/* uint32_t mg_divide_v6m(uint32_t remainder, uint32_t divisor, int32_t bits);
 *
 * remainder * 2^bits / divisor, rounded down; remainder < divisor < 2^31, 1 <= bits <= 31. Bit by bit, from the top.
 *
 * r0 remainder   r1 divisor   r2 quotient behind a one that leaves the register at the end */
    .syntax unified
    .thumb
    .section .text.mg_divide_v6m, "ax", %progbits
    .balign 4
    .global mg_divide_v6m
    .type mg_divide_v6m, %function

mg_divide_v6m:
    movs r3, #32
    subs r3, r3, r2
    movs r2, #1
    lsls r2, r3
1:  adds r0, r0, r0
    cmp r0, r1
    bcc 2f
    subs r0, r0, r1             /* leaves the carry set */
2:  adcs r2, r2
    bcc 1b
    movs r0, r2
    bx lr
    .size mg_divide_v6m, . - mg_divide_v6m
