/* const uint32_t *mg_gemm_s8_dsp(int32_t *acc, const int16_t *x, const uint32_t *w, int32_t cols, int32_t blocks,
 *                                const mg_scale_t *scale);
 *
 * acc [2][32] = int8 rows, four a block, times two vectors x [2][cols]; the rest as mg_gemv_s8_dsp. A word and the
 * codes that are left of it serve both vectors: five instructions for eight products. Two rows at a time, because
 * more sums would leave no registers to load pairs into: a block's words are passed over twice, every other four of
 * them each time. Loads and arithmetic stand beside multiplications, for a core that issues two instructions at once.
 *
 * r0 r2 x   r1 w   r3 end of x   r4 r5 lower and upper row, first vector   r6 r7 second vector   r8 r9 words
 * r10 r11 r12 lr four columns of each vector
 * The frame, which one LDM turns into the start of two rows:
 *   sp + 0 both x, 8 end of the first, 12 four zeros, 28 where to enter the loop, 32 acc, 36 end of acc,
 *   40 and 44 from the end of these words to the next ones, from the first and the second two rows of a block */
    .syntax unified
    .thumb
    .section .text.mg_gemm_s8_dsp, "ax", %progbits
    .balign 8
    .global mg_gemm_s8_dsp
    .type mg_gemm_s8_dsp, %function

.macro FOUR_COLUMNS step
    ldrd r8, r9, [r1], #\step
    ldrd r10, r11, [r0], #8
    smlad r5, r8, r10, r5
    ldrd r12, lr, [r2], #8
    smlad r7, r8, r12, r7
    sxtb16 r8, r8
    smlad r5, r9, r11, r5
    smlad r7, r9, lr, r7
    sxtb16 r9, r9
    smlad r4, r8, r10, r4
    smlad r6, r8, r12, r6
    smlad r4, r9, r11, r4
    smlad r6, r9, lr, r6
.endm

mg_gemm_s8_dsp:
    push {r4-r11, lr}
    ldr r9, [sp, #36]
    mov r8, r0
    add r9, r0, r9, lsl #4      /* end of acc */
    rsb r10, r3, #4
    lsl r10, r10, #2            /* 16 - 4 * cols */
    mvn r11, #15                /* -16 */
    mov r0, r1
    mov r1, r2
    add r2, r0, r3, lsl #1
    rsb r4, r3, #0              /* 104 bytes of code for 8 columns */
    ubfx r4, r4, #3, #2
    mov r5, #104
    adr r7, 2f
    mla r7, r4, r5, r7
    add r7, r7, #1              /* Thumb */
    mov r3, #0
    mov r4, #0
    mov r5, #0
    mov r6, #0
    push {r3-r11}
    mov r3, r2
    push {r0, r2, r3}
1:  ldm sp, {r0, r2-r7, pc}
    .balign 4
2:
    .rept 4
    FOUR_COLUMNS 8
    FOUR_COLUMNS 24
    .endr
    cmp r0, r3
    bne 2b
    ldrd r0, r2, [sp, #32]
    sub r5, r5, r4
    asr r5, r5, #8
    sub r7, r7, r6
    asr r7, r7, #8
    strd r6, r7, [r0, #128]
    strd r4, r5, [r0], #8
    str r0, [sp, #32]
    ldrd r8, r9, [sp, #40]
    add r1, r1, r8
    strd r9, r8, [sp, #40]
    cmp r0, r2
    bne 1b
    mov r0, r1
    add sp, sp, #48
    pop {r4-r11, pc}
    .size mg_gemm_s8_dsp, . - mg_gemm_s8_dsp
