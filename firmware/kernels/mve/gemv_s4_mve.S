/* mg_gemv_s4_mve: int4 matrix times vector, as raw accumulators. A part of linear_mve.S, to which it returns with a
 * branch, because the link register is an accumulator.
 *
 *   in   r3   weights: per eight rows and sixteen columns four vectors of 16 * even row + (odd row + 8)
 *        r5   acc [blocks][8], the even rows of a block before its odd ones
 *        r8   the sum of x
 *        r9   x, int8; r7 its end: both padded to sixteen columns
 *        r11  blocks of eight rows, >= 1
 *   out  r3   behind the weights; r7, r9 and sp are kept, everything else is lost
 *
 * Per pair of rows, R = sum((16 h + l + 8) x) in r0, r2, r4, r6 and L = sum((l + 8) x), of the bytes' low halves, in
 * r8, r10, r12, lr. Then sum(h x) = (R - L) / 16 and sum(l x) = L - 8 sum(x). packing/mve.py proves that R - L fits;
 * wherever else a sum wraps, its difference is right again. */
    .syntax unified
    .thumb

.macro FOUR_PAIRS mla, x, low
    vldrb.u8 q1, [r3], #16
    vand q2, q1, \low
    \mla r0, q1, \x
    vldrb.u8 q1, [r3], #16
    \mla r8, q2, \x
    vand q2, q1, \low
    \mla r2, q1, \x
    vldrb.u8 q1, [r3], #16
    \mla r10, q2, \x
    vand q2, q1, \low
    \mla r4, q1, \x
    vldrb.u8 q1, [r3], #16
    \mla r12, q2, \x
    vand q2, q1, \low
    \mla r6, q1, \x
    \mla lr, q2, \x
.endm

.macro SIXTEEN_COLUMNS mla
    vldrb.u8 q0, [r1], #16
    FOUR_PAIRS \mla, q0, q3
.endm

/* Store R and L, then replace them by the accumulators of the even and the odd rows. */
.macro END_BLOCK
    stm r5!, {r0, r2, r4, r6, r8, r10, r12, lr}
    ldr r1, [sp]
    vldrw.u32 q0, [r5, #-32]
    vldrw.u32 q1, [r5, #-16]
    vsub.i32 q0, q0, q1
    vshr.s32 q0, q0, #4
    vsub.i32 q1, q1, r1
    vstrw.32 q0, [r5, #-32]
    vstrw.32 q1, [r5, #-16]
    subs r11, r11, #1
.endm

    .section .text.mg_gemv_s4_mve, "ax", %progbits
    .balign 4
    .global mg_gemv_s4_mve
    .type mg_gemv_s4_mve, %function
mg_gemv_s4_mve:
    lsl r8, r8, #3
    push {r8}
    vmov.i8 q3, #15
    sub r0, r7, r9
    cmp r0, #64
    beq 7f
    lsls r0, r0, #27                /* bit 4: an odd number of vectors */
    bmi 4f

1:  mov r1, r9                      /* a block, an even number of vectors */
    SIXTEEN_COLUMNS vmladav.s8
    b 3f
2:  SIXTEEN_COLUMNS vmladava.s8
3:  SIXTEEN_COLUMNS vmladava.s8
    cmp r1, r7
    bne 2b
    END_BLOCK
    bne 1b
    b 9f

4:  mov r1, r9                      /* a block, an odd number of vectors */
    SIXTEEN_COLUMNS vmladav.s8
    cmp r1, r7
    beq 6f
5:  SIXTEEN_COLUMNS vmladava.s8
    SIXTEEN_COLUMNS vmladava.s8
    cmp r1, r7
    bne 5b
6:  END_BLOCK
    bne 4b
    b 9f

7:  vldrb.u8 q4, [r9]               /* 64 columns: x stays in q4 to q7 */
    vldrb.u8 q5, [r9, #16]
    vldrb.u8 q6, [r9, #32]
    vldrb.u8 q7, [r9, #48]
8:  FOUR_PAIRS vmladav.s8, q4, q3
    FOUR_PAIRS vmladava.s8, q5, q3
    FOUR_PAIRS vmladava.s8, q6, q3
    FOUR_PAIRS vmladava.s8, q7, q3
    END_BLOCK
    bne 8b
9:  add sp, sp, #4
    b mg_linear_finish_mve
    .size mg_gemv_s4_mve, . - mg_gemv_s4_mve
