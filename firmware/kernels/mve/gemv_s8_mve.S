/* mg_gemv_s8_mve: int8 matrix times vector, as raw accumulators. A part of linear_mve.S, to which it returns with a
 * branch, because the link register is an accumulator.
 *
 *   in   r3   weights: per eight rows and sixteen columns eight vectors, even rows before odd ones (packing/mve.py)
 *        r5   acc [blocks][8], in the same order of rows
 *        r9   x, int8; r7 its end: both padded to sixteen columns
 *        r11  blocks of eight rows, >= 1
 *   out  r3   behind the weights; r7, r9 and sp are kept, everything else is lost
 *
 * VMLADAVA adds sixteen products to an accumulator: the eight accumulators of a block are r0, r2, r4, r6 (even rows)
 * and r8, r10, r12, lr (odd rows). They may wrap on the way; the final ones fit, which mcugen proves per row.
 * A vector of weights is multiplied one instruction after it was loaded, while the next one comes. */
    .syntax unified
    .thumb

/* Eight weight vectors times \x; \mla sets the accumulators (vmladav) or adds to them (vmladava). */
.macro EIGHT_ROWS mla, x
    vldrb.u8 q1, [r3], #16
    vldrb.u8 q2, [r3], #16
    \mla r0, q1, \x
    vldrb.u8 q3, [r3], #16
    \mla r2, q2, \x
    vldrb.u8 q1, [r3], #16
    \mla r4, q3, \x
    vldrb.u8 q2, [r3], #16
    \mla r6, q1, \x
    vldrb.u8 q3, [r3], #16
    \mla r8, q2, \x
    vldrb.u8 q1, [r3], #16
    \mla r10, q3, \x
    vldrb.u8 q2, [r3], #16
    \mla r12, q1, \x
    \mla lr, q2, \x
.endm

.macro SIXTEEN_COLUMNS mla
    vldrb.u8 q0, [r1], #16
    EIGHT_ROWS \mla, q0
.endm

/* A block of 64 columns, x in q4 to q7. */
.macro BLOCK_64
    EIGHT_ROWS vmladav.s8, q4
    EIGHT_ROWS vmladava.s8, q5
    EIGHT_ROWS vmladava.s8, q6
    EIGHT_ROWS vmladava.s8, q7
    stm r5!, {r0, r2, r4, r6, r8, r10, r12, lr}
.endm

    .section .text.mg_gemv_s8_mve, "ax", %progbits
    .balign 4
    .global mg_gemv_s8_mve
    .type mg_gemv_s8_mve, %function
mg_gemv_s8_mve:
    sub r0, r7, r9
    cmp r0, #64
    beq 7f
    lsls r0, r0, #27                /* bit 4: an odd number of vectors */
    bmi 4f

1:  mov r1, r9                      /* a block of an even number of vectors */
    SIXTEEN_COLUMNS vmladav.s8
    b 3f
2:  SIXTEEN_COLUMNS vmladava.s8
3:  SIXTEEN_COLUMNS vmladava.s8
    cmp r1, r7
    bne 2b
    stm r5!, {r0, r2, r4, r6, r8, r10, r12, lr}
    subs r11, r11, #1
    bne 1b
    b mg_linear_finish_mve

4:  mov r1, r9                      /* a block of an odd number of vectors */
    SIXTEEN_COLUMNS vmladav.s8
    cmp r1, r7
    beq 6f
5:  SIXTEEN_COLUMNS vmladava.s8
    SIXTEEN_COLUMNS vmladava.s8
    cmp r1, r7
    bne 5b
6:  stm r5!, {r0, r2, r4, r6, r8, r10, r12, lr}
    subs r11, r11, #1
    bne 4b
    b mg_linear_finish_mve

7:  vldrb.u8 q4, [r9]               /* 64 columns: x stays in registers; two blocks at a time */
    vldrb.u8 q5, [r9, #16]
    vldrb.u8 q6, [r9, #32]
    vldrb.u8 q7, [r9, #48]
    lsrs r11, r11, #1
    bcc 9f
    BLOCK_64
    cmp r11, #0
    beq 10f
9:  BLOCK_64
    BLOCK_64
    subs r11, r11, #1
    bne 9b
10: b mg_linear_finish_mve
    .size mg_gemv_s8_mve, . - mg_gemv_s8_mve
