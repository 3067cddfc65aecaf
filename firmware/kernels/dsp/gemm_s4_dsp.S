/* const uint32_t *mg_gemm_s4_dsp(int32_t *acc, const int16_t *x, const uint32_t *w, int32_t cols, int32_t blocks,
 *                                const mg_scale_t *scale);
 *
 * acc [2][32] = int4 rows, four a block, times two vectors x [2][cols] with scale [2]; the rest as mg_gemv_s4_dsp. A
 * word and what is left of it serve both vectors: eleven instructions for sixteen products.
 *
 * r0 r2 x   r1 w   r3 word   r4-r7 rows 0-3, first vector   r8-r11 second vector   r12 lr two columns of each vector
 * The frame, which one LDM turns into the start of a block:
 *   sp + 0 both x, 8 four sums of each vector, 40 where to enter the loop, 44 end of the first x, 48 acc, 52 its end */
    .syntax unified
    .thumb
    .section .text.mg_gemm_s4_dsp, "ax", %progbits
    .balign 8
    .global mg_gemm_s4_dsp
    .type mg_gemm_s4_dsp, %function

.macro TWO_COLUMNS
    ldr r3, [r1], #4
    ldr r12, [r0], #4
    smlad r7, r3, r12, r7
    ldr lr, [r2], #4
    smlad r11, r3, lr, r11
    bic r3, r3, #0xF000F000
    smlad r6, r3, r12, r6
    smlad r10, r3, lr, r10
    bic r3, r3, #0x0F000F00
    smlad r5, r3, r12, r5
    smlad r9, r3, lr, r9
    bic r3, r3, #0x00F000F0
    smlad r4, r3, r12, r4
    smlad r8, r3, lr, r8
.endm

/* first * (1, 17, 273, 273) */
.macro SUMS first, second, third, fourth
    lsl \first, \first, #3
    rsb \first, \first, #0
    add \second, \first, \first, lsl #4
    add \third, \second, \first, lsl #8
    mov \fourth, \third
.endm

.macro DIGITS first, second, third, fourth
    sub \fourth, \fourth, \third
    sub \third, \third, \second
    sub \second, \second, \first
    asr \fourth, \fourth, #12
    asr \third, \third, #8
    asr \second, \second, #4
.endm

mg_gemm_s4_dsp:
    push {r4-r11, lr}
    ldrd r12, r4, [sp, #36]
    ldr r8, [r4, #12]           /* sums of the codes */
    ldr r4, [r4, #4]
    SUMS r4, r5, r6, r7
    SUMS r8, r9, r10, r11
    add r12, r0, r12, lsl #4    /* end of acc */
    push {r0, r12}
    mov r0, r1
    mov r1, r2
    add r2, r0, r3, lsl #1      /* end of the first x, where the second begins */
    ubfx r3, r3, #3, #1         /* 224 bytes of code for 8 columns */
    mov r12, #224
    adr lr, 2f
    mla r12, r3, r12, lr
    add r12, r12, #1            /* Thumb */
    mov lr, r2
    push {r0, r2, r4-r12, lr}
1:  ldm sp, {r0, r2, r4-r11, pc}
    .balign 4
2:
    .rept 8
    TWO_COLUMNS
    .endr
    ldr r3, [sp, #44]
    cmp r0, r3
    bne 2b
    ldrd r2, r3, [sp, #48]
    DIGITS r4, r5, r6, r7
    DIGITS r8, r9, r10, r11
    stm r2!, {r4-r7}
    str r2, [sp, #48]
    cmp r2, r3
    add r2, r2, #112
    stm r2, {r8-r11}
    bne 1b
    mov r0, r1
    add sp, sp, #56
    pop {r4-r11, pc}
    .size mg_gemm_s4_dsp, . - mg_gemm_s4_dsp
