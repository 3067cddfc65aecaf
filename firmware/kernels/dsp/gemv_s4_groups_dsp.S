/* const uint32_t *mg_gemv_s4_groups_dsp(int32_t *acc, const int16_t *x, const uint32_t *w, int32_t cols,
 *                                       int32_t blocks, const int32_t *records, int32_t add);
 *
 * acc [blocks][4] = int4 rows, with a scale for every 32 columns, times x [cols], or where add is 1, acc plus that;
 * cols a multiple of 8, blocks >= 1. Returns the end of the stream w: as that of mg_gemv_s4_dsp, with a word of four
 * int8 scales after every 32 columns and after the last, of rows 0, 2, 1, 3 from its lowest byte up. records: of x,
 * from mg_group_records_dsp.
 *
 * Digits as in gemv_s4_dsp.S. The sum S of 32 products is at most 32 * 8 * 127 < 2^15: of rows 0 and 1 it fits the
 * halfword that SMLABB multiplies by its scale. Of rows 2 and 3, SMLAWB adds (256 * S * (256 * scale)) >> 16. The sum
 * of those, a partial sum of acc, fits int32 (mg_linear_t).
 *
 * r0 x   r1 w   r2 r3 r12 lr eight columns of x   r4-r7 rows 0-3 of these 32 columns   r8-r11 words, then rows 0-3 of
 * all columns so far
 * The frame: sp + 0 rows 0-3 of all columns so far, 16 from x / 4 to its record, 20 where the last 32 columns begin,
 * 24 x, 28 where to enter them, 32 acc, 36 end of acc, 40 how to start a block */
    .syntax unified
    .thumb
    .section .text.mg_gemv_s4_groups_dsp, "ax", %progbits
    .balign 8
    .global mg_gemv_s4_groups_dsp
    .type mg_gemv_s4_groups_dsp, %function

.macro FOUR_ROWS word, x
    smlad r7, \word, \x, r7
    bic \word, \word, #0xF000F000
    smlad r6, \word, \x, r6
    bic \word, \word, #0x0F000F00
    smlad r5, \word, \x, r5
    bic \word, \word, #0x00F000F0
    smlad r4, \word, \x, r4
.endm

.macro EIGHT_COLUMNS
    ldm r0!, {r2, r3, r12, lr}
    ldm r1!, {r8-r11}
    FOUR_ROWS r8, r2
    FOUR_ROWS r9, r3
    FOUR_ROWS r10, r12
    FOUR_ROWS r11, lr
.endm

/* 32 columns begin; r2 from x / 4 to its record. */
.macro RECORD
    add r2, r2, r0, lsr #2
    ldm r2, {r4-r7}
.endm

mg_gemv_s4_groups_dsp:
    push {r4-r11, lr}
    ldrd r9, r4, [sp, #36]
    ldr r5, [sp, #44]
    sub sp, sp, #44
    add r9, r0, r9, lsl #4      /* end of acc */
    mov r8, r0
    sub r4, r4, r1, lsr #2
    sub r6, r3, #1
    lsr r6, r6, #5
    add r10, r1, r6, lsl #6     /* where the last 32 columns begin */
    rsb r3, r3, #0
    ubfx r3, r3, #3, #2         /* times eight columns that they have not: 120 bytes of code */
    mov r6, #120
    adr r7, 4f
    mla r7, r3, r6, r7
    add r7, r7, #1              /* Thumb */
    adr r6, 1f
    cmp r5, #0
    it ne
    addne r6, r6, #2f - 1f
    add r6, r6, #1
    strd r4, r10, [sp, #16]
    strd r1, r7, [sp, #24]
    strd r8, r9, [sp, #32]
    str r6, [sp, #40]
    mov r1, r2
    bx r6

    .balign 4
1:  mov.w r4, #0                /* a block of four rows, from nothing */
    strd r4, r4, [sp]
    strd r4, r4, [sp, #8]
    b.w 3f
2:  ldr r2, [sp, #32]           /* or from acc */
    ldm r2, {r4-r7}
    stm sp, {r4-r7}
3:  ldrd r2, r3, [sp, #16]
    ldr r0, [sp, #24]
    cmp r0, r3
    bhs 6f
5:  RECORD
    .balign 4
4:
    EIGHT_COLUMNS
    EIGHT_COLUMNS
    EIGHT_COLUMNS
    EIGHT_COLUMNS
    ldr r2, [r1], #4
    ldm sp, {r8-r11}
    sub r7, r7, r6
    sub r6, r6, r5
    sub r5, r5, r4
    asr r7, r7, #4
    asr r5, r5, #4
    sxtb16 r3, r2
    bic r2, r2, #0x00FF00FF
    smlabb r8, r4, r3, r8
    smlabt r9, r5, r3, r9
    smlawb r10, r6, r2, r10
    smlawt r11, r7, r2, r11
    stm sp, {r8-r11}
    ldrd r2, r3, [sp, #16]
    cmp r0, r3
    blo 5b
    bne 7f
6:  RECORD                      /* the last ones, up to 32 */
    ldr pc, [sp, #28]
7:  ldrd r2, r3, [sp, #32]
    stm r2!, {r8-r11}
    str r2, [sp, #32]
    cmp r2, r3
    it ne
    ldrne pc, [sp, #40]
    mov r0, r1
    add sp, sp, #44
    pop {r4-r11, pc}
    .size mg_gemv_s4_groups_dsp, . - mg_gemv_s4_groups_dsp

/* void mg_group_records_dsp(int32_t *records, const int16_t *x, int32_t cols);
 *
 * For every 32 columns what a block's sums start with: -8 * the sum of x, times 1, 17, 273 and 273.
 *
 * r0 records   r1 x   r2 columns that are left   r3 a pair of ones   r4-r7 words of x, then a record   r12 sum
 * lr times eight columns of this record that are left */
    .section .text.mg_group_records_dsp, "ax", %progbits
    .balign 4
    .global mg_group_records_dsp
    .type mg_group_records_dsp, %function
mg_group_records_dsp:
    push {r4-r7, lr}
    mov r3, #0x00010001
1:  mov r12, #0
    mov lr, #4
2:  ldm r1!, {r4-r7}
    smlad r12, r4, r3, r12
    smlad r12, r5, r3, r12
    smlad r12, r6, r3, r12
    smlad r12, r7, r3, r12
    subs r2, r2, #8
    beq 3f
    subs lr, lr, #1
    bne 2b
3:  lsl r12, r12, #3
    rsb r4, r12, #0
    add r5, r4, r4, lsl #4
    add r6, r5, r4, lsl #8
    mov r7, r6
    stm r0!, {r4-r7}
    cmp r2, #0
    bne 1b
    pop {r4-r7, pc}
    .size mg_group_records_dsp, . - mg_group_records_dsp
