/* Weighted sums of values: void mg_average_two_dsp(int16_t *out, const void *weights, const int8_t *values,
 *                                                  const mg_heads_t *heads, const int32_t *factor);
 * and mg_average_one_dsp (attention_dsp.h).
 *
 * A word of values has two slots of two channels: SXTB16 makes it the pair of slots of the even channel and, turned by
 * eight bits, of the odd one; SMLAD takes either times the weights of the two slots. |sum| <= total * 127 < 2^31.
 *
 * The frame, which one LDM turns into the start of some channels: sp + 0 weights, 4 values, 8 eight zeros, 40 where to
 * enter the loop, 44 bytes to the next pair of slots, 48 end of weights, 52 factor, or both, 60 out, 64 end of out,
 * 68 bytes of a head of out */
    .syntax unified
    .thumb

    .equ LENGTH, 0
    .equ STRIDE, 4
    .equ HEAD_DIM, 8

/* The frame; \shift: log2 of the bytes of weights for two slots; \bytes of code for two slots. */
.macro BEGIN entry, shift, bytes
    push {r4-r11, lr}
    sub sp, sp, #72
    ldrd r4, r5, [r3, #LENGTH]  /* and stride */
    ldr r6, [r3, #HEAD_DIM]
    ldr r7, [sp, #108]          /* factor */
    lsl r5, r5, #1
    add r4, r4, #1
    lsr r4, r4, #1              /* pairs of slots */
    add r8, r1, r4, lsl #\shift
    lsl r9, r6, #1              /* bytes of a head of out */
    str r9, [sp, #68]
    add r6, r0, r9              /* end of out */
    strd r0, r6, [sp, #60]
    ldr r9, [r7]
    strd r8, r9, [sp, #48]
    rsb r4, r4, #0
    and r4, r4, #3
    mov r6, #\bytes
    adr r9, \entry
    mla r4, r4, r6, r9
    add r4, r4, #1              /* Thumb */
    strd r4, r5, [sp, #40]
    mov r4, #0
    mov r5, #0
    mov r6, #0
    mov r12, #0
    mov lr, sp
    stm lr!, {r1, r2, r4-r6, r12}
    stm lr!, {r4-r6, r12}
.endm

/* Two heads, four channels at a time.
 *
 * r0 weights   r1 values   r2 r3 weights of either head   r4-r7 sums of the first head   r8-r11 of the second
 * r12 lr values */
    .section .text.mg_average_two_dsp, "ax", %progbits
    .balign 4
    .global mg_average_two_dsp
    .type mg_average_two_dsp, %function

/* 17 instructions, 68 bytes. */
.macro PAIR_OF_TWO
    ldrd r2, r3, [r0], #8
    ldr r12, [r1]
    sxtb16 lr, r12
    smlad r4, lr, r2, r4
    smlad r8, lr, r3, r8
    sxtb16 r12, r12, ror #8
    smlad r5, r12, r2, r5
    smlad r9, r12, r3, r9
    ldr r12, [r1, #4]
    sxtb16 lr, r12
    smlad r6, lr, r2, r6
    smlad r10, lr, r3, r10
    sxtb16 r12, r12, ror #8
    smlad r7, r12, r2, r7
    smlad r11, r12, r3, r11
    ldr r12, [sp, #44]
    add.w r1, r1, r12
.endm

mg_average_two_dsp:
    BEGIN 2f, 3, 68
    ldr r7, [r7, #4]
    str r7, [sp, #56]
1:  ldm sp, {r0, r1, r4-r11, pc}
    .balign 4
2:
    PAIR_OF_TWO
    PAIR_OF_TWO
    PAIR_OF_TWO
    PAIR_OF_TWO
    ldr r12, [sp, #48]
    cmp r0, r12
    bne 2b
    ldrd r2, r3, [sp, #52]
    ldrd r0, r1, [sp, #60]
    .irp sum, r4, r5, r6, r7
    smmulr \sum, \sum, r2
    ssat \sum, #16, \sum
    .endr
    .irp sum, r8, r9, r10, r11
    smmulr \sum, \sum, r3
    ssat \sum, #16, \sum
    .endr
    pkhbt r4, r4, r5, lsl #16
    pkhbt r6, r6, r7, lsl #16
    pkhbt r8, r8, r9, lsl #16
    pkhbt r10, r10, r11, lsl #16
    ldr r2, [sp, #68]           /* bytes to the second head */
    add r2, r2, r0
    strd r8, r10, [r2]
    strd r4, r6, [r0], #8
    str r0, [sp, #60]
    ldr r2, [sp, #4]
    add r2, r2, #8
    str r2, [sp, #4]
    cmp r0, r1
    bne 1b
    add sp, sp, #72
    pop {r4-r11, pc}
    .size mg_average_two_dsp, . - mg_average_two_dsp

/* One head, eight channels at a time.
 *
 * r0 weights   r1 values   r2 weights   r3 r12 lr values   r4-r11 sums */
    .section .text.mg_average_one_dsp, "ax", %progbits
    .balign 4
    .global mg_average_one_dsp
    .type mg_average_one_dsp, %function

/* 21 instructions, 84 bytes. */
.macro PAIR_OF_ONE
    ldr r2, [r0], #4
    ldrd r3, r12, [r1]
    sxtb16 lr, r3
    smlad r4, lr, r2, r4
    sxtb16 r3, r3, ror #8
    smlad r5, r3, r2, r5
    sxtb16 lr, r12
    smlad r6, lr, r2, r6
    sxtb16 r12, r12, ror #8
    smlad r7, r12, r2, r7
    ldrd r3, r12, [r1, #8]
    sxtb16 lr, r3
    smlad r8, lr, r2, r8
    sxtb16 r3, r3, ror #8
    smlad r9, r3, r2, r9
    sxtb16 lr, r12
    smlad r10, lr, r2, r10
    sxtb16 r12, r12, ror #8
    smlad r11, r12, r2, r11
    ldr r12, [sp, #44]
    add.w r1, r1, r12
.endm

mg_average_one_dsp:
    BEGIN 2f, 2, 84
1:  ldm sp, {r0, r1, r4-r11, pc}
    .balign 4
2:
    PAIR_OF_ONE
    PAIR_OF_ONE
    PAIR_OF_ONE
    PAIR_OF_ONE
    ldr r12, [sp, #48]
    cmp r0, r12
    bne 2b
    ldr r2, [sp, #52]
    ldrd r0, r1, [sp, #60]
    .irp sum, r4, r5, r6, r7, r8, r9, r10, r11
    smmulr \sum, \sum, r2
    ssat \sum, #16, \sum
    .endr
    pkhbt r4, r4, r5, lsl #16
    pkhbt r5, r6, r7, lsl #16
    pkhbt r6, r8, r9, lsl #16
    pkhbt r7, r10, r11, lsl #16
    stm r0!, {r4-r7}
    str r0, [sp, #60]
    ldr r2, [sp, #4]
    add r2, r2, #16
    str r2, [sp, #4]
    cmp r0, r1
    bne 1b
    add sp, sp, #72
    pop {r4-r11, pc}
    .size mg_average_one_dsp, . - mg_average_one_dsp
