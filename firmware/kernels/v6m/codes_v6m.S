/* int32_t mg_peak_v6m(const int16_t *x, int32_t n);
 *
 * The largest |x|, at least 1; n >= 1, x 4-byte aligned.
 *
 * -peak <= x <= peak is one unsigned comparison of x + peak with 2 * peak.
 * r0 x   r1 end of the pairs   r2 peak   r3 2 * peak   r4, r5 two of x   r6 x + peak */
    .syntax unified
    .thumb
    .section .text.mg_peak_v6m, "ax", %progbits
    .balign 4
    .global mg_peak_v6m
    .type mg_peak_v6m, %function

.macro INCLUDE x
    adds r6, \x, r2
    cmp r6, r3
    bls 5f
    asrs r2, \x, #31
    eors \x, \x, r2
    subs r2, \x, r2
    lsls r3, r2, #1
5:
.endm

mg_peak_v6m:
    push {r4-r6, lr}
    movs r2, #1
    movs r3, #2
    lsrs r4, r1, #1
    mov r12, r1
    lsls r1, r4, #2
    adds r1, r1, r0
    b 2f
1:  ldmia r0!, {r4}
    sxth r5, r4
    asrs r4, r4, #16
    INCLUDE r5
    INCLUDE r4
2:  cmp r0, r1
    bne 1b
    mov r1, r12                 /* the last of an odd number */
    lsrs r1, r1, #1
    bcc 3f
    movs r1, #0
    ldrsh r4, [r0, r1]
    INCLUDE r4
3:  movs r0, r2
    pop {r4-r6, pc}
    .size mg_peak_v6m, . - mg_peak_v6m

/* int32_t mg_codes_v6m(uint8_t *codes, const int16_t *x, int32_t n, int32_t reciprocal);
 *
 * codes [n] = ((x * reciprocal + 2^22) >> 23) + 128, and their sum; n >= 1, x 4-byte aligned. |x * reciprocal| <=
 * 127 * 2^23, so that with 128 * 2^23 in the same addition the number is positive and below 255 * 2^23 + 2^22 < 2^31.
 *
 * r0 codes   r1 x   r2 the sum   r3 reciprocal   r4, r5 two of x   r6 end of the pairs   r7 128 * 2^23 + 2^22 */
    .section .text.mg_codes_v6m, "ax", %progbits
    .balign 4
    .global mg_codes_v6m
    .type mg_codes_v6m, %function

.macro CODE x
    muls \x, r3, \x
    adds \x, \x, r7
    lsrs \x, \x, #23
    adds r2, r2, \x
.endm

mg_codes_v6m:
    push {r4-r7, lr}
    ldr r7, =0x40400000
    mov r12, r2
    lsrs r6, r2, #1
    lsls r6, r6, #2
    adds r6, r6, r1
    movs r2, #0
    b 2f
1:  ldmia r1!, {r4}
    sxth r5, r4
    asrs r4, r4, #16
    CODE r5
    strb r5, [r0, #0]
    CODE r4
    strb r4, [r0, #1]
    adds r0, #2
2:  cmp r1, r6
    bne 1b
    mov r6, r12                 /* the last of an odd number */
    lsrs r6, r6, #1
    bcc 3f
    movs r6, #0
    ldrsh r4, [r1, r6]
    CODE r4
    strb r4, [r0]
3:  movs r0, r2
    pop {r4-r7, pc}
    .size mg_codes_v6m, . - mg_codes_v6m
