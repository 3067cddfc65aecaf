/* The output stage of a matrix product: accumulators to the output's units, four rows at a time.
 *
 * void mg_finish_s16_v7m(void *y, const int32_t *acc, const int16_t *multiplier, int32_t rows, int32_t peak,
 *                        int32_t shift, const int16_t *residual);
 * void mg_finish_s32_v7m, mg_finish_s8_v7m, mg_finish_add_s16_v7m(...the same); only the last reads a residual.
 *
 * y = (acc * multiplier * peak + 2^(shift - 1)) >> shift, plus the residual, saturated; rows >= 1, 16 <= shift <= 32.
 * s8: all but every fourth value with the top bit turned over, as the ring of values has them.
 * |acc| < 2^(shift - 1), so that acc << (32 - shift) fits 32 bits and y is the rounded upper word of its product with
 * multiplier * peak <= 2^30: |y| <= 2^29, and no sum wraps.
 *
 * r0 y   r1 acc   r2 multiplier   r3 rows   r4 peak   r5 32 - shift   r6 residual, or 0x80
 * r7-r10 accumulators   r11 multiplier * peak, a residual   r12 lower word */
    .syntax unified
    .thumb

/* \acc = the product's rounded upper word. */
.macro ROW acc
    ldrsh r11, [r2], #2
    lsl \acc, \acc, r5
    mul r11, r11, r4
    smull r12, \acc, \acc, r11
    add \acc, \acc, r12, lsr #31
.endm

.macro STORE_S16 acc, fourth
    ssat \acc, #16, \acc
    strh \acc, [r0], #2
.endm

.macro STORE_SUM acc, fourth
    ldrsh r11, [r6], #2
    add \acc, \acc, r11
    STORE_S16 \acc, \fourth
.endm

.macro STORE_S32 acc, fourth
    str \acc, [r0], #4
.endm

.macro STORE_S8 acc, fourth
    ssat \acc, #8, \acc
    cmn \acc, #128
    it eq
    moveq \acc, #-127
    .if \fourth == 0
    eor \acc, \acc, r6
    .endif
    strb \acc, [r0], #1
.endm

/* A whole function: STORE of each row. */
.macro FINISH name, store
    .section .text.\name, "ax", %progbits
    .balign 4
    .global \name
    .type \name, %function
\name:
    push {r4-r11, lr}
    ldrd r4, r5, [sp, #36]
    .ifc \store, STORE_SUM
    ldr r6, [sp, #44]
    .endif
    .ifc \store, STORE_S8
    movs r6, #0x80
    .endif
    rsb r5, r5, #32
    subs r3, r3, #4
    blt 2f
1:  ldm r1!, {r7-r10}
    ROW r7
    ROW r8
    ROW r9
    ROW r10
    .ifc \store, STORE_S32
    stm r0!, {r7-r10}
    .else
    \store r7, 0
    \store r8, 0
    \store r9, 0
    \store r10, 1
    .endif
    subs r3, r3, #4
    bge 1b
2:  adds r3, r3, #4             /* the last one to three rows */
    beq 4f
3:  ldr r7, [r1], #4
    ROW r7
    \store r7, 0
    subs r3, r3, #1
    bne 3b
4:  pop {r4-r11, pc}
    .size \name, . - \name
.endm

    FINISH mg_finish_s16_v7m, STORE_S16
    FINISH mg_finish_s32_v7m, STORE_S32
    FINISH mg_finish_s8_v7m, STORE_S8
    FINISH mg_finish_add_s16_v7m, STORE_SUM
