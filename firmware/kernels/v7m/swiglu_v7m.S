/* void mg_swiglu_s16_v7m(int16_t *y, const int16_t *gate, const int16_t *up, int32_t n, int32_t gate_frac,
 *                        int32_t shift);
 *
 * y [n] = silu(gate) * up >> shift, n >= 1, 1 <= shift <= 30; gate in Q(gate_frac), 4 <= gate_frac <= 11; y may be
 * gate.
 *
 * Within [-8, 8), z = (gate << k) + 2^14 with k = 11 - gate_frac lies in [0, 2^15): 64 steps of the table, of 2^9
 * each. What the interpolation rounds, step * (z modulo 2^9) / 2^9, is the same with all k zeros behind gate. Beyond,
 * z is 0 or 2^15 - 2^k, the last gate inside. |step * fraction| < 2^20; |gate * sigmoid| <= 2^30; |silu * up| <=
 * 2^30, plus half of 2^30: all below 2^31.
 *
 * r0 y   r1 gate   r2 up   r3 z   r4 k   r5 2^14   r6 2^(shift - 1)   r7 shift   r8 table   r9 table's second entry
 * r10 2^8   r11 a gate   r12, lr pieces
 * The frame: sp + 0 end of gate */
    .syntax unified
    .thumb
    .section .text.mg_swiglu_s16_v7m, "ax", %progbits
    .balign 4
    .global mg_swiglu_s16_v7m
    .type mg_swiglu_s16_v7m, %function

mg_swiglu_s16_v7m:
    push {r4-r11, lr}
    ldrd r4, r7, [sp, #36]
    add r3, r1, r3, lsl #1
    push {r3}
    rsb r4, r4, #11
    mov r5, #0x4000
    subs r6, r7, #1
    mov r12, #1
    lsl r6, r12, r6
    ldr r8, =mg_sigmoid_q15
    add r9, r8, #2
    mov r10, #256
1:  ldrsh r11, [r1], #2
    lsl r3, r11, r4
    add r3, r3, r5              /* z */
    lsrs r12, r3, #15
    bne 3f
2:  lsr r12, r3, #9
    ubfx r3, r3, #0, #9
    ldrh lr, [r9, r12, lsl #1]
    ldrh r12, [r8, r12, lsl #1]
    sub lr, lr, r12
    mla lr, lr, r3, r10
    ldrsh r3, [r2], #2
    add r12, r12, lr, asr #9    /* sigmoid, Q15 */
    mla r12, r12, r11, r5
    asr r12, r12, #15           /* silu, Q(gate_frac) */
    mla r12, r12, r3, r6
    ldr r3, [sp]
    asr r12, r12, r7
    ssat r12, #16, r12
    strh r12, [r0], #2
    cmp r1, r3
    bne 1b
    pop {r3, r4-r11, pc}
3:  mov r12, #1                 /* beyond the table */
    lsl r12, r12, r4
    cmp r11, #0
    ite lt
    movlt r3, #0
    rsbge r3, r12, #0x8000
    b 2b
    .size mg_swiglu_s16_v7m, . - mg_swiglu_s16_v7m
