/* void mg_values_v6m(int16_t *out, const int8_t *values, const int16_t *weights, const int32_t *shape);
 * void mg_values4_v6m(...the same);
 *
 * out [8], or [4] = the sum over slots of weight * value, divided by the sum of the weights, in Q8, for two
 * neighbouring words of four channels, or one. values: the first slot's word; weights [slots] in [0, 2^15); shape:
 * slots >= 1, bytes from slot to slot, total of the weights, reciprocal, bits. The total has 10 to 25 bits, and the
 * reciprocal is 2^31 / its mantissa in [2^15, 2^16), rounded down: out = (sum * reciprocal + 2^(bits + 6)) >> (bits +
 * 7). weights, values, out: 4-byte aligned.
 *
 * A word W = 2^24 v3 + 2^16 (v2 + 128) + 2^8 (v1 + 128) + (v0 + 128). Sums of the weight times W >> 24, W >> 16, W >>
 * 8 and W, modulo 2^32: each less 2^8 times the one before is the sum of weight * (v + 128), or of weight * v for the
 * first, modulo 2^32; less what the offsets add, |acc| <= the sum of the weights * 127 < 2^31.
 *
 * r0 values   r1 weights   r2 a weight   r3 product   r4 a word   r5 bytes from slot to slot
 * r8-r11 the sums of the first word's channels 0-3   r12, lr, r6, r7 of the second's
 * The frame: sp + 0 end of weights, 4 out, 8 reciprocal, 12 bits - 9, 16 and 20 two sums */
    .syntax unified
    .thumb

.macro WORD at, s0, s1, s2, s3
    ldr r4, [r0, #\at]
    asrs r3, r4, #24
    muls r3, r2, r3
    add \s3, r3
    asrs r3, r4, #16
    muls r3, r2, r3
    add \s2, r3
    asrs r3, r4, #8
    muls r3, r2, r3
    add \s1, r3
    muls r4, r2, r4
    add \s0, r4
.endm

/* \sum to the output, with the reciprocal in r5, half of a unit in r6 and the shift in r7; stored at \at. */
.macro OUT sum, at
    uxth r3, \sum
    muls r3, r5, r3
    lsrs r3, r3, #16
    asrs \sum, \sum, #16
    muls \sum, r5, \sum
    adds \sum, \sum, r3
    adds \sum, \sum, r6
    asrs \sum, r7
    strh \sum, [r0, #\at]
.endm

/* Four channels. Changes r1-r4. */
.macro STORE s0, s1, s2, s3, at
    mov r1, \s3
    mov r2, \s2
    lsls r3, r1, #8
    subs r4, r2, r3
    OUT r1, \at + 6
    OUT r4, \at + 4
    mov r1, \s1
    lsls r3, r2, #8
    subs r4, r1, r3
    mov r2, \s0
    lsls r3, r1, #8
    subs r2, r2, r3
    OUT r4, \at + 2
    OUT r2, \at
.endm

/* A whole function for \words words; \code bytes of code for a slot. */
.macro VALUES name, words, code
    .section .text.\name, "ax", %progbits
    .balign 4
    .global \name
    .type \name, %function
\name:
    push {r4-r7, lr}
    mov r4, r8
    mov r5, r9
    mov r6, r10
    mov r7, r11
    push {r4-r7}
    sub sp, #24
    str r0, [sp, #4]
    movs r0, r1
    movs r1, r2
    ldmia r3, {r3-r7}           /* slots, bytes, total, reciprocal, bits */
    str r6, [sp, #8]
    subs r7, #9
    str r7, [sp, #12]
    lsls r5, r5, #7
    negs r5, r5
    lsls r6, r3, #1
    adds r6, r6, r1
    str r6, [sp, #0]
    negs r3, r3                 /* enter the loop of four slots where only slots modulo 4 are left of it */
    lsls r3, r3, #30
    lsrs r3, r3, #30            /* slots to leave out */
    lsls r6, r3, #1
    subs r1, r1, r6
    movs r6, #\code
    muls r3, r6, r3
    adr r6, 2f
    adds r3, r3, r6
    adds r3, #1                 /* Thumb */
    movs r6, #0                 /* what the sums start from */
    mov r11, r6
    mov r10, r5
    lsls r7, r5, #8
    adds r7, r7, r5
    mov r9, r7
    lsls r7, r7, #8
    adds r7, r7, r5
    mov r8, r7
    .if \words == 2
    mov r12, r7
    mov lr, r9
    movs r7, r6
    movs r6, r5
    .endif
    movs r5, r4
    bx r3
    .balign 4
2:
    .irp at, 0, 2, 4, 6
    ldrh r2, [r1, #\at]
    WORD 0, r8, r9, r10, r11
    .if \words == 2
    WORD 4, r12, lr, r6, r7
    .endif
    adds r0, r0, r5
    .endr
    adds r1, #8
    ldr r3, [sp, #0]
    cmp r1, r3
    bne 2b
    .if \words == 2
    str r6, [sp, #16]
    str r7, [sp, #20]
    .endif
    ldr r0, [sp, #4]
    ldr r5, [sp, #8]
    ldr r7, [sp, #12]
    movs r6, #1
    lsls r6, r7
    lsrs r6, r6, #1
    STORE r8, r9, r10, r11, 0
    .if \words == 2
    ldr r3, [sp, #16]
    mov r10, r3
    ldr r3, [sp, #20]
    mov r11, r3
    STORE r12, lr, r10, r11, 8
    .endif
    add sp, #24
    pop {r4-r7}
    mov r8, r4
    mov r9, r5
    mov r10, r6
    mov r11, r7
    pop {r4-r7, pc}
    .size \name, . - \name
.endm

    VALUES mg_values_v6m, 2, 52
    VALUES mg_values4_v6m, 1, 28
