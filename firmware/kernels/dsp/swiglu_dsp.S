/* void mg_swiglu_s16_dsp(int16_t *y, const int16_t *gate, const int16_t *up, int32_t n, int32_t gate_frac,
 *                        int32_t shift);
 *
 * gate * 2^(18 - gate_frac), saturated to 22 bits, counts intervals of the sigmoid's table in its upper half and is the
 * way through one in its lower half f. mg_sigmoid_halves_q15 has a word for either half of an interval: its step, and
 * where it begins or, where f is negative as a halfword, ends. Either way, sigmoid = that + (step * f + 2^15) >> 16.
 * The range is cut at 2^21 - 1 instead of one unit of the gate below 2^21: with a last step of 3, that rounds to the
 * same for gate_frac >= 5; 4 goes to the portable kernel.
 *
 * |gate * sigmoid| + 2^14 <= 2^30 + 2^14; |silu * up| + 2^(shift - 1) <= 2^30 + 2^29.
 *
 * r0 y   r1 gate   r2 up   r3 what is left of n   r4 table   r5 2^15   r6 2^14   r7 2^(shift - 1)   r8 shift
 * r9 18 - gate_frac   r10 gate   r11 up   r12 lr scratch */
    .syntax unified
    .thumb
    .section .text.mg_swiglu_s16_dsp, "ax", %progbits
    .balign 4
    .global mg_swiglu_s16_dsp
    .type mg_swiglu_s16_dsp, %function

/* One value: r12 the scaled gate, r10 the gate, \half of r11 up. */
.macro VALUE half
    asr lr, r12, #15
    ldr lr, [r4, lr, lsl #2]
    smlatb r12, lr, r12, r5
    add r12, lr, r12, asr #16   /* the sigmoid in the lower half */
    smlabb r12, r12, r10, r6
    asr r12, r12, #15           /* silu */
    smlab\half r12, r12, r11, r7
    asr r12, r12, r8
    ssat r12, #16, r12
    strh r12, [r0], #2
.endm

mg_swiglu_s16_dsp:
    ldr r12, [sp]
    cmp r12, #5
    bge 0f
    b mg_swiglu_s16
0:  push {r4-r11, lr}
    ldrd r9, r8, [sp, #36]
    rsb r9, r9, #18
    mov r7, #1
    lsl r7, r7, r8
    lsr r7, r7, #1
    mov r6, #1 << 14
    mov r5, #1 << 15
    ldr r4, =mg_sigmoid_halves_q15 + 256
    cmp r9, #7
    bne 4f
    subs r3, r3, #2
    blt 2f
1:  ldr r11, [r2], #4           /* gate_frac = 11 */
    ldrsh r10, [r1], #2
    ssat r12, #22, r10, lsl #7
    VALUE b
    ldrsh r10, [r1], #2
    ssat r12, #22, r10, lsl #7
    VALUE t
    subs r3, r3, #2
    bge 1b
2:  adds r3, r3, #2
    beq 6f
4:  ldrsh r11, [r2], #2         /* any other, one value at a time */
    ldrsh r10, [r1], #2
    lsl r12, r10, r9
    ssat r12, #22, r12
    VALUE b
    subs r3, r3, #1
    bne 4b
6:  pop {r4-r11, pc}
    .ltorg
    .size mg_swiglu_s16_dsp, . - mg_swiglu_s16_dsp
