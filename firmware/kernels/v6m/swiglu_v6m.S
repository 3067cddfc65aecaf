/* void mg_swiglu_s16_v6m(int16_t *y, const int16_t *gate, const int16_t *up, int32_t n, int32_t gate_frac,
 *                        int32_t shift);
 *
 * y [n] = silu(gate) * up >> shift, 1 <= shift <= 30; gate in Q(gate_frac), 4 <= gate_frac <= 11; y may be gate.
 *
 * Within [-8, 8), z = (gate << k) + 2^14 with k = 11 - gate_frac lies in [0, 2^15): 64 steps of the table, of 2^9
 * each. What the interpolation rounds, step * (z modulo 2^9) / 2^9, is the same with all k zeros behind gate. Beyond,
 * z is 0 or 2^15 - 2^k, the last gate inside. |step * fraction| < 2^20; |gate * sigmoid| <= 2^30; |silu * up| <=
 * 2^30, plus half of 2^30: all below 2^31.
 *
 * r1 gate   r2 up   r3 a gate   r4, r5, r0 pieces   r6 k   r7 at, in bytes
 * r8 2^14   r9 2^(shift - 1)   r10 shift   r11 table   r12 y   lr end of at */
    .syntax unified
    .thumb
    .section .text.mg_swiglu_s16_v6m, "ax", %progbits
    .balign 4
    .global mg_swiglu_s16_v6m
    .type mg_swiglu_s16_v6m, %function

mg_swiglu_s16_v6m:
    push {r4-r7, lr}
    mov r4, r8
    mov r5, r9
    mov r6, r10
    mov r7, r11
    push {r4-r7}
    mov r12, r0
    lsls r3, r3, #1
    mov lr, r3
    ldr r4, [sp, #36]
    movs r6, #11
    subs r6, r6, r4
    ldr r4, [sp, #40]
    mov r10, r4
    subs r4, #1
    movs r5, #1
    lsls r5, r4
    mov r9, r5
    movs r4, #1
    lsls r4, r4, #14
    mov r8, r4
    ldr r4, =mg_sigmoid_q15
    mov r11, r4
    movs r7, #0
1:  ldrsh r3, [r1, r7]
    movs r5, r3
    lsls r5, r6
    add r5, r8                  /* z */
    lsrs r4, r5, #15
    bne 4f
2:  lsrs r4, r5, #9
    lsls r5, r5, #23
    lsrs r5, r5, #23            /* z modulo 2^9 */
    lsls r4, r4, #1
    add r4, r11
    ldrh r0, [r4, #0]
    ldrh r4, [r4, #2]
    subs r4, r4, r0
    muls r4, r5, r4
    adds r4, #128
    adds r4, #128
    asrs r4, r4, #9
    adds r4, r4, r0             /* sigmoid, Q15 */
    muls r4, r3, r4
    add r4, r8
    asrs r4, r4, #15            /* silu, Q(gate_frac) */
    ldrsh r5, [r2, r7]
    muls r4, r5, r4
    add r4, r9
    mov r5, r10
    asrs r4, r5
    sxth r5, r4
    cmp r5, r4
    bne 5f
3:  mov r5, r12
    strh r4, [r5, r7]
    adds r7, #2
    cmp r7, lr
    bne 1b
    pop {r4-r7}
    mov r8, r4
    mov r9, r5
    mov r10, r6
    mov r11, r7
    pop {r4-r7, pc}
4:  movs r5, #0                 /* beyond the table */
    cmp r3, #0
    blt 2b
    movs r4, #1
    lsls r4, r6
    mov r5, r8
    lsls r5, r5, #1
    subs r5, r5, r4
    b 2b
5:  asrs r4, r4, #31
    ldr r5, =0x7FFF
    eors r4, r4, r5
    b 3b
    .size mg_swiglu_s16_v6m, . - mg_swiglu_s16_v6m
