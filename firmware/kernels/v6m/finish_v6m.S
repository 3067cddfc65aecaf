/* The output stage of a matrix product: accumulators to the output's units, four rows at a time.
 *
 * void mg_finish_s16_v6m(void *y, const int32_t *acc, const int16_t *multiplier, int32_t rows, int32_t peak,
 *                        int32_t shift, const int16_t *residual);
 * void mg_finish_s32_v6m, mg_finish_s8_v6m, mg_finish_add_s16_v6m(...the same); only the last reads a residual.
 *
 * y = (acc * multiplier * peak + 2^(shift - 1)) >> shift, plus the residual, saturated; rows >= 1, 16 <= shift <= 32.
 * s8: all but every fourth value with the top bit turned over, as the ring of values has them.
 *
 * |acc| < 2^(shift - 1), so that acc << (32 - shift) fits 32 bits and y is the rounded upper word of its product with
 * multiplier * peak <= 2^30: |y| <= 2^29. In pieces, exactly, multiplier < 2^15 and peak <= 2^15:
 *   acc * multiplier = H * 2^16 + L    H = acc's upper half * multiplier + (lower half * multiplier >> 16), < 2^30
 *   H * peak = h * 2^16 + l            from the halves of H
 *   y = h + ((l + (L * peak >> 16) + 2^15) >> 16)    the sum is at most (2^16 - 1) * 2^15 + 2^15 + 2^15 < 2^32
 *
 * r0 y   r1 acc   r2 multiplier   r3 a multiplier   r4-r6 pieces   r7 peak
 * r8 2^15   r9 32 - shift   r10 end of the fours of acc   r11 residual   r12 rows after them */
    .syntax unified
    .thumb

/* r5 = the product's rounded upper word, for row \at of the four. */
.macro ROW at
    ldrh r3, [r2, #2 * \at]
    ldmia r1!, {r4}
    mov r6, r9
    lsls r4, r4, r6
    asrs r5, r4, #16
    uxth r4, r4
    muls r5, r3, r5
    muls r4, r3, r4
    lsrs r6, r4, #16
    adds r5, r5, r6             /* H */
    uxth r4, r4                 /* L */
    muls r4, r7, r4
    lsrs r4, r4, #16
    uxth r6, r5
    asrs r5, r5, #16
    muls r6, r7, r6             /* l */
    muls r5, r7, r5             /* h */
    adds r6, r6, r4
    add r6, r8
    lsrs r6, r6, #16
    adds r5, r5, r6
.endm

.macro STORE_S16 at
    sxth r6, r5
    cmp r6, r5
    beq 6f
    asrs r5, r5, #31
    mov r6, r8
    subs r6, #1
    eors r5, r5, r6
6:  strh r5, [r0, #2 * \at]
.endm

.macro STORE_SUM at
    mov r6, r11
    ldrh r6, [r6, #2 * \at]
    sxth r6, r6
    adds r5, r5, r6             /* |sum| <= 2^29 + 2^15 */
    STORE_S16 \at
.endm

.macro STORE_S32 at
    str r5, [r0, #4 * \at]
.endm

.macro STORE_S8 at
    movs r6, #127
    adds r6, r6, r5
    cmp r6, #254
    bls 6f
    asrs r6, r5, #31
    movs r5, #127
    eors r5, r5, r6
    subs r5, r5, r6
6:
    .if \at < 3
    movs r6, #128
    eors r5, r5, r6
    .endif
    strb r5, [r0, #\at]
.endm

.macro NEXT bytes, rows, residual
    adds r0, #\bytes * \rows
    adds r2, #2 * \rows
    .if \residual
    movs r3, #2 * \rows
    add r11, r3
    .endif
.endm

/* A whole function: STORE of each row, \bytes wide. */
.macro FINISH name, store, bytes, residual
    .section .text.\name, "ax", %progbits
    .balign 4
    .global \name
    .type \name, %function
\name:
    push {r4-r7, lr}
    mov r4, r8
    mov r5, r9
    mov r6, r10
    mov r7, r11
    push {r4-r7}
    movs r4, #1
    lsls r4, r4, #15
    mov r8, r4
    ldr r7, [sp, #36]
    ldr r4, [sp, #40]
    movs r5, #32
    subs r5, r5, r4
    mov r9, r5
    .if \residual
    ldr r4, [sp, #44]
    mov r11, r4
    .endif
    lsrs r4, r3, #2
    lsls r4, r4, #2
    subs r3, r3, r4
    mov r12, r3
    lsls r4, r4, #2
    adds r4, r4, r1
    mov r10, r4
    cmp r1, r10
    bne 1f
    b 2f
1:  ROW 0
    \store 0
    ROW 1
    \store 1
    ROW 2
    \store 2
    ROW 3
    \store 3
    NEXT \bytes, 4, \residual
    cmp r1, r10
    beq 2f
    b 1b
2:  mov r3, r12
    cmp r3, #0
    beq 4f
3:  ROW 0
    \store 0
    NEXT \bytes, 1, \residual
    mov r3, r12
    subs r3, #1
    mov r12, r3
    bne 3b
4:  pop {r4-r7}
    mov r8, r4
    mov r9, r5
    mov r10, r6
    mov r11, r7
    pop {r4-r7, pc}
    .size \name, . - \name
.endm

    FINISH mg_finish_s16_v6m, STORE_S16, 2, 0
    FINISH mg_finish_s32_v6m, STORE_S32, 4, 0
    FINISH mg_finish_s8_v6m, STORE_S8, 1, 0
    FINISH mg_finish_add_s16_v6m, STORE_SUM, 2, 1
