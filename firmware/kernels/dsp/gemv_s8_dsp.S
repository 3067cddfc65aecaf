/* const uint32_t *mg_gemv_s8_dsp(int32_t *acc, const int16_t *x, const uint32_t *w, int32_t cols, int32_t blocks,
 *                                const mg_scale_t *scale);
 *
 * acc [blocks][4] = int8 rows times x [cols]; cols a multiple of 8, blocks >= 1; scale is not read. Returns the end of
 * the stream w:
 * per block of four rows and eight columns, four words of rows 1 and 0, then four of rows 3 and 2, each word two
 * columns: halfword = 256 * upper row + lower row (mcugen/packing/dsp.py).
 *
 * One SMLAD of a word as it is adds 256 * upper + lower; SXTB16 leaves the lower row's codes, of which another SMLAD
 * takes the sum: three instructions for four products. All sums wrap modulo 2^32; the difference of the two is
 * 256 * upper exactly because the packing proves |upper| * 256 < 2^31 from the weights.
 *
 * r0 x   r1 w   r2 r3 r12 lr eight columns of x   r4-r7 rows 0-3   r8-r11 words
 * The frame, which one LDM turns into the start of a block:
 *   sp + 0 x, 4 four zeros, 20 where to enter the loop, 24 end of x, 28 acc, 32 end of acc */
    .syntax unified
    .thumb
    .text
    .section .text.mg_gemv_s8_dsp, "ax", %progbits
    .balign 8
    .global mg_gemv_s8_dsp
    .type mg_gemv_s8_dsp, %function

/* Rows upper and lower, two columns of x. */
.macro TWO_ROWS upper, lower, word, x
    smlad \upper, \word, \x, \upper
    sxtb16 \word, \word
    smlad \lower, \word, \x, \lower
.endm

.macro EIGHT_COLUMNS
    ldm r0!, {r2, r3, r12, lr}
    ldm r1!, {r8-r11}
    TWO_ROWS r5, r4, r8, r2
    TWO_ROWS r5, r4, r9, r3
    TWO_ROWS r5, r4, r10, r12
    TWO_ROWS r5, r4, r11, lr
    ldm r1!, {r8-r11}
    TWO_ROWS r7, r6, r8, r2
    TWO_ROWS r7, r6, r9, r3
    TWO_ROWS r7, r6, r10, r12
    TWO_ROWS r7, r6, r11, lr
.endm

mg_gemv_s8_dsp:
    push {r4-r11, lr}
    ldr r11, [sp, #36]
    mov r10, r0
    add r11, r10, r11, lsl #4   /* end of acc */
    add r9, r1, r3, lsl #1      /* end of x */
    rsb r3, r3, #0              /* where cols is no multiple of 32, enter later: 108 bytes of code for 8 columns */
    ubfx r3, r3, #3, #2
    mov r4, #108
    adr r8, 2f
    mla r8, r3, r4, r8
    add r8, r8, #1              /* Thumb */
    mov r0, r1
    mov r1, r2
    movs r4, #0
    movs r5, #0
    movs r6, #0
    movs r7, #0
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
    sub r5, r5, r4
    sub r7, r7, r6
    asr r5, r5, #8
    asr r7, r7, #8
    stm r2!, {r4-r7}
    str r2, [sp, #28]
    cmp r2, r3
    bne 1b
    mov r0, r1
    add sp, sp, #36
    pop {r4-r11, pc}
    .size mg_gemv_s8_dsp, . - mg_gemv_s8_dsp
