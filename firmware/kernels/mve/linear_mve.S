/* Matrix times vectors on Armv8.1-M with vectors of integers (MVE). Contracts: kernels_mve.h.
 *
 * 64 rows at a time: mg_gemv_..._mve leaves their accumulators on the stack, per block of eight rows the even ones
 * before the odd ones; an output stage brings them to the output's units. All of them are one routine that is spread
 * over files: they jump to each other and share this frame. Stack: 404 B, and 68 B more for int4 with group scales.
 *
 * Output stage: y = (acc * multiplier * peak + 2^(shift - 1)) >> shift. |acc| < 2^(shift - 1), so that
 * acc << (32 - shift) fits 32 bits, and y is the rounded upper word of its product with multiplier * peak <= 2^30:
 * |y| <= 2^29. Peaks and multipliers are unsigned halfwords: a peak may be 2^15. */
    .syntax unified
    .thumb

    .equ ACC, 0                     /* accumulators of 64 rows */
    .equ GEMV, 256                  /* the routine that makes them */
    .equ OUTPUT, 260                /* and the one that takes them */
    .equ Y, 264                     /* of the first row to come */
    .equ RESIDUAL, 268
    .equ X, 272
    .equ SCALE, 276
    .equ TOKENS, 280                /* left */
    .equ W, 284
    .equ MULTIPLIER, 288            /* of the first row to come */
    .equ ROWS, 292                  /* left */
    .equ PEAK, 296
    .equ UP, 300                    /* 32 - shift */
    .equ FRAME, 304

.macro FUNCTION name
    .section .text.\name, "ax", %progbits
    .balign 4
    .global \name
    .type \name, %function
\name:
.endm

