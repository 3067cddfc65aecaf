/* mg_gemv_s8_dsp for a core that issues two instructions at once (Cortex-M7): contract, stream and arithmetic are those
 * of ../dsp/gemv_s8_dsp.S, whose place it takes.
 *
 * Each multiplication has a load or a SXTB16 in front of it to go with; loads are of pairs, because LDM goes alone, and
 * at least two multiplications ahead of their use. The last eight columns of a turn load nothing for the next one, so
 * that nothing beyond x or w is read.
 *
 * r0 x   r1 w   r2 r3 columns 0-3 of eight, r12 lr columns 4-7   r4-r7 rows 0-3   r8 r9 words of rows 1 and 0
 * r10 r11 words of rows 3 and 2
 * The frame, which one LDM turns into the start of a block:
 *   sp + 0 x, 4 four zeros, 20 where to enter the loop, 24 end of x, 28 acc, 32 end of acc */
    .syntax unified
    .thumb
    .section .text.mg_gemv_s8_dsp, "ax", %progbits
    .balign 8
    .global mg_gemv_s8_dsp
    .type mg_gemv_s8_dsp, %function

/* What EIGHT_COLUMNS expects to be loaded. */
.macro LOAD
    ldrd r2, r3, [r0], #8
    ldrd r8, r9, [r1], #8
    ldrd r10, r11, [r1, #8]
.endm

.macro EIGHT_COLUMNS last
    ldrd r12, lr, [r0], #8
    smlad r5, r8, r2, r5
    sxtb16 r8, r8
    smlad r7, r10, r2, r7
    sxtb16 r10, r10
    smlad r5, r9, r3, r5
    sxtb16 r9, r9
    smlad r7, r11, r3, r7
    sxtb16 r11, r11
    smlad r4, r8, r2, r4
    smlad r6, r10, r2, r6
    smlad r4, r9, r3, r4
    ldrd r8, r9, [r1], #16
    smlad r6, r11, r3, r6
    ldrd r10, r11, [r1], #8
    smlad r5, r8, r12, r5
    sxtb16 r8, r8
    smlad r5, r9, lr, r5
    sxtb16 r9, r9
    smlad r7, r10, r12, r7
    sxtb16 r10, r10
    smlad r7, r11, lr, r7
    sxtb16 r11, r11
    smlad r4, r8, r12, r4
    .if \last
    ldr r2, [sp, #24]
    smlad r4, r9, lr, r4
    smlad r6, r10, r12, r6
    cmp r0, r2
    smlad r6, r11, lr, r6
    .else
    ldrd r2, r3, [r0], #8
    smlad r4, r9, lr, r4
    ldrd r8, r9, [r1], #8
    smlad r6, r10, r12, r6
    smlad r6, r11, lr, r6
    ldrd r10, r11, [r1, #8]
    .endif
.endm

/* Ways into the loop before the last one to seven times eight columns: 16 bytes each. */
1:
    .irp count, 11, 12, 13, 14, 15, 16, 17
    LOAD
    b.w \count\()f
    .endr

mg_gemv_s8_dsp:
    push {r4-r11, lr}
    ldr r11, [sp, #36]
    mov r10, r0
    add r11, r10, r11, lsl #4   /* end of acc */
    add r9, r1, r3, lsl #1      /* end of x */
    mov r0, r1
    mov r1, r2
    ubfx r3, r3, #3, #3         /* of 64 columns, how many times eight the first turn has */
    adr r8, 2f
    cbz r3, 6f
    adr r8, 1b
    sub r3, r3, #1
    add r8, r8, r3, lsl #4
6:  add r8, r8, #1              /* Thumb */
    movs r4, #0
    movs r5, #0
    movs r6, #0
    movs r7, #0
    push {r0, r4-r11}
7:  ldm sp, {r0, r4-r7, pc}
    .balign 8
2:
    LOAD
    EIGHT_COLUMNS 0
    .irp count, 17, 16, 15, 14, 13, 12
\count:
    EIGHT_COLUMNS 0
    .endr
11:
    EIGHT_COLUMNS 1
    bne.w 2b
    ldrd r2, r3, [sp, #28]
    sub r5, r5, r4
    asr r5, r5, #8
    sub r7, r7, r6
    asr r7, r7, #8
    stm r2!, {r4-r7}
    str r2, [sp, #28]
    cmp r2, r3
    bne 7b
    mov r0, r1
    add sp, sp, #36
    pop {r4-r11, pc}
    .size mg_gemv_s8_dsp, . - mg_gemv_s8_dsp
