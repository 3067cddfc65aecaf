/* void mg_gemv_s4_rv32(int32_t *acc, const uint32_t *w, const int32_t *x, int32_t quads, int32_t blocks, int32_t chunk,
 *                      int32_t grouped)
 *
 * acc [16 * blocks] = w . x: blocks of 16 rows, quads of 4 columns, int4 weights, exact. quads, blocks >= 1.
 *   w  per block, per chunk of `chunk` quads (1 to 120; the last one may have fewer): per quad, per pair of rows (an
 *      even one, an odd one): a word, half for each row, which holds u = w + 8 of columns 0, 2, 1, 3 from its lowest
 *      four bits up; then, where grouped is not 0, the chunk's 16 group scales, int8, by row.
 *   x  per quad 16 bytes, from mg_block_s8_rv32: int16 a0, a1 - 2^8 a0, two unused here; int32 c; int16 a2 - 2^4 a0,
 *      a3 - 2^4 a1.
 *
 * One multiplication serves two rows, whose products lie in the halves ("lanes") of a register, where
 *     a0 * word + (a1 - 2^8 a0) * (u1 + 2^4 u3) + (a2 - 2^4 a0) * u2 + (a3 - 2^4 a1) * u3
 *     = a0 u0 + a1 u1 + a2 u2 + a3 u3,
 * so that the first column needs no mask. All of this is exact mod 2^32.
 *
 * Bound: of a chunk, |a . w| <= 127 * sum |w| <= 127 * 258 = 32766 in each lane, which the packing proves of every row
 * (32 columns always pass: 32 * 8 = 256). So p, the sum over a chunk less 8 (1 + 2^16) times the sum of its
 * activations plus 2^15, is low + 2^15 + 2^16 high with low + 2^15 in [0, 2^16), and fits int32: high = p >> 16 and
 * low + 2^15 = p & 0xFFFF, exactly. The sum A of the activations comes from the quads' c = -128 A (1 + 2^16) + 2^15 and
 * a flag in the lowest bit: for D = -128 A (1 + 2^16), D - 2^16 D = -128 A mod 2^32.
 *
 * Registers: s0-s7 p, a4-a7 multipliers, t0 sum of c, a3 t3 masks, a1 w, a2 x, a0 end of the chunk's x, t4 end of x,
 * t5 chunk, t6 2^15 per chunk, s8 0xFFFF, s9 2^15, s10 acc, s11 1 before the first flush of a block; t1 t2 ra
 * scratch. */

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

    .macro rows_by_quad offset, p
    lw    t1, \offset(a1)
    mul   t2, t1, a4
    srli  ra, t1, 8
    and   ra, ra, a3                /* u1 + 2^4 u3 */
    mul   ra, ra, a5
    add   \p, \p, t2
    add   \p, \p, ra
    srli  t2, t1, 4
    and   t2, t2, t3                /* u2 */
    mul   t2, t2, a6
    srli  t1, t1, 12
    and   t1, t1, t3                /* u3 */
    mul   t1, t1, a7
    add   \p, \p, t2
    add   \p, \p, t1
    .endm

    .macro quad at                  /* the at-th of those that a1 and a2 point to */
    lh    a4, 16 * \at(a2)
    lh    a5, 16 * \at + 2(a2)
    lh    a6, 16 * \at + 12(a2)
    lh    a7, 16 * \at + 14(a2)
    lw    t1, 16 * \at + 8(a2)
    add   t0, t0, t1
    rows_by_quad 32 * \at, s0
    rows_by_quad 32 * \at + 4, s1
    rows_by_quad 32 * \at + 8, s2
    rows_by_quad 32 * \at + 12, s3
    rows_by_quad 32 * \at + 16, s4
    rows_by_quad 32 * \at + 20, s5
    rows_by_quad 32 * \at + 24, s6
    rows_by_quad 32 * \at + 28, s7
    .endm

    .macro for_all_rows operation
    \operation 0, s0
    \operation 1, s1
    \operation 2, s2
    \operation 3, s3
    \operation 4, s4
    \operation 5, s5
    \operation 6, s6
    \operation 7, s7
    .endm

    .macro clear index, p
    li    \p, 0
    .endm

    .macro split p                  /* t1: odd row, t2: even row, 2^15 too much */
    add   \p, \p, t0
    srai  t1, \p, 16
    and   t2, \p, s8
    .endm

    .macro scale index
    sub   t2, t2, s9
    lb    ra, 2 * \index(a1)
    mul   t2, t2, ra
    lb    ra, 2 * \index + 1(a1)
    mul   t1, t1, ra
    .endm

    .macro put index
    sw    t2, 8 * \index(s10)
    sw    t1, 8 * \index + 4(s10)
    .endm

    .macro add_up index
    lw    ra, 8 * \index(s10)
    add   t2, t2, ra
    lw    ra, 8 * \index + 4(s10)
    add   t1, t1, ra
    .endm

    .macro flush_first index, p
    split \p
    sub   t2, t2, t6                /* for all chunks that are still to come, too */
    put   \index
    .endm

    .macro flush index, p
    split \p
    add_up \index
    put   \index
    .endm

    .macro flush_first_scaled index, p
    split \p
    scale \index
    put   \index
    .endm

    .macro flush_scaled index, p
    split \p
    scale \index
    add_up \index
    put   \index
    .endm

    .section .text.mg_gemv_s4_rv32,"ax",@progbits
    .globl  mg_gemv_s4_rv32
    .type   mg_gemv_s4_rv32, @function
    .p2align 2
