/* void mg_gemv_s8_rv32(int32_t *acc, const uint32_t *w, const int32_t *x, int32_t quads, int32_t blocks)
 *
 * acc [16 * blocks] = w . x: blocks of 16 rows, quads of 4 columns, int8 weights, exact. quads, blocks >= 1.
 *   w  per block, per quad, per pair of rows (even row l, odd row h): two words of weights u = w + 128,
 *      u(l,0) + 2^8 u(l,1) + 2^16 u(h,0) + 2^24 u(h,1), and the same of columns 2 and 3.
 *   x  per quad 16 bytes, from mg_block_s8_rv32: int16 a0, a1 - 2^8 a0, a2, a3 - 2^8 a2; int32 c; 4 bytes unused here.
 *
 * One multiplication serves two rows, whose products lie in the halves ("lanes") of a register:
 *   a0 * word + (a1 - 2^8 a0) * (word >> 8 & 0x00FF00FF) = a0 u(.,0) + a1 u(.,1) in each lane,
 * so that the second column needs a mask, and the first one none. c takes the offset of the weights off and adds a
 * half to the lower lane: c = -128 (a0 + a1 + a2 + a3) (1 + 2^16) + 2^15, mod 2^32. All of this is exact mod 2^32.
 *
 * Bound: |a0| + |a1| + |a2| + |a3| <= 258 makes each lane's sum over a quad at most 258 * 127 = 32766 in magnitude.
 * Then p = low + 2^15 + 2^16 high fits int32 with low + 2^15 in [0, 2^16), hence p >> 16 = high, exactly. high is
 * summed in U, p in T; at the end low's sum is T - 2^16 U - 2^15 per quad, mod 2^32. Where the bound does not hold,
 * bit 0 of c (a multiple of 128 otherwise) is set, and the quad is taken in two pairs: 2 * 127 * 127 = 32258.
 *
 * Registers: s0-s7 T, s8-s11 t3-t6 U, a4-a7 multipliers, t0 c, a3 mask, a1 w, a2 x, a0 end of x; t1 t2 ra scratch. */

    .macro saved operation
    \operation  ra, 16(sp)
    \operation  s0, 20(sp)
    \operation  s1, 24(sp)
    \operation  s2, 28(sp)
    \operation  s3, 32(sp)
    \operation  s4, 36(sp)
    \operation  s5, 40(sp)
    \operation  s6, 44(sp)
    \operation  s7, 48(sp)
    \operation  s8, 52(sp)
    \operation  s9, 56(sp)
    \operation  s10, 60(sp)
    \operation  s11, 64(sp)
    .endm

    .macro rows_by_quad offset, low, high
    lw    t1, \offset(a1)           /* columns 0 and 1 */
    lw    ra, \offset + 4(a1)       /* columns 2 and 3 */
    mul   t2, t1, a4
    srli  t1, t1, 8
    and   t1, t1, a3
    mul   t1, t1, a5
    add   t2, t2, t0
    add   t2, t2, t1
    mul   t1, ra, a6
    srli  ra, ra, 8
    and   ra, ra, a3
    mul   ra, ra, a7
    add   t2, t2, t1
    add   t2, t2, ra                /* p */
    add   \low, \low, t2
    srai  t2, t2, 16
    add   \high, \high, t2
    .endm

    .macro rows_by_pair offset, even, odd, c, low, high
    lw    t1, \offset(a1)
    mul   t2, t1, \even
    add   t2, t2, \c
    srli  t1, t1, 8
    and   t1, t1, a3
    mul   t1, t1, \odd
    add   t2, t2, t1                /* p */
    add   \low, \low, t2
    srai  t2, t2, 16
    add   \high, \high, t2
    .endm

    .macro rows_by_pairs offset, low, high
    rows_by_pair \offset, a4, a5, t0, \low, \high
    rows_by_pair \offset + 4, a6, a7, ra, \low, \high
    .endm

    .macro for_all_rows operation
    \operation 0, s0, s8
    \operation 8, s1, s9
    \operation 16, s2, s10
    \operation 24, s3, s11
    \operation 32, s4, t3
    \operation 40, s5, t4
    \operation 48, s6, t5
    \operation 56, s7, t6
    .endm

    .macro clear offset, low, high
    mv    \low, t0
    li    \high, 0
    .endm

    .macro store offset, low, high  /* even row, odd row */
    slli  t1, \high, 16
    sub   t1, \low, t1
    sw    t1, \offset(t0)
    sw    \high, \offset + 4(t0)
    .endm

    .macro take_half offset, low, high
    sub   \low, \low, t2
    .endm

    .section .text.mg_gemv_s8_rv32,"ax",@progbits
    .globl  mg_gemv_s8_rv32
    .type   mg_gemv_s8_rv32, @function
    .p2align 2
mg_gemv_s8_rv32:
    addi  sp, sp, -80
    saved sw
    sw    a0, 0(sp)                 /* acc of the next block */
    sw    a2, 4(sp)                 /* x */
    sw    a4, 8(sp)                 /* blocks left */
    slli  t0, a3, 4
    add   a0, a2, t0
    slli  t0, a3, 15
    neg   t0, t0
    sw    t0, 12(sp)                /* -2^15 per quad: what p has too much */
    li    a3, 0x00FF00FF
.Lblock:
    lw    t0, 12(sp)
    lw    a2, 4(sp)
    for_all_rows clear
.Lquad:                             /* 145 instructions for 64 multiply-accumulates */
    lh    a4, 0(a2)
    lh    a5, 2(a2)
    lh    a6, 4(a2)
    lh    a7, 6(a2)
    lw    t0, 8(a2)
    addi  a2, a2, 16
    andi  t1, t0, 1
    bnez  t1, .Lloud
    for_all_rows rows_by_quad
    addi  a1, a1, 64
    bne   a2, a0, .Lquad
    j     .Ldone
.Lloud:                             /* the bound does not hold: c of columns 0 and 1, c of columns 2 and 3 */
    slli  t1, a4, 8
    add   t1, t1, a5                /* a1 */
    add   t1, t1, a4
    slli  t1, t1, 7
    slli  t2, t1, 16
    add   t1, t1, t2
    lui   t2, 8                     /* 2^15 */
    sub   t1, t2, t1
    sub   ra, t0, t1
    add   ra, ra, t2
    addi  ra, ra, -1
    mv    t0, t1
    for_all_rows rows_by_pairs
    lui   t2, 8
    for_all_rows take_half          /* two flushes have added 2^15 twice */
    addi  a1, a1, 64
    bne   a2, a0, .Lquad
.Ldone:
    lw    t0, 0(sp)
    for_all_rows store
    addi  t0, t0, 64
    sw    t0, 0(sp)
    lw    t0, 8(sp)
    addi  t0, t0, -1
    sw    t0, 8(sp)
    bnez  t0, .Lblock
    saved lw
    addi  sp, sp, 80
    ret
    .size   mg_gemv_s8_rv32, . - mg_gemv_s8_rv32
