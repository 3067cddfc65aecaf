/* uint32_t mg_weigh_v6m(int16_t *scores, int32_t length, int32_t best, const uint16_t *table);
 *
 * Replaces scores [length >= 1] by their weights table[best - score], 0 from 1024 on, and returns the sum of them,
 * below 2^25. scores: 4-byte aligned.
 *
 * r0 scores   r1 end of the pairs   r2 best   r3 table   r4, r5 two scores   r6 the sum   r7 1024 */
    .syntax unified
    .thumb
    .section .text.mg_weigh_v6m, "ax", %progbits
    .balign 4
    .global mg_weigh_v6m
    .type mg_weigh_v6m, %function

/* \score to its weight. */
.macro WEIGH score
    subs \score, r2, \score
    cmp \score, r7
    bhs 5f
    lsls \score, \score, #1
    ldrh \score, [r3, \score]
    adds r6, r6, \score
    b 6f
5:  movs \score, #0
6:
.endm

mg_weigh_v6m:
    push {r4-r7, lr}
    movs r6, #0
    movs r7, #1
    lsls r7, r7, #10
    lsrs r4, r1, #1
    mov r12, r1
    lsls r1, r4, #2
    adds r1, r1, r0
    cmp r0, r1
    beq 2f
1:  ldr r4, [r0]
    sxth r5, r4
    asrs r4, r4, #16
    WEIGH r5
    WEIGH r4
    strh r5, [r0, #0]
    strh r4, [r0, #2]
    adds r0, #4
    cmp r0, r1
    bne 1b
2:  mov r1, r12                 /* the last of an odd number */
    lsrs r1, r1, #1
    bcc 3f
    movs r1, #0
    ldrsh r4, [r0, r1]
    WEIGH r4
    strh r4, [r0]
3:  movs r0, r6
    pop {r4-r7, pc}
    .size mg_weigh_v6m, . - mg_weigh_v6m
