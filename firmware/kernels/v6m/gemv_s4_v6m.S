/* const uint32_t *mg_gemv_s4_v6m(int32_t *acc, const uint8_t *x, const uint32_t *w, int32_t cols, int32_t blocks,
 *                                int32_t offset);
 * const uint32_t *mg_gemv_s4_groups_v6m(int32_t *acc, const uint8_t *x, const uint32_t *w, int32_t cols,
 *                                       int32_t blocks, const int32_t *offsets, int32_t group);
 *
 * acc [blocks][8] = int4 rows times x [cols], whose codes come as x + 128; cols a multiple of 8, blocks >= 1. Returns
 * the end of the stream w: per block, and per column in it, a word of eight rows, nibbles w + 8. Without groups, five
 * words that the sums start from come before a block's columns; offset = -8 * the sum of the codes. With groups,
 * eight words that acc starts from come before a block's columns, and after each `group` (a multiple of 8) of them
 * the rows' int8 scales; offsets = -8 * the sum of each group's x + 128.
 *
 * mcugen/packing/row_digits.py proves that the rows' sums S0..S7 follow from five, all modulo 2^32. With Qj = S(2j)
 * + 2^4 S(2j + 1), the sums of the word's bytes, they are
 *   P = Q0 + 2^8 Q1 + 2^16 Q2 + 2^24 Q3    A = Q2 + 2^8 Q3    R = Q1 + 2^8 Q0 + 2^16 Q3 + 2^24 Q2
 *   H = S1 + 2^8 S3 + 2^16 S5 + 2^24 S7    G = S3 + 2^8 S1 + 2^16 S7 + 2^24 S5
 * 15 instructions for eight products.
 *
 * r0 x   r1 w   r2 a code   r3, r5 products   r4 0x0F0F0F0F   r6, r7 words of two columns
 * r8 P   r9 A   r10 R   r11 H   r12 G   lr end of x, or of the group */
    .syntax unified
    .thumb

