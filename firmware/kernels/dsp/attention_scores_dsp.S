/* Scores of attention: void mg_scores_of_two_dsp(void *scores, const int16_t *q, const int8_t *keys,
 *                                                const mg_heads_t *heads, int16_t *scratch);
 * and mg_scores_of_one_dsp (attention_dsp.h).
 *
 * SXTB16 makes of four keys the pairs 0, 2 and 1, 3, so q is taken in this order. SMMULR with 2^(32 - shift) shifts the
 * sum right, half up. |q . k| <= 256 * 2^15 * 127 < 2^30. */
    .syntax unified
    .thumb

    .equ LENGTH, 0
    .equ STRIDE, 4
    .equ HEAD_DIM, 8
    .equ SCALE, 12
    .equ LIMIT, 16

/* The words even, odd of four queries as pairs 0, 2 and 1, 3; \spare is lost. */
.macro IN_ORDER even, odd, spare
    mov \spare, \even
    pkhbt \even, \even, \odd, lsl #16
    pkhtb \odd, \odd, \spare, asr #16
.endm

/* ------------------------------------------------------------------------------------------------------------------
 * Two heads of eight: all of q stays in registers.
 *
 * Saturation: by Cauchy and Schwarz (q . k)^2 <= sum(q^2) * 8 * 127^2. With sum(q^2) * 8 at most 2^(2 * shift + 16),
 * the limit, |q . k| <= 2^shift * 32512: rounded, it fits int16. There is a loop for this, and one that saturates.
 *
 * r0 keys   r1 scores   r4-r7 first head   r8-r11 second head   r2 r3 keys of a slot   r12 lr sums
 * The frame: sp + 0 scale, 4 stride, 8 end of scores */
    .section .text.mg_scores_of_two_dsp, "ax", %progbits
    .balign 4
    .global mg_scores_of_two_dsp
    .type mg_scores_of_two_dsp, %function

/* 19 instructions, 76 bytes; with saturation 21, 84 bytes. */
.macro SLOT_OF_EIGHT saturate
    ldrd r2, r3, [r0]
    sxtb16 r12, r2
    smuad lr, r12, r4
    smuad r12, r12, r8
    sxtb16 r2, r2, ror #8
    smlad lr, r2, r5, lr
    smlad r12, r2, r9, r12
    sxtb16 r2, r3
    smlad lr, r2, r6, lr
    smlad r12, r2, r10, r12
    sxtb16 r3, r3, ror #8
    smlad lr, r3, r7, lr
    smlad r12, r3, r11, r12
    ldrd r2, r3, [sp]
    smmulr lr, lr, r2
    smmulr r12, r12, r2
    .if \saturate
    ssat lr, #16, lr
    ssat r12, #16, r12
    .endif
    add.w r0, r0, r3
    pkhbt r12, lr, r12, lsl #16
    str r12, [r1], #4
.endm

