/* void mg_scores_v7m(int16_t *scores, const int16_t *q, const int8_t *keys, const int32_t *shape, int32_t *best);
 * void mg_scores_pair_v7m(...the same);
 *
 * scores [length, rounded up to 4] = (q . key + 2^(shift - 1)) >> shift, saturated, of the slots of a ring; best =
 * the largest of the first `length`. keys: the first slot's first word of the head. shape: length >= 1, head_dim
 * (even), shift in [1, 30], bytes from a head's end to its start four slots on. The pair: two neighbouring query
 * heads share the keys; scores [][2] and best [2] have theirs side by side. q: 4-byte aligned.
 *
 * A word W = 2^24 k3 + 2^16 (k2 + 128) + 2^8 (k1 + 128) + (k0 + 128) holds one channel of four slots. Sums of q times
 * W >> 24, W >> 16, W >> 8 and W, modulo 2^32: each less 2^8 times the one before is the sum of q * (k + 128), or of
 * q * k for the first, modulo 2^32. Together with half a unit of the result these fit: |q . k| <= 2^30. The sums
 * start from what takes -128 * the sum of q off and adds the half.
 *
 * r0 q   r1 keys   r2 a code of q   r3 of the other head   r12 a word   lr bytes from one head of q to the next
 * r4-r7 the sums of slots 0-3   r8-r11 of the other head
 * The frame: sp + 0 q, 4-32 where the sums start from, 36 where to enter the loop, 40 end of q, 44 shift, 48 bytes to
 * the next four slots, 52 slots to come, 56 scores, 60 the largest, 64 of the other head; the caller's best is at
 * 104. */
    .syntax unified
    .thumb

/* A channel: 36 bytes of code, 56 for a pair. */
.macro CHANNEL pair
    ldr r12, [r1], #4
    .if \pair
    ldrsh r3, [r0, lr]
    .endif
    ldrsh r2, [r0], #2
    mla r4, r12, r2, r4
    .if \pair
    mla r8, r12, r3, r8
    .endif
    asr r12, r12, #8
    mla r5, r12, r2, r5
    .if \pair
    mla r9, r12, r3, r9
    .endif
    asr r12, r12, #8
    mla r6, r12, r2, r6
    .if \pair
    mla r10, r12, r3, r10
    .endif
    asr r12, r12, #8
    mla r7, r12, r2, r7
    .if \pair
    mla r11, r12, r3, r11
    .endif
.endm

/* Where the four sums of a head start from, at sp + \at, from the sum of its q in \sum and the half in r4. */
.macro START sum, at
    sub \sum, r4, \sum, lsl #7
    add r6, \sum, r4, lsl #8
    add r7, \sum, r6, lsl #8
    add r8, \sum, r7, lsl #8
    strd r8, r7, [sp, #\at]
    strd r6, r4, [sp, #\at + 8]
.endm

.macro SOLVE s0, s1, s2, s3
    sub \s0, \s0, \s1, lsl #8
    sub \s1, \s1, \s2, lsl #8
    sub \s2, \s2, \s3, lsl #8
    .irp s, \s0, \s1, \s2, \s3
    asr \s, \s, r12
    ssat \s, #16, \s
    .endr
.endm

.macro LARGER best, score
    cmp \best, \score
    it lt
    movlt \best, \score
.endm

.macro SCORES name, pair, code
    .section .text.\name, "ax", %progbits
    .balign 4
    .global \name
    .type \name, %function
\name:
    push {r4-r11, lr}
    sub sp, sp, #68
    str r1, [sp, #0]
    ldm r3, {r4-r7}             /* length, head_dim, shift, bytes */
    str r4, [sp, #52]
    strd r6, r7, [sp, #44]
    str r0, [sp, #56]
    lsl lr, r5, #1
    add r8, r1, lr
    str r8, [sp, #40]           /* end of q */
    rsb r5, r5, #0              /* enter the loop of eight channels where only head_dim modulo 8 are left of it */
    and r5, r5, #7
    adr r7, 2f
    movs r0, #\code
    mla r7, r5, r0, r7
    add r7, r7, #1              /* Thumb */
    str r7, [sp, #36]
    movs r4, #1
    lsl r4, r4, r6
    lsr r4, r4, #1              /* half */
    movs r5, #0                 /* the sum of q, of the other head */
    movs r3, #0
    mov r0, r1
    mov r1, r2
1:  .if \pair
    ldrsh r2, [r0, lr]
    add r3, r3, r2
    .endif
    ldrsh r2, [r0], #2
    add r5, r5, r2
    cmp r0, r8
    bne 1b
    START r5, 4
    .if \pair
    START r3, 20
    .endif
    mov r2, #0x80000000
    mov r3, r2
    strd r2, r3, [sp, #60]
3:  .if \pair                   /* four slots */
    ldm sp, {r0, r4-r11}
    .else
    ldm sp, {r0, r4-r7}
    .endif
    ldr pc, [sp, #36]
    .balign 4
2:
    .rept 8
    CHANNEL \pair
    .endr
    ldr r2, [sp, #40]
    cmp r0, r2
    bne 2b
    ldrd r12, r2, [sp, #44]
    SOLVE r4, r5, r6, r7
    add r1, r1, r2
    .if \pair
    SOLVE r8, r9, r10, r11
    .endif
    ldrd r0, r12, [sp, #52]
    ldrd r2, r3, [sp, #60]
    subs r0, r0, #4
    blt 4f
    LARGER r2, r4
    LARGER r2, r5
    LARGER r2, r6
    LARGER r2, r7
    .if \pair
    LARGER r3, r8
    LARGER r3, r9
    LARGER r3, r10
    LARGER r3, r11
    .endif
    b 5f
4:  LARGER r2, r4               /* one to three slots: -3 to -1 */
    .if \pair
    LARGER r3, r8
    .endif
    cmp r0, #-2
    blt 5f
    LARGER r2, r5
    .if \pair
    LARGER r3, r9
    .endif
    cmp r0, #-2
    beq 5f
    LARGER r2, r6
    .if \pair
    LARGER r3, r10
    .endif
5:  strd r2, r3, [sp, #60]
    .if \pair
    bfi r4, r8, #16, #16
    bfi r5, r9, #16, #16
    bfi r6, r10, #16, #16
    bfi r7, r11, #16, #16
    stm r12!, {r4-r7}
    .else
    strh r5, [r12, #2]
    strh r6, [r12, #4]
    strh r7, [r12, #6]
    strh r4, [r12], #8
    .endif
    strd r0, r12, [sp, #52]
    cmp r0, #0
    bgt 3b
    ldr r1, [sp, #104]
    str r2, [r1, #0]
    .if \pair
    str r3, [r1, #4]
    .endif
    add sp, sp, #68
    pop {r4-r11, pc}
    .size \name, . - \name
.endm

    SCORES mg_scores_v7m, 0, 36
    SCORES mg_scores_pair_v7m, 1, 56