.macro COLUMN word, at
    ldrb r2, [r0, #\at]
    lsrs r3, \word, #4
    ands r3, r3, r4
    rev16 r5, r3
    muls r3, r2, r3
    add r11, r3
    muls r5, r2, r5
    add r12, r5
    lsrs r3, \word, #16
    muls r3, r2, r3
    add r9, r3
    rev16 r3, \word
    muls r3, r2, r3
    add r10, r3
    muls \word, r2, \word
    add r8, \word
.endm

/* The loop, entered where only cols modulo 32 are left of it: 264 bytes of code for eight columns. */
.macro COLUMNS
    .balign 4
9:  .word 0x0F0F0F0F
2:
    .irp at, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
    ldmia r1!, {r6, r7}
    COLUMN r6, \at
    COLUMN r7, \at + 1
    .endr
    adds r0, #32
    cmp r0, lr
    beq 3f
    b 2b
3:
.endm

/* r0 = x and r3 = the loop's entry, for the columns from r0 up to r0 + r2; changes r4. */
.macro ENTRY
    negs r2, r2
    lsls r2, r2, #27
    lsrs r2, r2, #30            /* eights to leave out */
    lsls r4, r2, #3
    subs r0, r0, r4
    movs r4, #132
    muls r2, r4, r2
    lsls r2, r2, #1
    adr r3, 2f
    adds r3, r3, r2
    adds r3, #1                 /* Thumb */
.endm

/* From offset in r2: what it adds to P and R in r2, to A in r3, to H and G in r4. */
.macro OFFSETS
    lsls r3, r2, #4
    adds r3, r3, r2
    lsls r4, r2, #8
    adds r4, r4, r2
    lsls r2, r3, #8
    adds r3, r3, r2             /* 0x1111 */
    lsls r2, r4, #16
    adds r4, r4, r2             /* 0x01010101 */
    lsls r2, r3, #16
    adds r2, r2, r3             /* 0x11111111 */
.endm

/* r2 = Q0, r4 = Q1, r9 = Q2, r10 = Q3, r6 = H, r7 = G; r3, r5 change. */
.macro SOLVE_BYTES
    mov r2, r8
    mov r4, r9
    mov r6, r10
    lsls r7, r4, #16
    subs r2, r2, r7             /* C = Q0 + 2^8 Q1, as a number */
    lsls r7, r2, #8
    subs r6, r6, r7             /* Q1 modulo 2^16 */
    asrs r3, r2, #8
    subs r7, r3, r6
    sxth r7, r7                 /* Q0 >> 8 */
    subs r3, r3, r7             /* Q1 */
    lsls r7, r3, #8
    subs r2, r2, r7             /* Q0 */
    subs r6, r6, r3
    asrs r6, r6, #16
    adds r6, r6, r3             /* Q3 + 2^8 Q2 modulo 2^16 */
    asrs r5, r4, #8
    lsls r7, r4, #8
    adds r7, r7, r5
    subs r7, r7, r6
    sxth r7, r7                 /* Q2 >> 8 */
    subs r5, r5, r7             /* Q3 */
    mov r10, r5
    lsls r7, r5, #8
    subs r4, r4, r7             /* Q2 */
    mov r9, r4
    movs r4, r3
    mov r6, r11
    mov r7, r12
.endm

/* \even = S(2j), \odd = S(2j + 1) from Qj in \even; \h, \g hold the two digits in their lower halves. r1 changes. */
.macro SOLVE_NIBBLES even, odd, h, g
    lsls r1, \g, #8
    subs r1, \h, r1             /* the odd row modulo 2^16 */
    asrs \odd, \even, #4
    subs r1, \odd, r1
    sxth r1, r1                 /* the even row >> 4 */
    subs \odd, \odd, r1
    lsls r1, \odd, #4
    subs \even, \even, r1
.endm

/* r2-r5 = four rows; the first time, H and G are left with the other four in their lower halves. */
.macro FOUR_ROWS
    SOLVE_NIBBLES r2, r3, r6, r7
    SOLVE_NIBBLES r4, r5, r7, r6
.endm

.macro NEXT_FOUR
    subs r6, r6, r3
    lsls r1, r5, #8
    subs r6, r6, r1
    asrs r6, r6, #16
    subs r7, r7, r5
    lsls r1, r3, #8
    subs r7, r7, r1
    asrs r7, r7, #16
.endm

.macro BEGIN name
    .section .text.\name, "ax", %progbits
    .balign 4
    .global \name
    .type \name, %function
\name:
    push {r4-r7, lr}
    mov r4, r8
    mov r5, r9
    mov r6, r10
    mov r7, r11
    push {r4-r7}
.endm

.macro END name
    pop {r4-r7}
    mov r8, r4
    mov r9, r5
    mov r10, r6
    mov r11, r7
    pop {r4-r7, pc}
    .size \name, . - \name
.endm

/* The frame: sp + 0 acc, 4 end of acc, 8 offset in P and R, 12 in A, 16 in H and G, 20 where to enter the loop, 24 x,
 * 28 end of x */
    BEGIN mg_gemv_s4_v6m
    sub sp, #32
    str r0, [sp, #0]
    ldr r4, [sp, #68]
    lsls r4, r4, #5
    adds r4, r4, r0
    str r4, [sp, #4]
    movs r0, r1
    movs r1, r2
    adds r2, r0, r3
    str r2, [sp, #28]
    movs r2, r3
    ENTRY
    str r3, [sp, #20]
    str r0, [sp, #24]
    ldr r2, [sp, #72]
    OFFSETS
    str r2, [sp, #8]
    str r3, [sp, #12]
    str r4, [sp, #16]
1:  ldmia r1!, {r2-r6}
    ldr r0, [sp, #8]
    adds r2, r2, r0
    mov r8, r2
    adds r4, r4, r0
    mov r10, r4
    ldr r0, [sp, #12]
    adds r3, r3, r0
    mov r9, r3
    ldr r0, [sp, #16]
    adds r5, r5, r0
    mov r11, r5
    adds r6, r6, r0
    mov r12, r6
    ldr r4, 9f
    ldr r3, [sp, #20]
    ldr r0, [sp, #28]
    mov lr, r0
    ldr r0, [sp, #24]
    bx r3
    COLUMNS
    SOLVE_BYTES
    mov r8, r1
    ldr r0, [sp, #0]
    FOUR_ROWS
    stmia r0!, {r2-r5}
    NEXT_FOUR
    mov r2, r9
    mov r4, r10
    FOUR_ROWS
    stmia r0!, {r2-r5}
    str r0, [sp, #0]
    mov r1, r8
    ldr r2, [sp, #4]
    cmp r0, r2
    beq 4f
    b 1b
4:  movs r0, r1
    add sp, #32
    END mg_gemv_s4_v6m

/* acc[0..3] += scale * r2-r5, the scales from r8 up, acc from r0 up; r1, r6, r7 change. */
.macro ADD_SCALED
    mov r1, r8
    ldmia r1!, {r6}
    mov r8, r1
    sxtb r7, r6
    muls r2, r7, r2
    lsls r7, r6, #16
    asrs r7, r7, #24
    muls r3, r7, r3
    lsls r7, r6, #8
    asrs r7, r7, #24
    muls r4, r7, r4
    asrs r7, r6, #24
    muls r5, r7, r5
    ldr r7, [r0, #0]
    adds r2, r2, r7
    ldr r7, [r0, #4]
    adds r3, r3, r7
    ldr r7, [r0, #8]
    adds r4, r4, r7
    ldr r7, [r0, #12]
    adds r5, r5, r7
    stmia r0!, {r2-r5}
.endm

/* The frame: sp + 0 acc, 4 end of acc, 8 next of offsets, 12 columns to come, 16 x; the caller's arguments are at
 * 56 blocks, 60 offsets, 64 group. Both hold cols and x from the start at 20 and 24. */
    BEGIN mg_gemv_s4_groups_v6m
    sub sp, #28
    str r0, [sp, #0]
    ldr r4, [sp, #64]
    lsls r4, r4, #5
    adds r4, r4, r0
    str r4, [sp, #4]
    str r3, [sp, #20]
    str r1, [sp, #24]
    movs r1, r2
1:  ldr r0, [sp, #0]
    ldmia r1!, {r2-r5}
    stmia r0!, {r2-r5}
    ldmia r1!, {r2-r5}
    stmia r0!, {r2-r5}
    ldr r0, [sp, #68]
    str r0, [sp, #8]
    ldr r0, [sp, #20]
    str r0, [sp, #12]
    ldr r0, [sp, #24]
5:  ldr r4, [sp, #8]            /* the next group */
    ldmia r4!, {r2}
    str r4, [sp, #8]
    OFFSETS
    mov r8, r2
    mov r10, r2
    mov r9, r3
    mov r11, r4
    mov r12, r4
    ldr r3, [sp, #12]
    ldr r2, [sp, #72]
    ldr r4, 9f
    subs r3, r3, r2
    blo 10f
    str r3, [sp, #12]
    adds r2, r2, r0
    mov lr, r2
    b 2f
10: adds r2, r2, r3             /* the last group, of fewer columns */
    movs r3, #0
    str r3, [sp, #12]
    adds r3, r0, r2
    mov lr, r3
    ENTRY
    ldr r4, 9f
    bx r3
    COLUMNS
    str r0, [sp, #16]
    SOLVE_BYTES
    mov r8, r1
    ldr r0, [sp, #0]
    FOUR_ROWS
    NEXT_FOUR
    mov r11, r6
    mov r12, r7
    ADD_SCALED
    mov r6, r11
    mov r7, r12
    mov r2, r9
    mov r4, r10
    FOUR_ROWS
    ADD_SCALED
    ldr r2, [sp, #12]
    cmp r2, #0
    beq 7f
    ldr r0, [sp, #16]
    b 5b
7:  str r0, [sp, #0]
    ldr r2, [sp, #4]
    cmp r0, r2
    beq 8f
    b 1b
8:  movs r0, r1
    add sp, #28
    END mg_gemv_s4_groups_v6m