mg_scores_of_two_dsp:
    push {r4-r11, lr}
    ldr r12, [r3, #HEAD_DIM]
    cmp r12, #8
    bne 6f
    ldm r1, {r4-r11}
    sub sp, sp, #16
    mov r1, r0
    mov r0, r2
    mov r12, #0
    mov lr, #0
    .irp word, r4, r5, r6, r7, r8, r9, r10, r11
    smlald r12, lr, \word, \word
    .endr
    IN_ORDER r4, r5, r2
    IN_ORDER r6, r7, r2
    IN_ORDER r8, r9, r2
    IN_ORDER r10, r11, r2
    ldr r2, [r3, #LIMIT]
    cmp r2, r12
    ldr r12, [r3, #LIMIT + 4]
    sbcs r12, r12, lr           /* carry: sum <= limit */
    ldr r2, [r3, #LENGTH]
    add lr, r1, r2, lsl #2
    str lr, [sp, #8]
    ldr r12, [r3, #SCALE]
    ldr r3, [r3, #STRIDE]
    strd r12, r3, [sp]
    rsb r2, r2, #0              /* enter so that the last turn of the loop is a whole one */
    and r2, r2, #3
    blo 4f
    mov r3, #76
    adr r12, 3f
    mla r12, r2, r3, r12
    add r12, r12, #1            /* Thumb */
    bx r12
    .balign 4
3:  .rept 4
    SLOT_OF_EIGHT 0
    .endr
    ldr r2, [sp, #8]
    cmp r1, r2
    bne 3b
    add sp, sp, #16
    pop {r4-r11, pc}
4:  mov r3, #84
    adr r12, 5f
    mla r12, r2, r3, r12
    add r12, r12, #1            /* Thumb */
    bx r12
    .balign 4
5:  .rept 4
    SLOT_OF_EIGHT 1
    .endr
    ldr r2, [sp, #8]
    cmp r1, r2
    bne 5b
    add sp, sp, #16
    pop {r4-r11, pc}

/* ------------------------------------------------------------------------------------------------------------------
 * Two heads of any multiple of eight, two slots at a time: first q in order, the heads side by side, into scratch.
 *
 * r0 keys   r1 q   r2 stride   r3 keys   r4 r5 first slot, either head   r6 r7 second slot   r8-r11 q   r12 end of q
 * lr keys
 * The frame, which one LDM turns into the start of two slots: sp + 0 q, 4 four zeros, 20 end of q, 24 where to enter
 * the loop, 28 scale, 32 scores, 36 end of scores, 40 from the end of these keys to the next ones */

/* Four columns of two slots: 15 instructions, 60 bytes. */
.macro FOUR_OF_TWO
    ldm r1!, {r8-r11}
    ldr.w r3, [r0, r2]
    sxtb16 lr, r3
    smlad r6, lr, r8, r6
    smlad r7, lr, r10, r7
    sxtb16 r3, r3, ror #8
    smlad r6, r3, r9, r6
    smlad r7, r3, r11, r7
    ldr r3, [r0], #4
    sxtb16 lr, r3
    smlad r4, lr, r8, r4
    smlad r5, lr, r10, r5
    sxtb16 r3, r3, ror #8
    smlad r4, r3, r9, r4
    smlad r5, r3, r11, r5
.endm

6:  sub sp, sp, #44
    ldr r11, [sp, #80]          /* scratch */
    strd r11, r0, [sp, #28]
    mov r0, r2                  /* keys */
    mov r10, r12
    add r2, r1, r12, lsl #1     /* the second head's q */
7:  ldrd r4, r5, [r1], #8
    ldrd r6, r7, [r2], #8
    IN_ORDER r4, r5, r8
    IN_ORDER r6, r7, r8
    stm r11!, {r4-r7}
    subs r10, r10, #4
    bne 7b
    ldrd r4, r2, [r3, #LENGTH]  /* and stride */
    ldrd r5, r6, [r3, #HEAD_DIM]    /* and scale */
    ldrd r1, r7, [sp, #28]      /* scratch, scores */
    add r8, r7, r4, lsl #2      /* end of scores */
    rsb r9, r5, r2, lsl #1      /* from the end of these keys to the next ones */
    strd r6, r7, [sp, #28]
    strd r8, r9, [sp, #36]
    rsb r5, r5, #0              /* 60 bytes for 4 columns; 16 columns are a turn of the loop */
    and r5, r5, #8
    mov r6, #15
    adr r12, 9f
    mla r12, r5, r6, r12
    add r12, r12, #1            /* Thumb */
    mov r5, #0
    mov r6, #0
    mov r7, #0
    mov r8, #0
    mov lr, sp
    stm lr, {r1, r5-r8, r11, r12}
    cmp r4, #1
8:  it eq                       /* a single slot goes in as both */
    moveq r2, #0
    ldm sp, {r1, r4-r7, r12, pc}
    .balign 4
9:
    .rept 4
    FOUR_OF_TWO
    .endr
    cmp r1, r12
    bne 9b
    ldrd r3, r8, [sp, #28]
    ldrd r9, r10, [sp, #36]
    .irp sum, r4, r5, r6, r7
    smmulr \sum, \sum, r3
    ssat \sum, #16, \sum
    .endr
    pkhbt r4, r4, r5, lsl #16
    pkhbt r6, r6, r7, lsl #16
    strd r4, r6, [r8], #8
    str r8, [sp, #32]
    add r0, r0, r10
    subs r9, r9, r8
    ble 10f
    cmp r9, #4
    b 8b
10: add sp, sp, #44
    pop {r4-r11, pc}
    .size mg_scores_of_two_dsp, . - mg_scores_of_two_dsp

/* ------------------------------------------------------------------------------------------------------------------
 * One head, two slots at a time.
 *
 * r0 r2 keys of either slot   r1 q   r4 r5 sums   r3 r6 lr keys   r8-r11 q   r12 end of q   r7 stride
 * The frame, which one LDM turns into the start of two slots: sp + 0 q, 4 two zeros, 12 end of q, 16 where to enter
 * the loop, 20 scale, 24 scores, 28 end of scores, 32 from the end of these keys to the next ones */
    .section .text.mg_scores_of_one_dsp, "ax", %progbits
    .balign 4
    .global mg_scores_of_one_dsp
    .type mg_scores_of_one_dsp, %function

/* Eight columns of two slots: 19 instructions, 76 bytes. */
.macro EIGHT_OF_ONE
    ldm r1!, {r8-r11}
    ldrd r3, r6, [r0], #8
    sxtb16 lr, r3
    smlad r4, lr, r8, r4
    sxtb16 r3, r3, ror #8
    smlad r4, r3, r9, r4
    sxtb16 lr, r6
    smlad r4, lr, r10, r4
    sxtb16 r6, r6, ror #8
    smlad r4, r6, r11, r4
    ldrd r3, r6, [r2], #8
    sxtb16 lr, r3
    smlad r5, lr, r8, r5
    sxtb16 r3, r3, ror #8
    smlad r5, r3, r9, r5
    sxtb16 lr, r6
    smlad r5, lr, r10, r5
    sxtb16 r6, r6, ror #8
    smlad r5, r6, r11, r5
.endm

mg_scores_of_one_dsp:
    push {r4-r11, lr}
    ldr r11, [sp, #36]          /* scratch */
    ldr r10, [r3, #HEAD_DIM]
1:  ldrd r4, r5, [r1], #8
    IN_ORDER r4, r5, r8
    strd r4, r5, [r11], #8
    subs r10, r10, #4
    bne 1b
    mov r8, r0                  /* scores */
    mov r0, r2                  /* keys */
    ldrd r2, r7, [r3, #LENGTH]  /* and stride */
    ldrd r5, r6, [r3, #HEAD_DIM]    /* and scale */
    sub r1, r11, r5, lsl #1     /* q in order */
    add r9, r8, r2, lsl #1      /* end of scores */
    rsb r10, r5, r7, lsl #1     /* from the end of these keys to the next ones */
    push {r6, r8-r10}
    rsb r5, r5, #0              /* 76 bytes for 8 columns; 16 columns are a turn of the loop */
    ubfx r5, r5, #3, #1
    mov r6, #76
    adr r12, 3f
    mla r12, r5, r6, r12
    add r12, r12, #1            /* Thumb */
    mov r5, #0
    mov r6, #0
    push {r1, r5, r6, r11, r12}
    cmp r2, #1
2:  it eq                       /* a single slot goes in as both */
    moveq r7, #0
    add r2, r0, r7
    ldm sp, {r1, r4, r5, r12, pc}
    .balign 4
3:
    EIGHT_OF_ONE
    EIGHT_OF_ONE
    cmp r1, r12
    bne 3b
    ldrd r3, r8, [sp, #20]
    ldrd r9, r10, [sp, #28]
    .irp sum, r4, r5
    smmulr \sum, \sum, r3
    ssat \sum, #16, \sum
    .endr
    pkhbt r4, r4, r5, lsl #16
    str r4, [r8], #4
    str r8, [sp, #24]
    add r0, r0, r10
    subs r9, r9, r8
    ble 5f
    cmp r9, #2
    b 2b
5:  add sp, sp, #36
    pop {r4-r11, pc}
    .size mg_scores_of_one_dsp, . - mg_scores_of_one_dsp
