/* void mg_weigh_v7m(uint32_t *total, int16_t *scores, int32_t pairs, const int32_t *best, const uint16_t *table);
 *
 * Replaces scores [pairs][2] by their weights table[best - score], 0 from 1024 on; total [2] = the sums of both
 * columns, below 2^25; pairs >= 1. scores: 4-byte aligned.
 *
 * r0, r6 totals   r1 scores   r2 end of scores   r3, r7 best   r4, r5 two scores   r12 table   lr 1024 */
    .syntax unified
    .thumb
    .section .text.mg_weigh_v7m, "ax", %progbits
    .balign 4
    .global mg_weigh_v7m
    .type mg_weigh_v7m, %function

mg_weigh_v7m:
    push {r0, r4-r7, lr}
    ldr r12, [sp, #24]
    add r2, r1, r2, lsl #2
    ldrd r3, r7, [r3]
    movs r0, #0
    movs r6, #0
    mov lr, #1024
1:  ldr r4, [r1]
    sxth r5, r4
    subs r5, r3, r5
    sub r4, r7, r4, asr #16
    cmp r5, lr
    bhs 4f
    ldrh r5, [r12, r5, lsl #1]
2:  cmp r4, lr
    bhs 5f
    ldrh r4, [r12, r4, lsl #1]
3:  add r0, r0, r5
    add r6, r6, r4
    orr r5, r5, r4, lsl #16
    str r5, [r1], #4
    cmp r1, r2
    bne 1b
    pop {r1}
    strd r0, r6, [r1]
    pop {r4-r7, pc}
4:  movs r5, #0
    b 2b
5:  movs r4, #0
    b 3b
    .size mg_weigh_v7m, . - mg_weigh_v7m
