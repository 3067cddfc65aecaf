/* void mg_score_8_rv32(int16_t *scores, int32_t *best, const int16_t *q, const int8_t *keys, int32_t length,
 *                      int32_t stride, int32_t shift)
 *
 * scores [length][2] = the products of two query heads of 8 dimensions, q [2][8], with keys [length][stride], in 1/64
 * octaves: (q . k + 2^(shift - 1)) >> shift, saturated to int16. best [2]: the largest of each head. length >= 1,
 * 1 <= shift <= 30.
 * Bound: |q . k| <= 8 * 2^15 * 127 < 2^25, so that the half, <= 2^29, may be added.
 *
 * Registers: s0-s7 first head's q, s8-s11 t3-t6 second head's q, a0 scores, a3 keys, a4 end of scores, a5 stride,
 * a6 shift, a7 half, t0 t1 the largest; a2 k, ra product, t2 a1 sums. */

    .macro saved operation
    \operation  ra, 12(sp)
    \operation  s0, 16(sp)
    \operation  s1, 20(sp)
    \operation  s2, 24(sp)
    \operation  s3, 28(sp)
    \operation  s4, 32(sp)
    \operation  s5, 36(sp)
    \operation  s6, 40(sp)
    \operation  s7, 44(sp)
    \operation  s8, 48(sp)
    \operation  s9, 52(sp)
    \operation  s10, 56(sp)
    \operation  s11, 60(sp)
    .endm

    .macro dimension at, first, second
    lb    a2, \at(a3)
    mul   ra, a2, \first
    mul   a2, a2, \second
    add   t2, t2, ra
    add   a1, a1, a2
    .endm

    .section .text.mg_score_8_rv32,"ax",@progbits
    .globl  mg_score_8_rv32
    .type   mg_score_8_rv32, @function
    .p2align 2
mg_score_8_rv32:
    addi  sp, sp, -64
    saved sw
    sw    a1, 0(sp)                 /* best */
    lh    s0, 0(a2)
    lh    s1, 2(a2)
    lh    s2, 4(a2)
    lh    s3, 6(a2)
    lh    s4, 8(a2)
    lh    s5, 10(a2)
    lh    s6, 12(a2)
    lh    s7, 14(a2)
    lh    s8, 16(a2)
    lh    s9, 18(a2)
    lh    s10, 20(a2)
    lh    s11, 22(a2)
    lh    t3, 24(a2)
    lh    t4, 26(a2)
    lh    t5, 28(a2)
    lh    t6, 30(a2)
    slli  a4, a4, 2
    add   a4, a4, a0
    addi  t0, a6, -1
    li    a7, 1
    sll   a7, a7, t0
    li    t0, -32768
    li    t1, -32768
.Lslot:                             /* 52 instructions for 16 multiply-accumulates and two scores */
    lb    a2, 0(a3)
    mul   t2, a2, s0
    mul   a1, a2, s8
    add   t2, t2, a7
    add   a1, a1, a7
    dimension 1, s1, s9
    dimension 2, s2, s10
    dimension 3, s3, s11
    dimension 4, s4, t3
    dimension 5, s5, t4
    dimension 6, s6, t5
    dimension 7, s7, t6
    add   a3, a3, a5
    sra   t2, t2, a6
    sra   a1, a1, a6
    lui   a2, 0xFFFF8               /* -2^15 */
    blt   t2, a2, .Llow_first
.Lfirst_in:
    bgt   t2, t0, .Lbest_first      /* at most the largest so far, which is at most 2^15 - 1 */
.Lfirst:
    blt   a1, a2, .Llow_second
.Lsecond_in:
    bgt   a1, t1, .Lbest_second
.Lsecond:
    sh    t2, 0(a0)
    sh    a1, 2(a0)
    addi  a0, a0, 4
    bne   a0, a4, .Lslot

    lw    a1, 0(sp)
    sw    t0, 0(a1)
    sw    t1, 4(a1)
    saved lw
    addi  sp, sp, 64
    ret

.Llow_first:
    mv    t2, a2
    j     .Lfirst_in
.Llow_second:
    mv    a1, a2
    j     .Lsecond_in
.Lbest_first:
    not   t0, a2                    /* 2^15 - 1 */
    bgt   t2, t0, 1f
    mv    t0, t2
1:  mv    t2, t0
    j     .Lfirst
.Lbest_second:
    not   t1, a2
    bgt   a1, t1, 1f
    mv    t1, a1
1:  mv    a1, t1
    j     .Lsecond
    .size   mg_score_8_rv32, . - mg_score_8_rv32
