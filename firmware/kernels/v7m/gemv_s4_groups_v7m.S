/* const uint32_t *mg_gemv_s4_groups_v7m(int32_t *acc, const int8_t *x, const uint32_t *w, int32_t cols,
 *                                       int32_t blocks, const int32_t *offsets, int32_t group);
 *
 * acc [blocks][8] = int4 rows with group scales times x [cols]; cols a multiple of 8, blocks >= 1, group 32. offsets
 * = -8 * the sum of each group's x. Returns the end of the stream w: per block, and per group of up to 32 columns in
 * it, a word of eight rows for each column, nibbles w + 8, and the rows' int8 scales (mcugen/packing/row_digits.py).
 *
 * The words of a group need no more than their nibbles four apart: a sum of 32 products is at most 32 * 8 * 127 <
 * 2^15, so that S(k) + 2^16 S(k + 4), modulo 2^32, has both in its halves. Eight instructions for eight products.
 *
 * r0 x   r1 w   r2 a code   r3 0x000F000F   r4-r7 words of four columns   r8 two nibbles   r9-r12 S0-S3 and S4-S7
 * lr columns to come
 * The frame: sp + 0 acc, 4 end of acc, 8 x, 12 cols, 16 next of offsets, 20 x of the next group, 24 columns to come;
 * the caller's offsets are at 68. */
    .syntax unified
    .thumb
    .section .text.mg_gemv_s4_groups_v7m, "ax", %progbits
    .balign 4
    .global mg_gemv_s4_groups_v7m
    .type mg_gemv_s4_groups_v7m, %function

.macro COLUMN word, at
    ldrsb r2, [r0, #\at]
    and r8, r3, \word, lsr #4
    mla r10, r8, r2, r10
    and r8, r3, \word, lsr #8
    mla r11, r8, r2, r11
    and r8, r3, \word, lsr #12
    mla r12, r8, r2, r12
    and \word, r3, \word
    mla r9, \word, r2, r9
.endm

/* \low, \both = the lower and the upper half of \both. */
.macro HALVES low, both
    sxth \low, \both
    sub \both, \both, \low
    asr \both, \both, #16
.endm

/* first, second = acc[at], acc[at + 1] + scale * sum */
.macro ADD_SCALED first, second, at
    ldrsb r2, [r1], #1
    ldrsb r3, [r1], #1
    ldrd r8, lr, [r0, #4 * \at]
    mla \first, \first, r2, r8
    mla \second, \second, r3, lr
.endm

mg_gemv_s4_groups_v7m:
    push {r4-r11, lr}
    ldr r5, [sp, #36]
    add r5, r0, r5, lsl #5
    sub sp, sp, #28
    strd r0, r5, [sp, #0]
    strd r1, r3, [sp, #8]
    mov r1, r2
1:  ldrd r2, r3, [sp, #0]       /* the next block */
    movs r4, #0
    movs r5, #0
    movs r6, #0
    movs r7, #0
    stm r2!, {r4-r7}
    stm r2!, {r4-r7}
    ldr r4, [sp, #68]
    ldrd r0, lr, [sp, #8]
3:  ldr r5, [r4], #4            /* the next group */
    str r4, [sp, #16]
    add r9, r5, r5, lsl #16
    mov r10, r9
    mov r11, r9
    mov r12, r9
    mov r3, #0x000F000F
    subs lr, lr, #32
    blt 5f
    .balign 4
2:
    .irp at, 0, 4, 8, 12, 16, 20, 24, 28
    ldm r1!, {r4-r7}
    COLUMN r4, \at
    COLUMN r5, \at + 1
    COLUMN r6, \at + 2
    COLUMN r7, \at + 3
    .endr
    adds r0, r0, #32
    strd r0, lr, [sp, #20]
    ldr r0, [sp, #0]
    HALVES r4, r9
    HALVES r5, r10
    HALVES r6, r11
    HALVES r7, r12
    ADD_SCALED r4, r5, 0
    ADD_SCALED r6, r7, 2
    ADD_SCALED r9, r10, 4
    ADD_SCALED r11, r12, 6
    stm r0, {r4-r7, r9-r12}
    ldr r4, [sp, #16]
    ldrd r0, lr, [sp, #20]
    cmp lr, #0
    bgt 3b
    ldrd r2, r3, [sp, #0]
    adds r2, r2, #32
    str r2, [sp, #0]
    cmp r2, r3
    bne 1b
    mov r0, r1
    add sp, sp, #28
    pop {r4-r11, pc}
5:  rsb r2, lr, #0              /* fewer than 32 columns: 8 bytes of x and 292 of code for each eight left out */
    sub r0, r0, r2
    lsr r2, r2, #3
    mov r4, #292
    adr r5, 2b
    mla r5, r2, r4, r5
    add r5, r5, #1              /* Thumb */
    movs lr, #0
    bx r5
    .size mg_gemv_s4_groups_v7m, . - mg_gemv_s4_groups_v7m
