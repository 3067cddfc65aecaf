/* Rotary position embedding on neighbouring pairs, each pair a word: SMLSD and SMLADX with the word of cosine and sine.
 * The bounds are those of ../rope.c.
 *
 * r0 y   r1 x   r2 position   r3 how many angles are left   r4 steps   r5 2^14   r6 between the heads   r7 to the last
 * head   r8 sines   r9 the turn: cosine below, sine above   r10 the head   r11 r12 lr scratch */
    .syntax unified
    .thumb

/* out = sin(2 pi phase / 2^32) in Q15, linear between 512 table steps; |step * fraction| < 2^24. phase is lost. */
.macro SINE out, phase
    lsr \out, \phase, #23
    ubfx \phase, \phase, #8, #15
    add \out, r8, \out, lsl #1
    ldrsh r11, [\out, #2]
    ldrsh \out, [\out]
    sub r11, r11, \out
    mla \phase, r11, \phase, r5
    add \out, \out, \phase, asr #15
.endm

.macro TURN
    ldr lr, [r4], #4
    mul lr, lr, r2              /* the phase; whole turns wrap away */
    add r12, lr, #1 << 30
    SINE r9, r12
    SINE r12, lr
    pkhbt r9, r9, r12, lsl #16
    mov r10, r7
.endm

/* void mg_rope_s16_dsp(int16_t *y, const int16_t *x, int32_t position, const mg_rope_t *rope); */
    .section .text.mg_rope_s16_dsp, "ax", %progbits
    .balign 4
    .global mg_rope_s16_dsp
    .type mg_rope_s16_dsp, %function
mg_rope_s16_dsp:
    push {r4-r11, lr}
    ldr r4, [r3]
    ldrd r7, r6, [r3, #8]       /* heads, head_dim */
    lsr r3, r6, #1
    lsl r6, r6, #1              /* bytes of a head */
    sub r7, r7, #1
    mul r7, r7, r6
    mov r5, #1 << 14
    ldr r8, =mg_sine_q15
1:  TURN
2:  ldr r11, [r1, r10]
    smlsd r12, r11, r9, r5
    smladx r11, r11, r9, r5
    ssat r12, #16, r12, asr #15
    ssat r11, #16, r11, asr #15
    pkhbt r12, r12, r11, lsl #16
    str r12, [r0, r10]
    subs r10, r10, r6
    bpl 2b
    add r0, r0, #4
    add r1, r1, #4
    subs r3, r3, #1
    bne 1b
    pop {r4-r11, pc}
    .ltorg
    .size mg_rope_s16_dsp, . - mg_rope_s16_dsp

/* void mg_rope_s8_dsp(int8_t *ring, int32_t slot, const int16_t *x, int32_t position, const mg_rope_t *rope);
 *
 * On the stack: zero points, shift, 0x01010101. ADC adds the last bit that ASRS shifts out: half up. */
    .section .text.mg_rope_s8_dsp, "ax", %progbits
    .balign 4
    .global mg_rope_s8_dsp
    .type mg_rope_s8_dsp, %function
mg_rope_s8_dsp:
    push {r4-r11, lr}
    ldr r8, [sp, #36]
    ldm r8, {r4, r9, r10, r11, r12} /* step, zero, heads, head_dim, shift */
    mul lr, r10, r11
    mla r0, r1, lr, r0          /* the slot */
    mov r1, r2
    mov r2, r3
    lsr r3, r11, #1
    mov r6, r11                 /* bytes of a head of the ring */
    sub r7, lr, r11
    add r10, r12, #15
    mov r11, #0x01010101
    push {r9-r11}
    mov r5, #1 << 14
    ldr r8, =mg_sine_q15
1:  TURN
2:  ldr r11, [r1, r10, lsl #1]
    ldr r12, [sp]
    add r12, r12, r10, lsl #2
    ldrd r12, lr, [r12]
    smlsd r12, r11, r9, r12
    smladx lr, r11, r9, lr
    ldr r11, [sp, #4]
    asrs r12, r12, r11
    adc r12, r12, #0
    asrs lr, lr, r11
    adc lr, lr, #0
    ldr r11, [sp, #8]
    ssat r12, #8, r12
    ssat lr, #8, lr
    bfi r12, lr, #8, #8
    qsub8 r12, r12, r11         /* makes -127 of -128, which stays what it is here, one below -127 */
    uadd8 r12, r12, r11
    strh r12, [r0, r10]
    subs r10, r10, r6
    bpl 2b
    add r0, r0, #2
    add r1, r1, #4
    ldr r11, [sp]
    add r11, r11, #8
    str r11, [sp]
    subs r3, r3, #1
    bne 1b
    add sp, sp, #12
    pop {r4-r11, pc}
    .ltorg
    .size mg_rope_s8_dsp, . - mg_rope_s8_dsp
