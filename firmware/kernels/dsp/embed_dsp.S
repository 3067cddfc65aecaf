/* void mg_embed_row_dsp(int16_t *y, const uint32_t *words, int32_t cols, int32_t upper, int32_t multiplier,
 *                       int32_t shift);
 *
 * Halfwords are 256 * upper + lower: SXTB16 leaves the lower row, and what that takes away is 256 * the upper one,
 * whose shift is 8 more. 256 * 127 * 32767 + 2^30 < 2^31.
 *
 * r0 y   r1 words   r2 cols that are left   r3 upper   r4 multiplier   r5 shift   r6 half   r7 word   r12 lr scratch
 * r8 words until the others' */
    .syntax unified
    .thumb
    .section .text.mg_embed_row_dsp, "ax", %progbits
    .balign 4
    .global mg_embed_row_dsp
    .type mg_embed_row_dsp, %function
mg_embed_row_dsp:
    push {r4-r8, lr}
    ldrd r4, r5, [sp, #24]
    add r5, r5, r3, lsl #3
    mov r6, #1
    lsl r6, r6, r5
    lsr r6, r6, #1
1:  mov r8, #4
2:  ldr r7, [r1], #4
    sxtb16 r12, r7
    cmp r3, #0
    ite eq
    moveq r7, r12
    ssub16ne r7, r7, r12
    smlabb r12, r7, r4, r6
    smlatb lr, r7, r4, r6
    asr r12, r12, r5
    asr lr, lr, r5
    ssat r12, #16, r12
    ssat lr, #16, lr
    subs r2, r2, #2
    blt 3f
    pkhbt r12, r12, lr, lsl #16
    str r12, [r0], #4
    beq 4f
    subs r8, r8, #1
    bne 2b
    add r1, r1, #16
    b 1b
3:  strh r12, [r0]              /* an odd number of columns */
4:  pop {r4-r8, pc}
    .size mg_embed_row_dsp, . - mg_embed_row_dsp
