/* The two loops of mg_rmsnorm_s16_dsp. Arrays are aligned to words and of any length. */
    .syntax unified
    .thumb

/* uint64_t mg_squares_dsp(const int16_t *x, int32_t n);
 *
 * r0 x, then r0 r1 the sum   r2 what is left of n   r4-r7 words of x   r12 x */
    .section .text.mg_squares_dsp, "ax", %progbits
    .balign 4
    .global mg_squares_dsp
    .type mg_squares_dsp, %function
mg_squares_dsp:
    push {r4-r7}
    mov r12, r0
    mov r2, r1
    mov r0, #0
    mov r1, #0
    subs r2, r2, #8
    blt 2f
1:  ldm r12!, {r4-r7}
    smlald r0, r1, r4, r4
    smlald r0, r1, r5, r5
    smlald r0, r1, r6, r6
    smlald r0, r1, r7, r7
    subs r2, r2, #8
    bge 1b
2:  adds r2, r2, #8
    beq 4f
3:  ldrsh r4, [r12], #2
    smlalbb r0, r1, r4, r4
    subs r2, r2, #1
    bne 3b
4:  pop {r4-r7}
    bx lr
    .size mg_squares_dsp, . - mg_squares_dsp

/* void mg_normalise_32_dsp(int16_t *y, const int16_t *x, const int16_t *gain, int32_t n, int32_t factor);
 * void mg_normalise_46_dsp(...the same);
 *
 * y = x * gain * factor / 2^32, or / 2^46, half up, saturated; 0 <= factor <= 2^30, so that the upper word of a product
 * is at most 2^28. The half of the latter, 2^45, may be added after the lower 32 bits were dropped: there it is 2^13.
 *
 * r0 y   r1 x   r2 gain   r3 scratch   r4 factor   r5 2^13   r6-r9 words of x   r10-r12 lr words of gain
 * The frame: sp + 0 end of y, 4 end of its whole eights */

.macro SCALE_32 value
    smmulr \value, \value, r4
    ssat \value, #16, \value
.endm

.macro SCALE_46 value
    smmla \value, \value, r4, r5
    ssat \value, #16, \value, asr #14
.endm

.macro TWO x, gain, scale
    smultt r3, \x, \gain
    smulbb \gain, \x, \gain
    \scale r3
    \scale \gain
    pkhbt \x, \gain, r3, lsl #16
.endm

.macro NORMALISE name, scale
    .section .text.\name, "ax", %progbits
    .balign 4
    .global \name
    .type \name, %function
\name:
    push {r4-r11, lr}
    ldr r4, [sp, #36]
    mov r5, #1 << 13
    add r6, r0, r3, lsl #1
    bic r7, r3, #7
    add r7, r0, r7, lsl #1
    push {r6, r7}
    cmp r0, r7
    beq 2f
1:  ldm r1!, {r6-r9}
    ldm r2!, {r10-r12, lr}
    TWO r6, r10, \scale
    TWO r7, r11, \scale
    TWO r8, r12, \scale
    TWO r9, lr, \scale
    ldr r3, [sp, #4]
    stm r0!, {r6-r9}
    cmp r0, r3
    bne 1b
2:  ldr r7, [sp]
    cmp r0, r7
    beq 4f
3:  ldrsh r6, [r1], #2
    ldrsh r10, [r2], #2
    smulbb r6, r6, r10
    \scale r6
    strh r6, [r0], #2
    cmp r0, r7
    bne 3b
4:  add sp, sp, #8
    pop {r4-r11, pc}
    .size \name, . - \name
.endm

    NORMALISE mg_normalise_32_dsp, SCALE_32
    NORMALISE mg_normalise_46_dsp, SCALE_46
