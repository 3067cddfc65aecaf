/* void mg_squares_v6m(uint32_t *total, const int16_t *x, int32_t n);
 *
 * total [2] += the sum of squares of x [n], as 64 bits, the low word first; n >= 1, x 4-byte aligned. Two squares are
 * at most 2^31 together.
 *
 * r0 total   r1 x   r2 end of the pairs   r3, r4 two of x   r5, r6 the sum   r7 zero */
    .syntax unified
    .thumb
    .section .text.mg_squares_v6m, "ax", %progbits
    .balign 4
    .global mg_squares_v6m
    .type mg_squares_v6m, %function

mg_squares_v6m:
    push {r4-r7, lr}
    mov r12, r2
    lsrs r2, r2, #1
    lsls r2, r2, #2
    adds r2, r2, r1
    ldr r5, [r0, #0]
    ldr r6, [r0, #4]
    movs r7, #0
    b 2f
1:  ldmia r1!, {r3}
    sxth r4, r3
    asrs r3, r3, #16
    muls r4, r4, r4
    muls r3, r3, r3
    adds r4, r4, r3
    adds r5, r5, r4
    adcs r6, r7
2:  cmp r1, r2
    bne 1b
    mov r2, r12                 /* the last of an odd number */
    lsrs r2, r2, #1
    bcc 3f
    movs r2, #0
    ldrsh r3, [r1, r2]
    muls r3, r3, r3
    adds r5, r5, r3
    adcs r6, r7
3:  str r5, [r0, #0]
    str r6, [r0, #4]
    pop {r4-r7, pc}
    .size mg_squares_v6m, . - mg_squares_v6m

/* void mg_normalise_v6m(int16_t *y, const int16_t *x, const int16_t *gain, int32_t n, int32_t reciprocal,
 *                       int32_t shift);
 *
 * y [n] = (x * gain * reciprocal + 2^(shift - 1)) >> shift, saturated; reciprocal <= 2^16, 17 <= shift <= 46.
 *
 * With x * gain = h * 2^16 + l: H = h * reciprocal + (l * reciprocal >> 16), |H| <= 2^30, is the product without its
 * lowest 16 bits, which do not count, because 2^(shift - 1) is a multiple of 2^16. H + 2^(shift - 17) < 2^31.
 *
 * r0 y   r1 x   r2 gain   r3 shift - 16   r4 at, in bytes   r5, r6 pieces   r7 reciprocal
 * r8 2^(shift - 17)   r9 end of at */
    .section .text.mg_normalise_v6m, "ax", %progbits
    .balign 4
    .global mg_normalise_v6m
    .type mg_normalise_v6m, %function

mg_normalise_v6m:
    push {r4-r7, lr}
    mov r4, r8
    mov r5, r9
    push {r4, r5}
    lsls r3, r3, #1
    mov r9, r3
    ldr r7, [sp, #28]
    ldr r3, [sp, #32]
    subs r3, #17
    movs r5, #1
    lsls r5, r3
    mov r8, r5
    adds r3, #1
    movs r4, #0
1:  ldrsh r5, [r1, r4]
    ldrsh r6, [r2, r4]
    muls r5, r6, r5
    asrs r6, r5, #16
    muls r6, r7, r6
    uxth r5, r5
    muls r5, r7, r5
    lsrs r5, r5, #16
    adds r5, r5, r6
    add r5, r8
    asrs r5, r3
    sxth r6, r5
    cmp r6, r5
    bne 3f
2:  strh r5, [r0, r4]
    adds r4, #2
    cmp r4, r9
    bne 1b
    pop {r4, r5}
    mov r8, r4
    mov r9, r5
    pop {r4-r7, pc}
3:  asrs r5, r5, #31
    ldr r6, =0x7FFF
    eors r5, r5, r6
    b 2b
    .size mg_normalise_v6m, . - mg_normalise_v6m
