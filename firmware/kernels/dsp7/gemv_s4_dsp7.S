/* mg_gemv_s4_dsp for a core that issues two instructions at once (Cortex-M7): contract, stream and arithmetic are those
 * of ../dsp/gemv_s4_dsp.S, whose place it takes.
 *
 * Two words go side by side, so that each multiplication has a load or the other word's BIC in front of it to go with.
 * The last eight columns of a turn load nothing for the next one, so that nothing beyond x or w is read.
 *
 * r0 x   r1 w   r2 r3 columns 0-3 of eight, r12 lr columns 4-7   r4-r7 rows 0-3   r8 r9 words of columns 0-3
 * r10 r11 words of columns 4-7
 * The frame, which one LDM turns into the start of a block:
 *   sp + 0 x, 4 four sums, 20 where to enter the loop, 24 end of x, 28 acc, 32 end of acc */
    .syntax unified
    .thumb
    .section .text.mg_gemv_s4_dsp, "ax", %progbits
    .balign 8
    .global mg_gemv_s4_dsp
    .type mg_gemv_s4_dsp, %function

/* What EIGHT_COLUMNS expects to be loaded. */
.macro LOAD
    ldrd r2, r3, [r0], #8
    ldrd r8, r9, [r1], #8
.endm

/* Four columns; the last multiplication but for its load in front. */
.macro FOUR_COLUMNS w0, w1, x0, x1
    smlad r7, \w0, \x0, r7
    bic \w0, \w0, #0xF000F000
    smlad r7, \w1, \x1, r7
    bic \w1, \w1, #0xF000F000
    smlad r6, \w0, \x0, r6
    bic \w0, \w0, #0x0F000F00
    smlad r6, \w1, \x1, r6
    bic \w1, \w1, #0x0F000F00
    smlad r5, \w0, \x0, r5
    bic \w0, \w0, #0x00F000F0
    smlad r5, \w1, \x1, r5
    bic \w1, \w1, #0x00F000F0
    smlad r4, \w0, \x0, r4
.endm

.macro EIGHT_COLUMNS last
    ldrd r12, lr, [r0], #8
    FOUR_COLUMNS r8, r9, r2, r3
    ldrd r10, r11, [r1], #8
    smlad r4, r9, r3, r4
    .if \last
    ldr r2, [sp, #24]
    FOUR_COLUMNS r10, r11, r12, lr
    cmp r0, r2
    .else
    ldrd r2, r3, [r0], #8
    FOUR_COLUMNS r10, r11, r12, lr
    ldrd r8, r9, [r1], #8
    .endif
    smlad r4, r11, lr, r4
.endm

/* Ways into the loop before the last one, two and three times eight columns: 12 bytes each. */
1:
    LOAD
    b.w 5f
    LOAD
    b.w 4f
    LOAD
    b.w 3f

mg_gemv_s4_dsp:
    push {r4-r11, lr}
    ldrd r11, r4, [sp, #36]
    ldr r4, [r4, #4]            /* sum */
    mov r10, r0
    add r11, r10, r11, lsl #4   /* end of acc */
    add r9, r1, r3, lsl #1      /* end of x */
    mov r0, r1
    mov r1, r2
    ubfx r3, r3, #3, #2         /* of 32 columns, how many times eight the first turn has */
    adr r8, 2f
    cbz r3, 6f
    adr r8, 1b
    sub r3, r3, #1
    add r3, r3, r3, lsl #1
    add r8, r8, r3, lsl #2
6:  add r8, r8, #1              /* Thumb */
    lsl r4, r4, #3
    rsb r4, r4, #0              /* -8 * sum */
    add r5, r4, r4, lsl #4
    add r6, r5, r4, lsl #8
    mov r7, r6
    push {r0, r4-r11}
7:  ldm sp, {r0, r4-r7, pc}
    .balign 8
2:
    LOAD
    EIGHT_COLUMNS 0
3:
    EIGHT_COLUMNS 0
4:
    EIGHT_COLUMNS 0
5:
    EIGHT_COLUMNS 1
    bne 2b
    ldrd r2, r3, [sp, #28]
    sub r7, r7, r6
    asr r7, r7, #12
    sub r6, r6, r5
    asr r6, r6, #8
    sub r5, r5, r4
    asr r5, r5, #4
    stm r2!, {r4-r7}
    str r2, [sp, #28]
    cmp r2, r3
    bne 7b
    mov r0, r1
    add sp, sp, #36
    pop {r4-r11, pc}
    .size mg_gemv_s4_dsp, . - mg_gemv_s4_dsp
