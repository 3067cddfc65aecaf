/* int32_t mg_scores_v6m(int16_t *scores, const int16_t *q, const int8_t *keys, const int32_t *shape);
 *
 * scores [length, rounded up to 4] = (q . key + 2^(shift - 1)) >> shift, saturated, of the slots of a ring; returns
 * the largest of the first `length`. keys: the first slot's first word of the head. shape: length >= 1, head_dim
 * (even), shift in [1, 30], bytes from a head's end to its start four slots on. q, scores: 4-byte aligned.
 *
 * A word W = 2^24 k3 + 2^16 (k2 + 128) + 2^8 (k1 + 128) + (k0 + 128) holds one channel of four slots. Sums of q times
 * W >> 24, W >> 16, W >> 8 and W, modulo 2^32: each less 2^8 times the one before is the sum of q * (k + 128), or of
 * q * k for the first, modulo 2^32. Together with half a unit of the result these fit: |q . k| <= 2^30. The sums
 * start from what takes -128 * the sum of q off and adds the half.
 *
 * r0 q   r1 keys   r2, r6 two of q   r3 product   r4, r5 words   r7 scores
 * r8-r11 the sums of slots 0-3   r12 end of q   lr the largest
 * The frame: sp + 0 where the sums start from, 16 where to enter the loop, 20 q, 24 shift, 28 slots to come, 32 bytes
 * to the next four slots */
    .syntax unified
    .thumb
    .section .text.mg_scores_v6m, "ax", %progbits
    .balign 4
    .global mg_scores_v6m
    .type mg_scores_v6m, %function

.macro CHANNEL word, q
    asrs r3, \word, #24
    muls r3, \q, r3
    add r11, r3
    asrs r3, \word, #16
    muls r3, \q, r3
    add r10, r3
    asrs r3, \word, #8
    muls r3, \q, r3
    add r9, r3
    muls \word, \q, \word
    add r8, \word
.endm

.macro TWO_CHANNELS
    ldmia r0!, {r6}
    ldmia r1!, {r4, r5}
    sxth r2, r6
    CHANNEL r4, r2
    asrs r6, r6, #16
    CHANNEL r5, r6
.endm

/* \score to int16. r6 changes. */
.macro SATURATE score
    sxth r6, \score
    cmp r6, \score
    beq 5f
    asrs \score, \score, #31
    ldr r6, =0x7FFF
    eors \score, \score, r6
5:
.endm

.macro LARGER score
    cmp \score, lr
    ble 5f
    mov lr, \score
5:
.endm

mg_scores_v6m:
    push {r4-r7, lr}
    mov r4, r8
    mov r5, r9
    mov r6, r10
    mov r7, r11
    push {r4-r7}
    sub sp, #36
    movs r7, r0
    str r1, [sp, #20]
    ldmia r3, {r3-r6}           /* length, head_dim, shift, bytes */
    str r3, [sp, #28]
    str r5, [sp, #24]
    str r6, [sp, #32]
    lsls r3, r4, #1
    adds r3, r3, r1
    mov r12, r3                 /* end of q */
    lsrs r4, r4, #1             /* pairs of channels; the loop has four, of 52 bytes of code each */
    negs r4, r4
    movs r3, #3
    ands r4, r4, r3
    movs r3, #52
    muls r4, r3, r4
    adr r3, 2f
    adds r4, r4, r3
    adds r4, #1                 /* Thumb */
    str r4, [sp, #16]
    movs r0, r1
    movs r1, r2
    movs r4, #0                 /* the sum of q */
1:  ldmia r0!, {r3}
    sxth r6, r3
    adds r4, r4, r6
    asrs r3, r3, #16
    adds r4, r4, r3
    cmp r0, r12
    bne 1b
    lsls r4, r4, #7
    movs r3, #1
    lsls r3, r5
    lsrs r3, r3, #1             /* half */
    str r3, [sp, #12]
    subs r4, r3, r4
    lsls r3, r3, #8
    adds r3, r3, r4
    str r3, [sp, #8]
    lsls r3, r3, #8
    adds r3, r3, r4
    str r3, [sp, #4]
    lsls r3, r3, #8
    adds r3, r3, r4
    str r3, [sp, #0]
    ldr r3, =-0x8000
    mov lr, r3
3:  mov r2, sp                  /* four slots */
    ldmia r2!, {r3-r6}
    mov r8, r3
    mov r9, r4
    mov r10, r5
    mov r11, r6
    ldr r0, [sp, #20]
    ldr r3, [sp, #16]
    bx r3
    .ltorg
    .balign 4
2:
    TWO_CHANNELS
    TWO_CHANNELS
    TWO_CHANNELS
    TWO_CHANNELS
    cmp r0, r12
    bne 2b
    mov r2, r8
    mov r3, r9
    mov r4, r10
    mov r5, r11
    lsls r6, r3, #8
    subs r2, r2, r6
    lsls r6, r4, #8
    subs r3, r3, r6
    lsls r6, r5, #8
    subs r4, r4, r6
    ldr r6, [sp, #24]
    asrs r2, r2, r6
    asrs r3, r3, r6
    asrs r4, r4, r6
    asrs r5, r5, r6
    SATURATE r2
    SATURATE r3
    SATURATE r4
    SATURATE r5
    strh r2, [r7, #0]
    strh r3, [r7, #2]
    strh r4, [r7, #4]
    strh r5, [r7, #6]
    adds r7, #8
    LARGER r2
    ldr r6, [sp, #28]
    subs r6, #4
    str r6, [sp, #28]
    bcc 6f                      /* fewer than four slots are left */
    LARGER r3
    LARGER r4
    LARGER r5
    cmp r6, #0
    beq 7f
    ldr r6, [sp, #32]
    adds r1, r1, r6
    b 3b
6:  adds r6, #2                 /* one slot: -1, two: 0, three: 1 */
    bmi 7f
    LARGER r3
    cmp r6, #0
    beq 7f
    LARGER r4
7:  mov r0, lr
    add sp, #36
    pop {r4-r7}
    mov r8, r4
    mov r9, r5
    mov r10, r6
    mov r11, r7
    pop {r4-r7, pc}
    .size mg_scores_v6m, . - mg_scores_v6m
