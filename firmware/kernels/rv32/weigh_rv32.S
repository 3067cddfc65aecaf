/* void mg_weigh_rv32(int16_t *scores, int32_t *best, int32_t length, int32_t drop)
 *
 * Replace the scores [length][2] of two heads by their weights 2^-((best - score) / 64) in Q(15 - drop), rounded half
 * up: mg_exp2_q15[best - score] where the distance is below 1024, else 0. best [2]: each head's largest score; then
 * the sum of its weights. length >= 1; 0 <= drop <= 15. Distances are in [0, 2^16). The sums are below 2^25.
 *
 * Registers: a0 scores, a1 best, a2 end of scores, a3 drop, a4 half, a5 table, a6 1024, a7 t0 largest scores,
 * t1 t2 sums, t3 t4 scratch. */

    .macro head at, largest
    lh    t3, \at(a0)
    sub   t3, \largest, t3
    li    t4, 0
    bgeu  t3, a6, 1f
    slli  t3, t3, 1
    add   t3, t3, a5
    lhu   t4, 0(t3)
1:
    .endm

    .section .text.mg_weigh_rv32,"ax",@progbits
    .globl  mg_weigh_rv32
    .type   mg_weigh_rv32, @function
    .p2align 2
mg_weigh_rv32:
    slli  a2, a2, 2
    add   a2, a2, a0
    li    a4, 1
    sll   a4, a4, a3
    srli  a4, a4, 1
    la    a5, mg_exp2_q15
    li    a6, 1024
    lw    a7, 0(a1)
    lw    t0, 4(a1)
    li    t1, 0
    li    t2, 0
    bnez  a3, .Ldropping
.Lslot:                             /* 20 instructions for two weights */
    head  0, a7
    add   t1, t1, t4
    sh    t4, 0(a0)
    head  2, t0
    add   t2, t2, t4
    sh    t4, 2(a0)
    addi  a0, a0, 4
    bne   a0, a2, .Lslot
    j     .Ldone
.Ldropping:                         /* nothing, rounded, is nothing: half >> drop = 0 */
    head  0, a7
    add   t4, t4, a4
    srl   t4, t4, a3
    add   t1, t1, t4
    sh    t4, 0(a0)
    head  2, t0
    add   t4, t4, a4
    srl   t4, t4, a3
    add   t2, t2, t4
    sh    t4, 2(a0)
    addi  a0, a0, 4
    bne   a0, a2, .Ldropping
.Ldone:
    sw    t1, 0(a1)
    sw    t2, 4(a1)
    ret
    .size   mg_weigh_rv32, . - mg_weigh_rv32
