/* void mg_block_s8_dsp(int16_t *codes, mg_scale_t *scale, const int16_t *x, int32_t n);
 *
 * reciprocal = (127 << 23) / peak, code = (x * reciprocal + 2^22) >> 23. SMLAWB drops the lower 16 bits of the
 * product, and 2^22 is 64 * 2^16: ((x * reciprocal >> 16) + 64) >> 7 is the same. codes are padded with zeros to a
 * multiple of 8.
 *
 * r0 codes   r1 scale   r2 x   r3 what is left of n   r6-r9 words of x, two each   r12 scratch
 * First r4 r5 the largest and the smallest of either half, 0 among them; r10 n, r11 x.
 * Then r4 reciprocal, r5 64, r10 sum, r11 a pair of ones, lr scratch */
    .syntax unified
    .thumb
    .section .text.mg_block_s8_dsp, "ax", %progbits
    .balign 4
    .global mg_block_s8_dsp
    .type mg_block_s8_dsp, %function

.macro EXTREMES word
    ssub16 r12, \word, r4
    sel r4, \word, r4
    ssub16 r12, r5, \word
    sel r5, \word, r5
.endm

/* Halves of a word to codes, and their sum. */
.macro CODES word
    smlawb r12, r4, \word, r5
    smlawt lr, r4, \word, r5
    asr r12, r12, #7
    pkhbt \word, r12, lr, lsl #9
    smlad r10, \word, r11, r10
.endm

mg_block_s8_dsp:
    push {r1, r4-r11, lr}
    mov r10, r3
    mov r11, r2
    mov r4, #0
    mov r5, #0
    subs r3, r3, #8
    blt 2f
1:  ldm r2!, {r6-r9}
    EXTREMES r6
    EXTREMES r7
    EXTREMES r8
    EXTREMES r9
    subs r3, r3, #8
    bge 1b
2:  tst r3, #4                  /* of a multiple of eight, now less than it */
    beq 3f
    ldm r2!, {r6, r7}
    EXTREMES r6
    EXTREMES r7
3:  ands r3, r3, #3
    beq 5f
4:  ldrsh r6, [r2], #2          /* the last one to three: as both halves */
    pkhbt r6, r6, r6, lsl #16
    EXTREMES r6
    subs r3, r3, #1
    bne 4b

5:  sxth r6, r4                 /* peak, at least 1 */
    asr r4, r4, #16
    cmp r6, r4
    it lt
    movlt r6, r4
    sxth r7, r5
    asr r5, r5, #16
    cmp r7, r5
    it gt
    movgt r7, r5
    rsb r7, r7, #0
    cmp r6, r7
    it lt
    movlt r6, r7
    cmp r6, #1
    it lt
    movlt r6, #1
    str r6, [r1]
    mov r4, #0x3F800000         /* 127 << 23 */
    udiv r4, r4, r6
    mov r5, #64
    mov r2, r11
    mov r3, r10
    mov r10, #0
    mov r11, #0x00010001
    subs r3, r3, #8
    blt 7f
6:  ldm r2!, {r6-r9}
    CODES r6
    CODES r7
    CODES r8
    CODES r9
    stm r0!, {r6-r9}
    subs r3, r3, #8
    bge 6b
7:  adds r3, r3, #8
    beq 11f
    rsb r8, r3, #8              /* zeros to write */
    subs r3, r3, #4
    blt 8f
    ldm r2!, {r6, r7}
    CODES r6
    CODES r7
    stm r0!, {r6, r7}
8:  ands r3, r3, #3
    beq 10f
9:  ldrsh r6, [r2], #2
    smlawb r12, r4, r6, r5
    asr r12, r12, #7
    strh r12, [r0], #2
    add r10, r10, r12
    subs r3, r3, #1
    bne 9b
10: strh r3, [r0], #2
    subs r8, r8, #1
    bne 10b
11: pop {r1, r4-r9}
    str r10, [r1, #4]
    pop {r10, r11, pc}
    .size mg_block_s8_dsp, . - mg_block_s8_dsp
