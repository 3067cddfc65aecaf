/* uint64_t mg_squares_v7m(const int16_t *x, int32_t n, uint64_t total);
 *
 * total + the sum of squares of x [n], n >= 1.
 *
 * r1 n   r2, r3 the sum   r4 of x   r12 x */
    .syntax unified
    .thumb
    .section .text.mg_squares_v7m, "ax", %progbits
    .balign 4
    .global mg_squares_v7m
    .type mg_squares_v7m, %function

.macro SQUARE
    ldrsh r4, [r12], #2
    smlal r2, r3, r4, r4
.endm

mg_squares_v7m:
    push {r4, lr}
    mov r12, r0
    subs r1, r1, #4
    blt 2f
1:  SQUARE
    SQUARE
    SQUARE
    SQUARE
    subs r1, r1, #4
    bge 1b
2:  adds r1, r1, #4
    beq 4f
3:  SQUARE
    subs r1, r1, #1
    bne 3b
4:  mov r0, r2
    mov r1, r3
    pop {r4, pc}
    .size mg_squares_v7m, . - mg_squares_v7m

/* void mg_normalise_v7m(int16_t *y, const int16_t *x, const int16_t *gain, int32_t n, int32_t reciprocal,
 *                       int32_t shift);
 *
 * y [n] = (x * gain * reciprocal + 2^(shift - 1)) >> shift, saturated; reciprocal <= 2^16, 18 <= shift <= 62, n >= 1.
 *
 * Up to 32, reciprocal << (32 - shift) <= 2^30, and y is the product's rounded upper word. Beyond, 2^(shift - 1) is a
 * multiple of 2^32, and y the upper word itself, shifted by the rest; |upper word| <= 2^14.
 *
 * r0 y   r1 x   r2 gain   r3 n   r4 reciprocal   r5 shift - 32   r6, r7 pieces   r8 2^(shift - 33) */
    .section .text.mg_normalise_v7m, "ax", %progbits
    .balign 4
    .global mg_normalise_v7m
    .type mg_normalise_v7m, %function

.macro ONE
    ldrsh r6, [r1], #2
    ldrsh r7, [r2], #2
    mul r6, r6, r7
    smull r7, r6, r6, r4
    add r6, r6, r7, lsr #31
    ssat r6, #16, r6
    strh r6, [r0], #2
.endm

mg_normalise_v7m:
    push {r4-r8, lr}
    ldrd r4, r5, [sp, #24]
    subs r5, r5, #32
    bgt 5f
    rsb r5, r5, #0
    lsl r4, r4, r5
    subs r3, r3, #4
    blt 2f
1:  ONE
    ONE
    ONE
    ONE
    subs r3, r3, #4
    bge 1b
2:  adds r3, r3, #4
    beq 4f
3:  ONE
    subs r3, r3, #1
    bne 3b
4:  pop {r4-r8, pc}
5:  movs r8, #1
    lsl r8, r8, r5
    lsr r8, r8, #1
6:  ldrsh r6, [r1], #2
    ldrsh r7, [r2], #2
    mul r6, r6, r7
    smull r7, r6, r6, r4
    add r6, r6, r8
    asr r6, r6, r5
    ssat r6, #16, r6
    strh r6, [r0], #2
    subs r3, r3, #1
    bne 6b
    pop {r4-r8, pc}
    .size mg_normalise_v7m, . - mg_normalise_v7m