mg_gemv_s4_rv32:
    addi  sp, sp, -80
    saved sw
    sw    a2, 4(sp)                 /* x */
    sw    a4, 8(sp)                 /* blocks left */
    sw    a6, 12(sp)                /* grouped */
    slli  t5, a5, 4                 /* bytes of x of a chunk */
    mv    s10, a0
    slli  t0, a3, 4
    add   t4, a2, t0
    li    t3, 0x000F000F
    lui   s9, 8
    lui   s8, 16
    addi  s8, s8, -1
    li    t6, 0
.Lchunks:                           /* so many of them: a loop, where dividing takes as long on most cores */
    add   t6, t6, s9
    sub   a3, a3, a5
    bgtz  a3, .Lchunks
    li    a3, 0x00FF00FF
.Lblock:
    lw    a2, 4(sp)
    li    s11, 1
.Lchunk:
    add   a0, a2, t5
    bleu  a0, t4, .Lwhole
    mv    a0, t4
.Lwhole:
    sub   t0, a2, a0                /* -16 per quad */
    andi  t1, t0, 16
    slli  t0, t0, 11                /* -2^15 per quad: what the sum of c has too much */
    for_all_rows clear
    beqz  t1, .Leven
    addi  a1, a1, -32               /* an odd number of quads: begin with the second of two */
    addi  a2, a2, -16
    j     .Lodd
.Leven:                             /* 255 instructions for 128 multiply-accumulates */
    quad  0
.Lodd:
    quad  1
    addi  a1, a1, 64
    addi  a2, a2, 32
    bne   a2, a0, .Leven

    andi  t0, t0, -128              /* at most 120 flags */
    slli  t1, t0, 16
    sub   t0, t0, t1                /* -128 A */
    srai  t0, t0, 4
    slli  t1, t0, 16
    add   t0, t0, t1
    add   t0, t0, s9                /* -8 A (1 + 2^16) + 2^15 */
    lw    t1, 12(sp)
    bnez  t1, .Lscaled
    beqz  s11, .Llater
    for_all_rows flush_first
    j     .Lflushed
.Llater:
    for_all_rows flush
    j     .Lflushed
.Lscaled:
    beqz  s11, .Llater_scaled
    for_all_rows flush_first_scaled
    addi  a1, a1, 16
    j     .Lflushed
.Llater_scaled:
    for_all_rows flush_scaled
    addi  a1, a1, 16
.Lflushed:
    li    s11, 0
    bne   a2, t4, .Lchunk
    addi  s10, s10, 64
    lw    t0, 8(sp)
    addi  t0, t0, -1
    sw    t0, 8(sp)
    bnez  t0, .Lblock
    saved lw
    addi  sp, sp, 80
    ret
    .size   mg_gemv_s4_rv32, . - mg_gemv_s4_rv32
