/* The output stage of a matrix product: accumulators to the output's units, four rows at a time.
 *
 * void mg_finish_s16_dsp(void *y, const int32_t *acc, const int16_t *multiplier, int32_t rows, int32_t peak,
 *                        int32_t shift, const int16_t *residual);
 * and likewise mg_finish_s32_dsp, mg_finish_add_s16_dsp, which alone reads the residual, and mg_finish_s8_dsp
 * (matrix.h).
 *
 * y = (acc * multiplier * peak + 2^(shift - 1)) >> shift, plus the residual, saturated; rows >= 1, 16 <= shift <= 32.
 * |acc| < 2^(shift - 1), so that acc << (32 - shift) fits 32 bits and y is the rounded upper word of its product with
 * multiplier * peak <= 2^30: |y| <= 2^29, and no sum wraps. The peak is taken negative, because -2^15 fits a halfword
 * and 2^15 does not; SMMLSR takes that product from the residual, or from zero. Where peak << (32 - shift) is no more
 * than 2^15 itself, it is shifted once instead of all the accumulators.
 *
 * r0 y   r1 acc   r2 multiplier   r3 rows   r4 -peak   r5 what to shift acc by   r6 zero, or where the residual lies
 * r7-r10 accumulators   r11 multipliers   r12 a residual   lr multiplier * -peak */
    .syntax unified
    .thumb

.macro SHIFT reg, wanted
    .if \wanted
    lsl \reg, \reg, r5
    .endif
.endm

/* The rounded products of two rows, taken from zero. */
.macro TWO_ROWS first, second, shift
    ldr r11, [r2], #4
    smulbb lr, r11, r4
    SHIFT \first, \shift
    smultb r11, r11, r4
    SHIFT \second, \shift
    smmlsr \first, \first, lr, r6
    smmlsr \second, \second, r11, r6
.endm

/* The same, taken from the residual. */
.macro TWO_SUMS first, second, shift
    ldrsh r12, [r6], #2
    ldr r11, [r2], #4
    smulbb lr, r11, r4
    SHIFT \first, \shift
    smmlsr \first, \first, lr, r12
    ldrsh r12, [r6], #2
    smultb r11, r11, r4
    SHIFT \second, \shift
    smmlsr \second, \second, r11, r12
.endm

.macro STORE_S16
    ssat r7, #16, r7
    ssat r8, #16, r8
    ssat r9, #16, r9
    ssat r10, #16, r10
    strh r8, [r0, #2]
    strh r9, [r0, #4]
    strh r10, [r0, #6]
    strh r7, [r0], #8
.endm

/* Two rows as int8 in [-127, 127]: QSUB8 leaves -128 what it is, one below -127. */
.macro STORE_TWO_S8 first, second, offset
    ssat \first, #8, \first
    ssat \second, #8, \second
    pkhbt \first, \first, \second, lsl #16
    qsub8 \first, \first, r12
    uadd8 \first, \first, r12
    uxtb16 \first, \first
    orr \first, \first, \first, lsr #8
    strh \first, [r0, #\offset]
.endm

/* r5 = 0 where the peak is shifted instead. */
.macro BEGIN name
    .section .text.\name, "ax", %progbits
    .balign 4
    .global \name
    .type \name, %function
\name:
    push {r4-r11, lr}
    ldrd r4, r5, [sp, #36]
    rsb r5, r5, #32
    lsl r7, r4, r5              /* <= 2^31 */
    cmp r7, #1 << 15
    itt ls
    movls r4, r7
    movls r5, #0
    rsb r4, r4, #0
.endm

/* r7 = the rounded product of one row, taken from \from. */
.macro ONE_ROW from
    ldr r7, [r1], #4
    ldrsh r11, [r2], #2
    lsl r7, r7, r5
    smulbb r11, r11, r4
    smmlsr r7, r7, r11, \from
.endm

/* The loops of four rows, with or without a shift. */
.macro LOOPS rows, store
    subs r3, r3, #4
    blt 4f
    cmp r5, #0
    beq 3f
2:  ldm r1!, {r7-r10}
    \rows r7, r8, 1
    \rows r9, r10, 1
    \store
    subs r3, r3, #4
    bge 2b
    b 4f
3:  ldm r1!, {r7-r10}
    \rows r7, r8, 0
    \rows r9, r10, 0
    \store
    subs r3, r3, #4
    bge 3b
4:  adds r3, r3, #4             /* the last one to three rows */
    beq 6f
.endm

    BEGIN mg_finish_s16_dsp
    mov r6, #0
    LOOPS TWO_ROWS, STORE_S16
5:  ONE_ROW r6
    ssat r7, #16, r7
    strh r7, [r0], #2
    subs r3, r3, #1
    bne 5b
6:  pop {r4-r11, pc}
    .size mg_finish_s16_dsp, . - mg_finish_s16_dsp

.macro STORE_S32
    stm r0!, {r7-r10}
.endm

    BEGIN mg_finish_s32_dsp
    mov r6, #0
    LOOPS TWO_ROWS, STORE_S32
5:  ONE_ROW r6
    str r7, [r0], #4
    subs r3, r3, #1
    bne 5b
6:  pop {r4-r11, pc}
    .size mg_finish_s32_dsp, . - mg_finish_s32_dsp

    BEGIN mg_finish_add_s16_dsp
    ldr r6, [sp, #44]
    LOOPS TWO_SUMS, STORE_S16
5:  ldrsh r12, [r6], #2
    ONE_ROW r12
    ssat r7, #16, r7
    strh r7, [r0], #2
    subs r3, r3, #1
    bne 5b
6:  pop {r4-r11, pc}
    .size mg_finish_add_s16_dsp, . - mg_finish_add_s16_dsp

.macro STORE_S8
    STORE_TWO_S8 r7, r8, 0
    STORE_TWO_S8 r9, r10, 4
    add r0, r0, #8
.endm

    BEGIN mg_finish_s8_dsp
    mov r6, #0
    mov r12, #0x01010101
    LOOPS TWO_ROWS, STORE_S8
    ldm r1!, {r7-r8}            /* of an even number of channels, two are left */
    TWO_ROWS r7, r8, 1
    STORE_TWO_S8 r7, r8, 0
6:  pop {r4-r11, pc}
    .size mg_finish_s8_dsp, . - mg_finish_s8_dsp
