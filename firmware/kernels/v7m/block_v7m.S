/* void mg_block_s8_v7m(int8_t *codes, mg_scale_t *scale, const int16_t *x, int32_t n);
 *
 * codes [n] = (x * reciprocal + 2^22) >> 23 with reciprocal = (127 << 23) / peak, filled up with 0 to a multiple of
 * 8; scale = {peak, sum of the codes}, peak = the largest |x|, at least 1; n >= 1.
 *
 * -peak <= x <= peak is one unsigned comparison of x + peak with 2 * peak.
 * |x * reciprocal| <= 127 * 2^23, so that the code stays in [-127, 127] and the sum below 2^30 + 2^22.
 *
 * r0 codes   r1 scale   r2 x   r3 n   r4 peak, then reciprocal   r5 2 * peak, then 2^22   r6 of x   r7 x + peak
 * r8 the sum   r12 left over from fours */
    .syntax unified
    .thumb
    .section .text.mg_block_s8_v7m, "ax", %progbits
    .balign 4
    .global mg_block_s8_v7m
    .type mg_block_s8_v7m, %function

.macro INCLUDE
    ldrsh r6, [r2], #2
    add r7, r6, r4
    cmp r7, r5
    bls 9f
    eor r4, r6, r6, asr #31
    sub r4, r4, r6, asr #31
    lsl r5, r4, #1
9:
.endm

.macro CODE
    ldrsh r6, [r2], #2
    mla r6, r6, r4, r5
    asrs r6, r6, #23
    add r8, r8, r6
    strb r6, [r0], #1
.endm

mg_block_s8_v7m:
    push {r4-r8, lr}
    movs r4, #1
    movs r5, #2
    subs r12, r3, #4
    blt 2f
1:  INCLUDE
    INCLUDE
    INCLUDE
    INCLUDE
    subs r12, r12, #4
    bge 1b
2:  adds r12, r12, #4
    beq 4f
3:  INCLUDE
    subs r12, r12, #1
    bne 3b
4:  str r4, [r1, #0]
    mov r5, #0x3F800000
    udiv r4, r5, r4
    mov r5, #0x400000
    movs r8, #0
    sub r2, r2, r3, lsl #1
    subs r12, r3, #4
    blt 6f
5:  CODE
    CODE
    CODE
    CODE
    subs r12, r12, #4
    bge 5b
6:  adds r12, r12, #4
    beq 8f
7:  CODE
    subs r12, r12, #1
    bne 7b
8:  str r8, [r1, #4]
    movs r6, #0
    ands r3, r3, #7
    beq 9f
8:  strb r6, [r0], #1
    add r3, r3, #1
    cmp r3, #8
    bne 8b
9:  pop {r4-r8, pc}
    .size mg_block_s8_v7m, . - mg_block_s8_v7m
