/* const uint32_t *mg_gemv_s8_v6m(int32_t *acc, const uint8_t *x, const uint32_t *w, int32_t cols, int32_t blocks,
 *                                int32_t offset);
 *
 * acc [blocks][8] = int8 rows times x [cols], whose codes come as x + 128; cols a multiple of 8, blocks >= 1; offset
 * = -128 * the sum of the codes. Returns the end of the stream w: per block six words that the sums start from, then
 * per column one word of rows 0-3 and one of rows 4-7, bytes w + 128 (mcugen/packing/row_digits.py, which proves
 * that the sums of four rows S0..S3 follow from three, all modulo 2^32):
 *   P = S0 + 2^8 S1 + 2^16 S2 + 2^24 S3    A = S2 + 2^8 S3    R = S1 + 2^8 S0 + 2^16 S3 + 2^24 S2
 * Eight instructions for four products; the four sums that one shift per row would take cost eleven.
 *
 * r0 x   r1 w   r2 a code   r3 product   r4-r7 words of two columns
 * r8 P   r9 A   r10 R of rows 0-3   r11 P   r12 A   lr R of rows 4-7
 * The frame: sp + 0 x, 4 where to enter the loop, 8 end of x, 12 offset in P and R, 16 in A, 20 acc, 24 end of acc */
    .syntax unified
    .thumb
    .section .text.mg_gemv_s8_v6m, "ax", %progbits
    .balign 4
    .global mg_gemv_s8_v6m
    .type mg_gemv_s8_v6m, %function

.macro FOUR_ROWS word, p, a, r
    lsrs r3, \word, #16
    muls r3, r2, r3
    add \a, r3
    rev16 r3, \word
    muls r3, r2, r3
    add \r, r3
    muls \word, r2, \word
    add \p, \word
.endm

.macro TWO_COLUMNS at
    ldmia r1!, {r4-r7}
    ldrb r2, [r0, #\at]
    FOUR_ROWS r4, r8, r9, r10
    FOUR_ROWS r5, r11, r12, lr
    ldrb r2, [r0, #\at + 1]
    FOUR_ROWS r6, r8, r9, r10
    FOUR_ROWS r7, r11, r12, lr
.endm

/* r2 = S0, r3 = S1, r4 = S2, r5 = S3, stored from r0 up; r6, r7 change. */
.macro SOLVE p, a, r
    mov r2, \p
    mov r4, \a
    mov r6, \r
    lsls r7, r4, #16
    subs r2, r2, r7             /* C = S0 + 2^8 S1, as a number */
    lsls r7, r2, #8
    subs r6, r6, r7             /* S1 modulo 2^16 */
    asrs r3, r2, #8
    subs r7, r3, r6
    sxth r7, r7                 /* S0 >> 8 */
    subs r3, r3, r7             /* S1 */
    lsls r7, r3, #8
    subs r2, r2, r7             /* S0 */
    subs r6, r6, r3
    asrs r6, r6, #16
    adds r6, r6, r3             /* S3 + 2^8 S2 modulo 2^16 */
    asrs r5, r4, #8
    lsls r7, r4, #8
    adds r7, r7, r5
    subs r7, r7, r6
    sxth r7, r7                 /* S2 >> 8 */
    subs r5, r5, r7             /* S3 */
    lsls r7, r5, #8
    subs r4, r4, r7             /* S2 */
    stmia r0!, {r2-r5}
.endm

mg_gemv_s8_v6m:
    push {r4-r7, lr}
    mov r4, r8
    mov r5, r9
    mov r6, r10
    mov r7, r11
    push {r4-r7}
    sub sp, #28
    str r0, [sp, #20]
    ldr r4, [sp, #64]
    lsls r4, r4, #5
    adds r4, r4, r0
    str r4, [sp, #24]
    ldr r4, [sp, #68]
    lsls r5, r4, #8
    adds r5, r5, r4
    str r5, [sp, #16]
    lsls r4, r5, #16
    adds r4, r4, r5
    str r4, [sp, #12]
    adds r4, r1, r3
    str r4, [sp, #8]
    negs r3, r3                 /* enter the loop of 32 columns where only cols modulo 32 are left of it */
    lsls r3, r3, #27
    lsrs r3, r3, #30            /* eights to leave out: 8 bytes of x and 280 of code each */
    lsls r4, r3, #3
    subs r1, r1, r4
    str r1, [sp, #0]
    movs r4, #140
    muls r3, r4, r3
    lsls r3, r3, #1
    adr r4, 2f
    adds r3, r3, r4
    adds r3, #1                 /* Thumb */
    str r3, [sp, #4]
    movs r1, r2
1:  ldmia r1!, {r2-r7}
    ldr r0, [sp, #12]
    adds r2, r2, r0
    adds r4, r4, r0
    adds r5, r5, r0
    adds r7, r7, r0
    ldr r0, [sp, #16]
    adds r3, r3, r0
    adds r6, r6, r0
    mov r8, r2
    mov r9, r3
    mov r10, r4
    mov r11, r5
    mov r12, r6
    mov lr, r7
    ldr r0, [sp, #0]
    ldr r3, [sp, #4]
    bx r3
    .balign 4
2:
    .irp at, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
    TWO_COLUMNS \at
    .endr
    adds r0, #32
    ldr r3, [sp, #8]
    cmp r0, r3
    beq 3f
    b 2b
3:  ldr r0, [sp, #20]
    SOLVE r8, r9, r10
    SOLVE r11, r12, lr
    str r0, [sp, #20]
    ldr r2, [sp, #24]
    cmp r0, r2
    beq 4f
    b 1b
4:  movs r0, r1
    add sp, #28
    pop {r4-r7}
    mov r8, r4
    mov r9, r5
    mov r10, r6
    mov r11, r7
    pop {r4-r7, pc}
    .size mg_gemv_s8_v6m, . - mg_gemv_s8_v6m
