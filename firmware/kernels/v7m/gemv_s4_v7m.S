/* const uint32_t *mg_gemv_s4_v7m(int32_t *acc, const int8_t *x, const uint32_t *w, int32_t cols, int32_t blocks,
 *                                int32_t offset);
 *
 * acc [blocks][8] = int4 rows times x [cols]; cols a multiple of 8, blocks >= 1; offset = -8 * the sum of x. Returns
 * the end of the stream w: per block and column a word of eight rows, nibbles w + 8.
 *
 * mcugen/packing/row_digits.py proves that the rows' sums S0..S7 follow from five, all modulo 2^32. With Qj = S(2j)
 * + 2^4 S(2j + 1), the sums of the word's bytes, they are
 *   P = Q0 + 2^8 Q1 + 2^16 Q2 + 2^24 Q3    R = Q1 + 2^8 Q0 + 2^16 Q3 + 2^24 Q2    E = Q3 + 2^8 Q2
 *   H = S1 + 2^8 S3 + 2^16 S5 + 2^24 S7    G = S3 + 2^8 S1 + 2^16 S7 + 2^24 S5
 * Nine instructions and about 14 cycles for eight products. Two rows in the halves of a word take eight and 12, but
 * their sums must be widened every 16 columns, and then cost as much.
 *
 * r0 x   r1 w   r2 a code   r3 0x0F0F0F0F   r4-r7 words of four columns   r8 the odd digits
 * r9 P   r10 R   r11 E   r12 H   lr G
 * The frame: sp + 0 x, 4 mask, 8 offset in P, 12 in R, 16 in E, 20 in H, 24 in G, 28 where to enter the loop, 32 acc,
 * 36 end of acc, 40 end of x */
    .syntax unified
    .thumb
    .section .text.mg_gemv_s4_v7m, "ax", %progbits
    .balign 4
    .global mg_gemv_s4_v7m
    .type mg_gemv_s4_v7m, %function

.macro COLUMN word, at
    ldrsb r2, [r0, #\at]
    and r8, r3, \word, lsr #4
    mla r12, r8, r2, r12
    rev16 r8, r8
    mla lr, r8, r2, lr
    mla r9, \word, r2, r9
    rev16 \word, \word
    mla r10, \word, r2, r10
    lsrs \word, \word, #16
    mla r11, \word, r2, r11
.endm

/* \even = S(2j), \odd = S(2j + 1), from Qj in \q and the odd row modulo 2^16 in \odd. */
.macro SOLVE_PAIR even, odd, q
    rsb \odd, \odd, \q, asr #4
    sxth \odd, \odd             /* the even row >> 4 */
    rsb \odd, \odd, \q, asr #4
    sub \even, \q, \odd, lsl #4
.endm

/* r4-r7 = S0..S3, r8-r11 = S4..S7; r12, lr change. */
.macro SOLVE
    sub r5, r10, r11, lsl #16   /* D = Q1 + 2^8 Q0, as a number */
    sub r6, r9, r5, lsl #8      /* Q0 modulo 2^16 */
    rsb r4, r6, r5, asr #8
    sxth r4, r4                 /* Q1 >> 8 */
    rsb r4, r4, r5, asr #8      /* Q0 */
    sub r9, r5, r4, lsl #8      /* Q1 */
    sub r6, r6, r4
    add r6, r4, r6, asr #16     /* Q2 + 2^8 Q3 modulo 2^16 */
    rsb r6, r6, r11, asr #8
    add r6, r6, r11, lsl #8
    sxth r6, r6                 /* Q3 >> 8 */
    rsb r8, r6, r11, asr #8     /* Q2 */
    sub r10, r11, r8, lsl #8    /* Q3 */
    sub r5, r12, lr, lsl #8     /* S1 modulo 2^16 */
    SOLVE_PAIR r4, r5, r4
    sub r7, lr, r12, lsl #8     /* S3 modulo 2^16 */
    SOLVE_PAIR r6, r7, r9
    sub r12, r12, r5
    sub r12, r12, r7, lsl #8    /* 2^16 (S5 + 2^8 S7) */
    sub lr, lr, r7
    sub lr, lr, r5, lsl #8      /* 2^16 (S7 + 2^8 S5) */
    sub r9, r12, lr, lsl #8
    asr r9, r9, #16             /* S5 modulo 2^16 */
    SOLVE_PAIR r8, r9, r8
    sub r11, lr, r12, lsl #8
    asr r11, r11, #16           /* S7 modulo 2^16 */
    SOLVE_PAIR r10, r11, r10
.endm

mg_gemv_s4_v7m:
    push {r4-r11, lr}
    ldrd r5, r4, [sp, #36]
    sub sp, sp, #44
    add r6, r0, r5, lsl #5
    strd r0, r6, [sp, #32]
    add r11, r4, r4, lsl #4
    add r11, r11, r11, lsl #8   /* 0x1111 */
    add r9, r11, r11, lsl #16   /* 0x11111111 */
    mov r10, r9
    add r12, r4, r4, lsl #8
    add r12, r12, r12, lsl #16  /* 0x01010101 */
    mov lr, r12
    add r7, sp, #8
    stm r7, {r9-r12, lr}
    add r7, r1, r3
    str r7, [sp, #40]
    rsb r3, r3, #0              /* enter the loop of 32 columns where only cols modulo 32 are left of it */
    ubfx r3, r3, #3, #2         /* eights to leave out: 8 bytes of x and 292 of code each */
    sub r1, r1, r3, lsl #3
    movw r5, #292
    adr r4, 2f
    mla r4, r3, r5, r4
    add r4, r4, #1              /* Thumb */
    str r4, [sp, #28]
    mov r4, #0x0F0F0F0F
    strd r1, r4, [sp]
    mov r1, r2
1:  ldm sp, {r0, r3, r9-r12, lr}
    ldr pc, [sp, #28]
    .balign 4
2:
    .irp at, 0, 4, 8, 12, 16, 20, 24, 28
    ldm r1!, {r4-r7}
    COLUMN r4, \at
    COLUMN r5, \at + 1
    COLUMN r6, \at + 2
    COLUMN r7, \at + 3
    .endr
    ldr r2, [sp, #40]
    adds r0, r0, #32
    cmp r0, r2
    bne 2b
    SOLVE
    ldrd r0, r2, [sp, #32]
    stm r0!, {r4-r11}
    str r0, [sp, #32]
    cmp r0, r2
    bne 1b
    mov r0, r1
    add sp, sp, #44
    pop {r4-r11, pc}
    .size mg_gemv_s4_v7m, . - mg_gemv_s4_v7m