/* y, x, scale, tokens, w */
.macro ENTER gemv, output
    push {r4-r11, lr}
    ldr r5, [sp, #36]
    ldr r6, =\gemv
    ldr r7, =\output
.endm

.macro LINEAR name, gemv, output
    FUNCTION \name
    ENTER \gemv, \output
    b mg_linear_mve
    .ltorg
    .size \name, . - \name
.endm

/* y, residual, x, scale, tokens, w */
.macro LINEAR_ADD name, gemv, output
    FUNCTION \name
    push {r4-r11, lr}
    mov r4, r1
    mov r1, r2
    mov r2, r3
    ldrd r3, r5, [sp, #36]
    ldr r6, =\gemv
    ldr r7, =\output
    b mg_linear_mve
    .ltorg
    .size \name, . - \name
.endm

/* As LINEAR and LINEAR_ADD, but the packing says which gemv it is: groups, or none. */
.macro LINEAR4 name, output
    LINEAR \name, mg_linear4_mve, \output
.endm

.macro LINEAR4_ADD name, output
    LINEAR_ADD \name, mg_linear4_mve, \output
.endm

    LINEAR mg_linear_s32_mve, mg_gemv_s8_mve, mg_output_s32_mve
    LINEAR mg_linear_column_s8_mve, mg_gemv_s8_mve, mg_output_s8_mve
    LINEAR_ADD mg_linear_add_s16_mve, mg_gemv_s8_mve, mg_output_add_s16_mve
    LINEAR4 mg_linear4_s16_mve, mg_output_s16_mve
    LINEAR4 mg_linear4_column_s8_mve, mg_output_s8_mve
    LINEAR4_ADD mg_linear4_add_s16_mve, mg_output_add_s16_mve

/* In place of a gemv: the one of a matrix of int4, with groups or without. Sets r8 to the sum of x. */
    FUNCTION mg_linear4_mve
    ldr r0, [sp, #SCALE]
    ldr r1, [sp, #W]
    ldr r8, [r0, #4]
    ldrd r2, r4, [r1, #20]          /* chunk, group */
    ldr r6, [r1, #12]               /* cols */
    cmp r4, #0
    it eq
    cmpeq r2, r6
    beq mg_gemv_s4_mve
    cmp r2, #32
    beq mg_gemv_s4_groups32_mve
    b mg_gemv_s4_groups64_mve
    .size mg_linear4_mve, . - mg_linear4_mve

    FUNCTION mg_linear_s16_mve
    ENTER mg_gemv_s8_mve, mg_output_s16_mve

/* r0 y   r1 x   r2 scale   r3 tokens   r4 residual   r5 w   r6 gemv   r7 output stage */
    .global mg_linear_mve
    .type mg_linear_mve, %function
mg_linear_mve:
    vpush {d8-d15}
    sub sp, sp, #FRAME
    strd r6, r7, [sp, #GEMV]
1:  strd r0, r4, [sp, #Y]           /* a token */
    strd r1, r2, [sp, #X]
    strd r3, r5, [sp, #TOKENS]
    mov r9, r1
    ldr r0, [r2]                    /* peak */
    ldm r5, {r3, r4, r10, r11, r12} /* codes, multiplier, rows, cols, shift */
    rsb r12, r12, #32
    add r7, r11, #15
    bic r7, r7, #15
    add r7, r7, r9
    strd r0, r12, [sp, #PEAK]
    strd r4, r10, [sp, #MULTIPLIER]
2:  sub r11, r10, #1                /* blocks of at most 64 rows */
    usat r11, #6, r11
    add r11, r11, #8
    lsr r11, r11, #3
    mov r5, sp
    bx r6

    .global mg_linear_finish_mve
    .type mg_linear_finish_mve, %function
mg_linear_finish_mve:
    ldrd r0, r1, [sp, #Y]
    ldrd r2, r6, [sp, #MULTIPLIER]
    ldrd r8, r10, [sp, #PEAK]
    subs r5, r6, #64                /* rows that remain after these */
    bhi 5f
3:  mov r4, sp
    vdup.16 q7, r8
    ldr r11, [sp, #OUTPUT]
    bx r11

    .global mg_linear_next_mve
    .type mg_linear_next_mve, %function
mg_linear_next_mve:
    cmp r5, #0
    bgt 6f
    ldrd r3, r5, [sp, #TOKENS]
    subs r3, r3, #1
    bne 7f
    add sp, sp, #FRAME
    vpop {d8-d15}
    pop {r4-r11, pc}

5:  movs r6, #64
    b 3b

6:  strd r0, r1, [sp, #Y]           /* more rows */
    strd r2, r5, [sp, #MULTIPLIER]
    mov r10, r5
    ldr r6, [sp, #GEMV]
    b 2b

7:  mov r4, r1                      /* another token: its x and scale follow */
    mov r1, r7
    ldr r2, [sp, #SCALE]
    add r2, r2, #8
    ldr r6, [sp, #GEMV]
    b 1b
    .ltorg
    .size mg_linear_s16_mve, . - mg_linear_s16_mve

/* Output stages.
 *
 *   in   r0 y   r1 residual   r2 multiplier   r4 acc   r6 rows, 1 to 64   r8 peak, in every lane of q7   r10 32 - shift
 *   out  r0, r1, r2 behind these rows; r3, r5, r7, r9 are kept */

/* q0, q1 = y of eight rows, the even and the odd ones. */
.macro SCALED
    vldrw.u32 q0, [r4], #16
    vldrw.u32 q1, [r4], #16
    vmullb.u16 q3, q2, q7
    vshl.s32 q0, r10
    vmullt.u16 q2, q2, q7
    vshl.s32 q1, r10
    vrmulh.s32 q0, q0, q3
    vrmulh.s32 q1, q1, q2
.endm

/* Interleave and saturate to halfwords. */
.macro NARROW
    vqmovnb.s32 q0, q0
    vqmovnt.s32 q0, q1
.endm

.macro EIGHT_S16
    vldrh.u16 q2, [r2], #16
    SCALED
    NARROW
    vstrh.16 q0, [r0], #16
.endm

    FUNCTION mg_output_s16_mve
    lsr r11, r6, #4
    wls lr, r11, 2f
1:  EIGHT_S16
    EIGHT_S16
    le lr, 1b
2:  lsls r12, r6, #28
    beq mg_linear_next_mve
    bpl 3f
    EIGHT_S16
3:  ands r6, r6, #7
    beq mg_linear_next_mve
    vctp.16 r6
    vpst
    vldrht.u16 q2, [r2]
    SCALED
    NARROW
    vpst
    vstrht.16 q0, [r0]
    add r0, r0, r6, lsl #1
    b mg_linear_next_mve
    .size mg_output_s16_mve, . - mg_output_s16_mve

/* y + residual cannot wrap: |y| <= 2^29. */
.macro ADD_RESIDUAL
    vmovlb.s16 q3, q2
    vmovlt.s16 q2, q2
    vadd.i32 q0, q0, q3
    vadd.i32 q1, q1, q2
.endm

    FUNCTION mg_output_add_s16_mve
    lsr r11, r6, #3
    wls lr, r11, 2f
1:  vldrh.u16 q2, [r2], #16
    SCALED
    vldrh.u16 q2, [r1], #16
    ADD_RESIDUAL
    NARROW
    vstrh.16 q0, [r0], #16
    le lr, 1b
2:  ands r6, r6, #7
    beq mg_linear_next_mve
    vctp.16 r6
    vpst
    vldrht.u16 q2, [r2]
    SCALED
    vpst
    vldrht.u16 q2, [r1]
    ADD_RESIDUAL
    NARROW
    vpst
    vstrht.16 q0, [r0]
    add r0, r0, r6, lsl #1
    add r1, r1, r6, lsl #1
    b mg_linear_next_mve
    .size mg_output_add_s16_mve, . - mg_output_add_s16_mve

    FUNCTION mg_output_s32_mve
    lsr r11, r6, #3
    wls lr, r11, 2f
1:  vldrh.u16 q2, [r2], #16
    SCALED
    vst20.32 {q0, q1}, [r0]
    vst21.32 {q0, q1}, [r0]!
    le lr, 1b
2:  ands r6, r6, #7
    beq mg_linear_next_mve
    vctp.16 r6
    vpst
    vldrht.u16 q2, [r2]
    SCALED
    vst20.32 {q0, q1}, [sp]         /* in order, where the accumulators were */
    vst21.32 {q0, q1}, [sp]
    mov r4, sp
    dls lr, r6
3:  ldr r11, [r4], #4
    str r11, [r0], #4
    le lr, 3b
    b mg_linear_next_mve
    .size mg_output_s32_mve, . - mg_output_s32_mve

/* y is a slot of a ring of columns [rows][16]: sixteen bytes from row to row. Saturation is symmetric. */
.macro CLAMP
    vmin.s16 q0, q0, q5
    vmax.s16 q0, q0, q6
.endm

    FUNCTION mg_output_s8_mve
    movs r11, #16
    movs r12, #0
    vidup.u16 q4, r12, #2           /* 0, 2, 4 .. 14 */
    vmul.i16 q4, q4, r11
    vshr.u16 q4, q4, #1             /* 0, 16, 32 .. 112 */
    vmov.i16 q5, #127
    vmvn.i16 q6, #126               /* -127 */
    lsr r11, r6, #3
    wls lr, r11, 2f
1:  vldrh.u16 q2, [r2], #16
    SCALED
    NARROW
    CLAMP
    vstrb.16 q0, [r0, q4]
    adds r0, r0, #128
    le lr, 1b
2:  ands r6, r6, #7
    beq mg_linear_next_mve
    vctp.16 r6
    vpst
    vldrht.u16 q2, [r2]
    SCALED
    NARROW
    CLAMP
    vpst
    vstrbt.16 q0, [r0, q4]
    b mg_linear_next_mve
    .size mg_output_s8_mve, . - mg_output_s8_mve
