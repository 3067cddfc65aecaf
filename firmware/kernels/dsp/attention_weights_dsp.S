/* Softmax without its division: void mg_weigh_two_dsp(void *scores, int32_t length, int32_t drop, uint32_t *total);
 * and mg_weigh_one_dsp (attention_dsp.h).
 *
 * The distance best - score is in [0, 2^16): modulo 2^16 it is exact. UQSUB16 makes of it 1024 - distance, or 0 beyond
 * the table of weights, which begins with nothing for that reason. Slots that are there only to make a whole number of
 * words get a score at a distance of 2^15.
 *
 * r0 words of scores   r1 half of 2^drop   r2 best, in both halves   r3 table   r4 1024, twice   r5 a pair of ones
 * r6 r7 totals   r8 r9 two words   r10 r11 scratch   r12 end   lr drop
 * The frame: sp + 0 drop, 4 total */
    .syntax unified
    .thumb

/* r2 = the largest of either half of the words from r0 to r8; what follows up to a multiple of eight words is lost. */
.macro LARGEST
    push {r2, r3}
    mov r2, #0x80008000         /* no score is less */
    mov r1, r8
    sub r3, r8, r0
1:  tst r3, #28
    beq 2f
    str r2, [r1], #4
    add r3, r3, #4
    b 1b
2:  mov r3, r0
3:  ldm r3!, {r4-r7, r9-r11, lr}
    .irp word, r4, r5, r6, r7, r9, r10, r11, lr
    ssub16 r12, \word, r2
    sel r2, \word, r2
    .endr
    cmp r3, r1
    bne 3b
.endm

/* Everything but r0, r2; the loop at \plain, or the one at \dropped where bits are to be dropped, is entered so that
 * its last turn is a whole one. r8 end. */
.macro BEGIN plain, dropped, bytes, dropped_bytes
    mov r12, r8
    sub r8, r8, r0
    rsb r8, r8, #0
    ubfx r8, r8, #3, #2
    ldr r3, =mg_exp2_reversed_q15
    mov r4, #0x04000400
    mov r5, #0x00010001
    mov r6, #0
    mov r7, #0
    ldr lr, [sp]
    mov r1, #1
    lsl r1, r1, lr
    lsr r1, r1, #1
    mov r9, #\bytes
    adr r10, \plain
    cmp lr, #0
    beq 1f
    mov r9, #\dropped_bytes
    adr r10, \dropped
1:  mla r8, r8, r9, r10
    add r8, r8, #1              /* Thumb */
    bx r8
.endm

/* r10 r8, r11 r9: the weights of the halves of two words; 13 instructions. */
.macro LOOK_UP
    ldrd r8, r9, [r0]
    usub16 r8, r2, r8
    usub16 r9, r2, r9
    uqsub16 r8, r4, r8
    uqsub16 r9, r4, r9
    uxth r10, r8
    lsr r8, r8, #16
    uxth r11, r9
    lsr r9, r9, #16
    ldrh r10, [r3, r10, lsl #1]
    ldrh r8, [r3, r8, lsl #1]
    ldrh r11, [r3, r11, lsl #1]
    ldrh r9, [r3, r9, lsl #1]
.endm

/* 8 instructions. */
.macro DROP
    .irp weight, r8, r9, r10, r11
    add.w \weight, \weight, r1
    lsr \weight, \weight, lr
    .endr
.endm

/* 5 instructions: two slots of the first head, two of the second. */
.macro TWO_HEADS
    pkhbt r10, r10, r11, lsl #16
    pkhbt r8, r8, r9, lsl #16
    smlad r6, r10, r5, r6
    smlad r7, r8, r5, r7
    strd r10, r8, [r0], #8
.endm

/* 5 instructions: four slots. */
.macro ONE_HEAD
    pkhbt r10, r10, r8, lsl #16
    pkhbt r11, r11, r9, lsl #16
    smlad r6, r10, r5, r6
    smlad r7, r11, r5, r7
    strd r10, r11, [r0], #8
.endm

    .section .text.mg_weigh_two_dsp, "ax", %progbits
    .balign 4
    .global mg_weigh_two_dsp
    .type mg_weigh_two_dsp, %function
mg_weigh_two_dsp:
    push {r4-r11, lr}
    add r8, r0, r1, lsl #2
    push {r1}
    LARGEST
    ldr r1, [sp, #8]
    tst r1, #1
    itt ne
    eorne r1, r2, #0x80008000
    strne r1, [r8], #4
    BEGIN 4f, 5f, 72, 104
    .balign 4
4:  .rept 4
    LOOK_UP
    TWO_HEADS
    .endr
    cmp r0, r12
    bne 4b
    b 6f
    .balign 4
5:  .rept 4
    LOOK_UP
    DROP
    TWO_HEADS
    .endr
    cmp r0, r12
    bne.w 5b
6:  ldr r0, [sp, #4]
    strd r6, r7, [r0]
    add sp, sp, #12
    pop {r4-r11, pc}
    .ltorg
    .size mg_weigh_two_dsp, . - mg_weigh_two_dsp

    .section .text.mg_weigh_one_dsp, "ax", %progbits
    .balign 4
    .global mg_weigh_one_dsp
    .type mg_weigh_one_dsp, %function
mg_weigh_one_dsp:
    push {r4-r11, lr}
    add r8, r1, #1
    bic r8, r8, #1
    add r8, r0, r8, lsl #1
    push {r1}
    LARGEST                     /* of the halves; an odd length has a score twice */
    asr r1, r2, #16
    sxth r2, r2
    cmp r1, r2
    it gt
    movgt r2, r1
    pkhbt r2, r2, r2, lsl #16
    eor r3, r2, #0x80008000
    ldr r1, [sp, #8]
    tst r1, #1
    it ne
    strhne r3, [r8, #-2]
    sub r1, r8, r0
    tst r1, #4
    it ne
    strne r3, [r8], #4
    BEGIN 4f, 5f, 72, 104
    .balign 4
4:  .rept 4
    LOOK_UP
    ONE_HEAD
    .endr
    cmp r0, r12
    bne 4b
    b 6f
    .balign 4
5:  .rept 4
    LOOK_UP
    DROP
    ONE_HEAD
    .endr
    cmp r0, r12
    bne.w 5b
6:  ldr r0, [sp, #4]
    add r6, r6, r7
    str r6, [r0]
    add sp, sp, #12
    pop {r4-r11, pc}
    .ltorg
    .size mg_weigh_one_dsp, . - mg_weigh_one_dsp
