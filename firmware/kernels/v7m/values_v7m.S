/* void mg_values_v7m(int16_t *out, const int8_t *values, const int16_t *weights, const int32_t *shape);
 * void mg_values4_v7m(...the same);
 * void mg_values_pair_v7m(...the same, int16_t *out_of_second);
 *
 * out = the sum over slots of weight * value, divided by the sum of the weights, in Q8: of two neighbouring words of
 * four channels with weights [slots] (out [8]); of one word (out [4]); of one word with weights [slots][2] of two
 * query heads (out [4], and [4] of the second). values: the first slot's word; weights in [0, 2^15). shape: slots >=
 * 1, bytes from slot to slot; the weights' total and its reciprocal, for the pair of both heads. A total has 11 to 25
 * bits, and the reciprocal is 2^31 / its mantissa in [2^15, 2^16), rounded down, times 2^(25 - bits), at most 2^30:
 * out is the rounded upper word of sum * reciprocal, and |out| <= 127 * 2^8 * (1 + 2^-15) + 1 < 2^15.
 *
 * A word W = 2^24 v3 + 2^16 (v2 + 128) + 2^8 (v1 + 128) + (v0 + 128). Sums of the weight times W >> 24, W >> 16, W >>
 * 8 and W, modulo 2^32: each less 2^8 times the one before is the sum of weight * (v + 128), or of weight * v for the
 * first, modulo 2^32; the sums start from what takes the 128 off, and |sum| <= total * 127 < 2^31.
 *
 * r0 values   r1 weights   r2 a weight   r3 of the second head, or the first word   r12 the word, or the second
 * lr bytes from slot to slot   r4-r7 the sums of channels 0-3   r8-r11 of the second head, or word
 * The frame: sp + 0 end of weights, 4 out, 8 reciprocal, 12 of the second; the caller's out_of_second is at 52. */
    .syntax unified
    .thumb

/* \word times \weight to the sums. */
.macro WORD word, weight, s0, s1, s2, s3
    mla \s0, \word, \weight, \s0
    asr \word, \word, #8
    mla \s1, \word, \weight, \s1
    asr \word, \word, #8
    mla \s2, \word, \weight, \s2
    asr \word, \word, #8
    mla \s3, \word, \weight, \s3
.endm

.macro SLOT_1                   /* 38 bytes of code */
    ldr r12, [r0]
    add r0, r0, lr
    ldrh r2, [r1], #2
    WORD r12, r2, r4, r5, r6, r7
.endm

.macro SLOT_2                   /* 66 */
    ldrd r3, r12, [r0]
    add r0, r0, lr
    ldrh r2, [r1], #2
    WORD r3, r2, r4, r5, r6, r7
    WORD r12, r2, r8, r9, r10, r11
.endm

.macro SLOT_PAIR                /* 56 */
    ldr r12, [r0]
    add r0, r0, lr
    ldrh r3, [r1, #2]
    ldrh r2, [r1], #4
    mla r4, r12, r2, r4
    mla r8, r12, r3, r8
    asr r12, r12, #8
    mla r5, r12, r2, r5
    mla r9, r12, r3, r9
    asr r12, r12, #8
    mla r6, r12, r2, r6
    mla r10, r12, r3, r10
    asr r12, r12, #8
    mla r7, r12, r2, r7
    mla r11, r12, r3, r11
.endm

/* Where the sums of a word start from, for the total in \total. */
.macro START total, s0, s1, s2, s3
    lsl \total, \total, #7
    rsb \s2, \total, #0
    sub \s1, \s2, \total, lsl #8
    rsb \s0, \total, \s1, lsl #8
    mov \s3, #0
.endm

/* The four sums to out at r0, with the reciprocal in r2. r3 changes. */
.macro STORE s0, s1, s2, s3
    sub \s0, \s0, \s1, lsl #8
    sub \s1, \s1, \s2, lsl #8
    sub \s2, \s2, \s3, lsl #8
    .irp s, \s0, \s1, \s2, \s3
    smull r3, \s, \s, r2
    add \s, \s, r3, lsr #31
    strh \s, [r0], #2
    .endr
.endm

/* kind: 1 one word, 2 two words, 3 a pair of heads; code: bytes of a slot. */
.macro VALUES name, kind, code
    .section .text.\name, "ax", %progbits
    .balign 4
    .global \name
    .type \name, %function
\name:
    push {r4-r11, lr}
    sub sp, sp, #16
    str r0, [sp, #4]
    mov r0, r1
    mov r1, r2
    ldrd r12, lr, [r3], #8
    .if \kind == 3
    ldm r3, {r4, r6, r8, r9}    /* totals and reciprocals, the first head's before the second's */
    strd r6, r9, [sp, #8]
    add r2, r1, r12, lsl #2
    START r8, r8, r9, r10, r11
    .else
    ldm r3, {r4, r6}
    str r6, [sp, #8]
    add r2, r1, r12, lsl #1
    .endif
    str r2, [sp, #0]
    START r4, r4, r5, r6, r7
    .if \kind == 2
    mov r8, r4
    mov r9, r5
    mov r10, r6
    mov r11, r7
    .endif
    rsb r12, r12, #0            /* enter the loop of four slots where only slots modulo 4 are left of it */
    and r12, r12, #3
    adr r2, 2f
    mov r3, #\code
    mla r2, r12, r3, r2
    add r2, r2, #1              /* Thumb */
    bx r2
    .balign 4
2:
    .rept 4
    .if \kind == 1
    SLOT_1
    .elseif \kind == 2
    SLOT_2
    .else
    SLOT_PAIR
    .endif
    .endr
    ldr r2, [sp, #0]
    cmp r1, r2
    bne 2b
    ldrd r0, r2, [sp, #4]
    STORE r4, r5, r6, r7
    .if \kind == 3
    ldr r0, [sp, #52]
    ldr r2, [sp, #12]
    .endif
    .if \kind > 1
    STORE r8, r9, r10, r11
    .endif
    add sp, sp, #16
    pop {r4-r11, pc}
    .size \name, . - \name
.endm

    VALUES mg_values4_v7m, 1, 38
    VALUES mg_values_v7m, 2, 66
    VALUES mg_values_pair_v7m, 3, 56
