/* const uint32_t *mg_gemv_s4_dsp(int32_t *acc, const int16_t *x, const uint32_t *w, int32_t cols, int32_t blocks,
 *                                const mg_scale_t *scale);
 *
 * acc [blocks][4] = int4 rows times x [cols], whose codes sum up to scale->sum; cols a multiple of 8, blocks >= 1.
 * Returns the end of the stream w: per block of four rows a word for every two columns, whose halfwords are
 * 4096 * row 3 + 256 * (row 2 + 8) + 16 * (row 1 + 8) + (row 0 + 8) (mcugen/packing/dsp.py).
 *
 * SMLAD of a word adds all four nested sums; BIC takes the top digit away, and the next SMLAD adds what is left: seven
 * instructions for eight products. Differences of neighbours are 4096 * row 3, 256 * row 2, 16 * row 1, row 0, exact
 * modulo 2^32, and exact because the packing proves each of them below 2^31 from the weights. The eights add 8 * sum
 * to a digit: the sums start at -8 * sum * (1, 17, 273, 273).
 *
 * r0 x   r1 w   r2 r3 r12 lr eight columns of x   r4-r7 rows 0-3   r8-r11 words
 * The frame, which one LDM turns into the start of a block:
 *   sp + 0 x, 4 four sums, 20 where to enter the loop, 24 end of x, 28 acc, 32 end of acc */
    .syntax unified
    .thumb
    .section .text.mg_gemv_s4_dsp, "ax", %progbits
    .balign 8
    .global mg_gemv_s4_dsp
    .type mg_gemv_s4_dsp, %function

/* Four rows, two columns of x. */
.macro FOUR_ROWS word, x
    smlad r7, \word, \x, r7
    bic \word, \word, #0xF000F000
    smlad r6, \word, \x, r6
    bic \word, \word, #0x0F000F00
    smlad r5, \word, \x, r5
    bic \word, \word, #0x00F000F0
    smlad r4, \word, \x, r4
.endm

.macro EIGHT_COLUMNS
    ldm r0!, {r2, r3, r12, lr}
    ldm r1!, {r8-r11}
    FOUR_ROWS r8, r2
    FOUR_ROWS r9, r3
    FOUR_ROWS r10, r12
    FOUR_ROWS r11, lr
.endm

mg_gemv_s4_dsp:
    push {r4-r11, lr}
    ldrd r11, r4, [sp, #36]
    ldr r4, [r4, #4]            /* sum */
    mov r10, r0
    add r11, r10, r11, lsl #4   /* end of acc */
    add r9, r1, r3, lsl #1      /* end of x */
    rsb r3, r3, #0              /* where cols is no multiple of 32, enter later: 120 bytes of code for 8 columns */
    ubfx r3, r3, #3, #2
    mov r5, #120
    adr r8, 2f
    mla r8, r3, r5, r8
    add r8, r8, #1              /* Thumb */
    mov r0, r1
    mov r1, r2
    lsl r4, r4, #3
    rsb r4, r4, #0              /* -8 * sum */
    add r5, r4, r4, lsl #4
    add r6, r5, r4, lsl #8
    mov r7, r6
    push {r0, r4-r11}
1:  ldm sp, {r0, r4-r7, pc}
    .balign 4
2:
    EIGHT_COLUMNS
    EIGHT_COLUMNS
    EIGHT_COLUMNS
    EIGHT_COLUMNS
    ldr r2, [sp, #24]
    cmp r0, r2
    bne 2b
    ldrd r2, r3, [sp, #28]
    sub r7, r7, r6
    sub r6, r6, r5
    sub r5, r5, r4
    asr r7, r7, #12
    asr r6, r6, #8
    asr r5, r5, #4
    stm r2!, {r4-r7}
    str r2, [sp, #28]
    cmp r2, r3
    bne 1b
    mov r0, r1
    add sp, sp, #36
    pop {r4-r11, pc}
    .size mg_gemv_s4_dsp, . - mg_gemv_s4_dsp
