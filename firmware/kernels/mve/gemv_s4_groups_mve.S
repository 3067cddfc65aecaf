/* int4 matrix times vector with group scales, as raw accumulators. Parts of linear_mve.S, to which they return with a
 * branch: mg_gemv_s4_groups32_mve for groups of 32 columns, mg_gemv_s4_groups64_mve for groups of 64.
 *
 *   in   r3   weights: [pass of 8 groups][block][group], each group its vectors of 16 * even row + (odd row + 8), four
 *             per sixteen columns, and then int8 scales of the even and the odd rows (packing/mve.py)
 *        r5   acc [blocks][8], the even rows of a block before its odd ones
 *        r9   x, int8; r7 its end: both padded to sixteen columns
 *        r11  blocks of eight rows, >= 1
 *   out  r3   behind the weights; r7, r9 and sp are kept, everything else is lost
 *
 * Per group and pair of rows, R = sum((16 h + l + 8) x) in r0, r2, r4, r6 and L = sum((l + 8) x), of the bytes' low
 * halves, in r8, r10, r12, lr. Then sum(h x) = (R - L) / 16, at most 64 * 8 * 127 in magnitude, and
 * sum(l x) = L - 8 sum(x); acc gains them times the group's scale, and fits at the end, which mcugen proves.
 *
 * In the loops: r1 x, r9 where 8 sum(x) of the group lies, q3 the mask of low halves, q4 and q5 the block's acc. */
    .syntax unified
    .thumb

    .equ SUMS, 0                    /* 8 sum(x) of the pass's groups */
    .equ SUMS_END, 32
    .equ GROUP, 32                  /* columns */
    .equ PASS_X, 36                 /* where x begins in this pass, */
    .equ FULL_END, 40               /* where its groups of all columns end, */
    .equ PASS_END, 44               /* and where it ends */
    .equ ACC, 48
    .equ LEFT, 52                   /* blocks */
    .equ LOCALS, 56
    .equ X_END, 56                  /* what came in r7, r9 and r11 */
    .equ BLOCKS, 64

.macro SIXTEEN_COLUMNS mla
    vldrb.u8 q0, [r1], #16
    vldrb.u8 q1, [r3], #16
    vand q2, q1, q3
    \mla r0, q1, q0
    vldrb.u8 q1, [r3], #16
    \mla r8, q2, q0
    vand q2, q1, q3
    \mla r2, q1, q0
    vldrb.u8 q1, [r3], #16
    \mla r10, q2, q0
    vand q2, q1, q3
    \mla r4, q1, q0
    vldrb.u8 q1, [r3], #16
    \mla r12, q2, q0
    vand q2, q1, q3
    \mla r6, q1, q0
    \mla lr, q2, q0
.endm

/* acc += scale * sums of the group. */
.macro END_GROUP
    stm r5, {r0, r2, r4, r6, r8, r10, r12, lr}
    vldrw.u32 q6, [r5]
    vldrw.u32 q7, [r5, #16]
    ldr r0, [r9], #4
    vsub.i32 q6, q6, q7
    vldrb.s32 q0, [r3], #4
    vshr.s32 q6, q6, #4
    vldrb.s32 q1, [r3], #4
    vsub.i32 q7, q7, r0
    vmul.i32 q6, q6, q0
    vmul.i32 q7, q7, q1
    vadd.i32 q4, q4, q6
    vadd.i32 q5, q5, q7
.endm

    .section .text.mg_gemv_s4_groups_mve, "ax", %progbits
    .balign 4
    .global mg_gemv_s4_groups64_mve
    .type mg_gemv_s4_groups64_mve, %function
    .global mg_gemv_s4_groups32_mve
    .type mg_gemv_s4_groups32_mve, %function
mg_gemv_s4_groups64_mve:
    movs r10, #64
    b 1f
    .size mg_gemv_s4_groups64_mve, . - mg_gemv_s4_groups64_mve
mg_gemv_s4_groups32_mve:
    movs r10, #32
1:  push {r7, r9, r11}
    sub sp, sp, #LOCALS
    str r10, [sp, #GROUP]
    str r9, [sp, #PASS_X]
    str r5, [sp, #ACC]
    vmov.i32 q0, #0
2:  vstrw.32 q0, [r5], #16
    vstrw.32 q0, [r5], #16
    subs r11, r11, #1
    bne 2b

3:  ldr r1, [sp, #PASS_X]           /* a pass: first the sums of x */
    ldr r7, [sp, #X_END]
    ldr r10, [sp, #GROUP]
    mov r12, r1
    mov r9, sp
    add r11, sp, #SUMS_END
4:  add r4, r1, r10                 /* a group */
    cmp r4, r7
    it hi
    movhi r4, r7
    movs r0, #0
5:  vldrb.u8 q0, [r1], #16
    vaddva.s8 r0, q0
    cmp r1, r4
    bne 5b
    lsls r0, r0, #3
    str r0, [r9], #4
    cmp r1, r7
    it ne
    cmpne r9, r11
    bne 4b
    str r1, [sp, #PASS_END]
    sub r0, r1, r12
    sub r10, r10, #1
    bic r0, r0, r10
    add r0, r0, r12
    str r0, [sp, #FULL_END]
    ldr r0, [sp, #BLOCKS]
    str r0, [sp, #LEFT]
    ldr r5, [sp, #ACC]
    vmov.i8 q3, #15

6:  ldr r1, [sp, #PASS_X]           /* a block */
    ldr r7, [sp, #FULL_END]
    mov r9, sp
    vldrw.u32 q4, [r5]
    vldrw.u32 q5, [r5, #16]
    cmp r1, r7
    beq 9f
    ldr r0, [sp, #GROUP]
    cmp r0, #32
    bne 8f
7:  SIXTEEN_COLUMNS vmladav.s8      /* groups of 32 columns */
    SIXTEEN_COLUMNS vmladava.s8
    END_GROUP
    cmp r1, r7
    bne 7b
    b 9f
8:  SIXTEEN_COLUMNS vmladav.s8      /* groups of 64 columns */
    SIXTEEN_COLUMNS vmladava.s8
    SIXTEEN_COLUMNS vmladava.s8
    SIXTEEN_COLUMNS vmladava.s8
    END_GROUP
    cmp r1, r7
    bne 8b
9:  ldr r7, [sp, #PASS_END]         /* the last group, where it is shorter */
    cmp r1, r7
    beq 12f
    SIXTEEN_COLUMNS vmladav.s8
    b 11f
10: SIXTEEN_COLUMNS vmladava.s8
11: cmp r1, r7
    bne 10b
    END_GROUP
12: vstrw.32 q4, [r5], #16
    vstrw.32 q5, [r5], #16
    ldr r0, [sp, #LEFT]
    subs r0, r0, #1
    str r0, [sp, #LEFT]
    bne 6b

    str r7, [sp, #PASS_X]
    ldr r0, [sp, #X_END]
    cmp r0, r7
    bne 3b
    add sp, sp, #LOCALS
    pop {r7, r9, r11}
    b mg_linear_finish_mve
    .size mg_gemv_s4_groups32_mve, . - mg_gemv_s4_groups32_mve
