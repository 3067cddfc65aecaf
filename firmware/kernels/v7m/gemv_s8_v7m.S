/* const uint32_t *mg_gemv_s8_v7m(int32_t *acc, const int8_t *x, const uint32_t *w, int32_t cols, int32_t blocks,
 *                                int32_t offset);
 *
 * acc [blocks][8] = int8 rows times x [cols]; cols a multiple of 8, blocks >= 1; offset = -128 * the sum of x.
 * Returns the end of the stream w: per block and column one word of rows 0-3 and one of rows 4-7, bytes w + 128
 * (mcugen/packing/row_digits.py, which proves that the sums of four rows S0..S3 follow from three, all modulo 2^32):
 *   P = S0 + 2^8 S1 + 2^16 S2 + 2^24 S3    R = S1 + 2^8 S0 + 2^16 S3 + 2^24 S2    E = S3 + 2^8 S2
 *
 * Why these: per four products, three MLA and two rearrangements, 5 instructions and about 8 cycles (an MLA takes 2);
 * with loads 1.44 instructions and 2.5 cycles per product. One shift per row and four MLA: 7 and 11. Two rows in the
 * halves of a word (MUL, or two MLA with a correction): 8 and 8, or 6 and 8 with more loads. UMLAL with lanes of 24
 * bits: 3 instructions, 1.05 per product with loads, but its 4 to 7 cycles make 2.9 to 4.4 per product.
 *
 * r0 x   r1 w   lr a code   r3 end of x   r4-r7 words of two columns
 * r8 P   r9 R   r10 E of rows 0-3   r11 P   r12 R   r2 E of rows 4-7
 * The frame, which one LDM turns into the start of a block: sp + 0 x, 4 offset in E, 8 in P, 12 in R, 16 in E, 20 in
 * P, 24 in R, 28 where to enter the loop, 32 acc, 36 end of acc */
    .syntax unified
    .thumb
    .section .text.mg_gemv_s8_v7m, "ax", %progbits
    .balign 4
    .global mg_gemv_s8_v7m
    .type mg_gemv_s8_v7m, %function

.macro FOUR_ROWS word, p, r, e
    mla \p, \word, lr, \p
    rev16 \word, \word
    mla \r, \word, lr, \r
    lsrs \word, \word, #16
    mla \e, \word, lr, \e
.endm

.macro TWO_COLUMNS at
    ldm r1!, {r4-r7}
    ldrsb lr, [r0, #\at]
    FOUR_ROWS r4, r8, r9, r10
    FOUR_ROWS r5, r11, r12, r2
    ldrsb lr, [r0, #\at + 1]
    FOUR_ROWS r6, r8, r9, r10
    FOUR_ROWS r7, r11, r12, r2
.endm

/* r4-r7 = S0..S3, stored from r0 up. */
.macro SOLVE p, r, e
    sub r5, \r, \e, lsl #16     /* D = S1 + 2^8 S0, as a number */
    sub r6, \p, r5, lsl #8      /* S0 modulo 2^16 */
    rsb r4, r6, r5, asr #8
    sxth r4, r4                 /* S1 >> 8 */
    rsb r4, r4, r5, asr #8      /* S0 */
    sub r5, r5, r4, lsl #8      /* S1 */
    sub r6, r6, r4
    add r6, r4, r6, asr #16     /* S2 + 2^8 S3 modulo 2^16 */
    rsb r6, r6, \e, asr #8
    add r6, r6, \e, lsl #8
    sxth r6, r6                 /* S3 >> 8 */
    rsb r6, r6, \e, asr #8      /* S2 */
    sub r7, \e, r6, lsl #8      /* S3 */
    stm r0!, {r4-r7}
.endm

mg_gemv_s8_v7m:
    push {r4-r11, lr}
    ldrd r6, r7, [sp, #36]
    add r12, r0, r6, lsl #5     /* end of acc */
    mov r11, r0
    add r4, r7, r7, lsl #8      /* offset in E: 0x0101 */
    add r5, r4, r4, lsl #16     /* in P and R: 0x01010101 */
    mov r6, r5
    mov r7, r4
    mov r8, r5
    mov r9, r5
    rsb r0, r3, #0
    ubfx r0, r0, #3, #2         /* eights of the loop of 32 columns to leave out: 8 bytes of x and 296 of code each */
    add r3, r1, r3
    sub lr, r1, r0, lsl #3
    mov r1, r2
    movw r2, #296
    adr r10, 2f
    mla r10, r0, r2, r10
    add r10, r10, #1            /* Thumb */
    mov r2, lr
    push {r2, r4-r12}
1:  ldm sp, {r0, r2, r8-r12, pc}
    .balign 4
2:
    .irp at, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
    TWO_COLUMNS \at
    .endr
    adds r0, r0, #32
    cmp r0, r3
    bne 2b
    ldr r0, [sp, #32]
    SOLVE r8, r9, r10
    SOLVE r11, r12, r2
    ldr r2, [sp, #36]
    str r0, [sp, #32]
    cmp r0, r2
    bne 1b
    mov r0, r1
    add sp, sp, #40
    pop {r4-r11, pc}
    .size mg_gemv_s8_v7m, . - mg_gemv_s8_v7m
