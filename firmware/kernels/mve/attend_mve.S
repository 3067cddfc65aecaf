/* The loops of attention.c. Eight sums are held at a time, in r0, r2, r4, r6 and r8, r10, r12, lr: of four slots, or
 * four channels, of two heads, or of eight of one. Layouts of the rings: kernels_mve.h. */
    .syntax unified
    .thumb

.macro FUNCTION name
    .section .text.\name, "ax", %progbits
    .balign 4
    .global \name
    .type \name, %function
\name:
.endm

/* ---- Scores: round(q . key / 2^shift), saturated to int16; |q . key| <= 2^30, so that no sum wraps.
 *
 * void mg_score_octet_mve(int16_t *scores, int32_t row, const int16_t *q, const mg_keys_t *head, int32_t fours);
 * void mg_score_two_mve(the same);
 * void mg_score_one_mve(int16_t *scores, int32_t row, const int16_t *q, const mg_keys_t *head, int32_t eights);
 *
 * Of four or eight slots at a time, rounded up. The first two serve two heads: the second's q lies head_bytes and its
 * scores lie row bytes behind. mg_score_octet_mve: a head is one octet of channels. */
    .equ KEYS, 0                    /* mg_keys_t */
    .equ UNIT, 4
    .equ OCTETS, 8
    .equ DOWN, 12
    .equ HEAD_BYTES, 16

    .equ LEFT, 32                   /* behind the sums on the stack: slots left, in fours or eights */
    .equ NEXT_UNIT, 36
    .equ Q, 40
    .equ SLOTS, 44                  /* the first key of these slots, */
    .equ SCORES, 48                 /* and their scores, of both heads */
    .equ HEAD, 56
    .equ NOW, 60                    /* left in this unit */
    .equ FRAME, 64

/* q0 and q1 = the scores of the sums on the stack; r11 is -shift. */
.macro ROUND_SCORES
    vldrw.u32 q0, [r5]
    vldrw.u32 q1, [r5, #16]
    vrshl.s32 q0, r11
    vrshl.s32 q1, r11
    vqmovnb.s32 q0, q0
    vqmovnb.s32 q1, q1
.endm

/* r1 keys   r3, r7 scores of both heads   r5 sums   r9 fours left in this unit   r11 -shift   q4, q5 queries */
    FUNCTION mg_score_octet_mve
    push {r4-r11, lr}
    ldr r4, [sp, #36]
    vpush {d8-d11}
    sub sp, sp, #FRAME
    vldrh.u16 q4, [r2]
    vldrh.u16 q5, [r2, #16]
    add r7, r0, r1
    ldr r11, [r3, #DOWN]
    ldrd r1, r2, [r3, #KEYS]        /* and unit */
    sub r2, r2, #128
    str r2, [sp, #NEXT_UNIT]
    mov r5, sp
    mov r3, r0
1:  subs r0, r4, #4                 /* a unit */
    str r0, [sp, #LEFT]
    ite hi
    movhi r9, #4
    movls r9, r4
2:  vldrb.s16 q0, [r1], #8          /* four slots */
    vldrb.s16 q1, [r1], #8
    vmladav.s16 r0, q0, q4
    vldrb.s16 q2, [r1], #8
    vmladav.s16 r8, q0, q5
    vldrb.s16 q3, [r1], #8
    vmladav.s16 r2, q1, q4
    vmladav.s16 r10, q1, q5
    vmladav.s16 r4, q2, q4
    vmladav.s16 r12, q2, q5
    vmladav.s16 r6, q3, q4
    vmladav.s16 lr, q3, q5
    stm r5, {r0, r2, r4, r6, r8, r10, r12, lr}
    ROUND_SCORES
    subs r9, r9, #1
    vstrh.32 q0, [r3], #8
    vstrh.32 q1, [r7], #8
    bne 2b
    ldrd r4, r0, [sp, #LEFT]
    add r1, r1, r0
    cmp r4, #0
    bgt 1b
    add sp, sp, #FRAME
    vpop {d8-d11}
    pop {r4-r11, pc}
    .size mg_score_octet_mve, . - mg_score_octet_mve

/* r1 keys   r3, r9 q of both heads   r5 sums   r7 octets left   r11 -shift */
.macro OCTET_OF_TWO mla
    vldrh.u16 q4, [r3], #16
    vldrh.u16 q5, [r9], #16
    vldrb.s16 q0, [r1]
    vldrb.s16 q1, [r1, #8]
    \mla r0, q0, q4
    \mla r8, q0, q5
    vldrb.s16 q2, [r1, #16]
    \mla r2, q1, q4
    \mla r10, q1, q5
    vldrb.s16 q3, [r1, #24]
    \mla r4, q2, q4
    \mla r12, q2, q5
    add r1, r1, #128
    \mla r6, q3, q4
    \mla lr, q3, q5
.endm

.macro OCTET_OF_ONE mla
    vldrh.u16 q4, [r3], #16
    vldrb.s16 q0, [r1]
    vldrb.s16 q1, [r1, #8]
    \mla r0, q0, q4
    vldrb.s16 q2, [r1, #16]
    \mla r2, q1, q4
    vldrb.s16 q3, [r1, #24]
    \mla r4, q2, q4
    vldrb.s16 q0, [r1, #32]
    \mla r6, q3, q4
    vldrb.s16 q1, [r1, #40]
    \mla r8, q0, q4
    vldrb.s16 q2, [r1, #48]
    \mla r10, q1, q4
    vldrb.s16 q3, [r1, #56]
    \mla r12, q2, q4
    add r1, r1, #128
    \mla lr, q3, q4
.endm

/* two: 1 or 0; steps: fours or eights of slots in a unit; slot_bytes: of that many slots of an octet */
.macro SCORE_WIDE octet, two, steps, slot_bytes
    push {r4-r11, lr}
    ldr r4, [sp, #36]
    vpush {d8-d11}
    sub sp, sp, #FRAME
    add r1, r0, r1
    strd r0, r1, [sp, #SCORES]
    str r3, [sp, #HEAD]
    ldr r1, [r3, #KEYS]
    strd r2, r1, [sp, #Q]           /* and slots */
    ldr r2, [r3, #UNIT]
    sub r2, r2, #128
    str r2, [sp, #NEXT_UNIT]
    mov r5, sp
1:  subs r0, r4, #\steps            /* a unit */
    str r0, [sp, #LEFT]
    it hi
    movhi r4, #\steps
    str r4, [sp, #NOW]
2:  ldrd r3, r1, [sp, #Q]           /* some slots */
    ldr r11, [sp, #HEAD]
    .if \two
    ldr r9, [r11, #HEAD_BYTES]
    add r9, r3, r9
    .endif
    ldrd r7, r11, [r11, #OCTETS]    /* and -shift */
    \octet vmladav.s16
    subs r7, r7, #1
    beq 4f
3:  \octet vmladava.s16
    subs r7, r7, #1
    bne 3b
4:  stm r5, {r0, r2, r4, r6, r8, r10, r12, lr}
    ROUND_SCORES
    ldrd r0, r2, [sp, #SCORES]
    vstrh.32 q0, [r0], #8
    .if \two
    vstrh.32 q1, [r2], #8
    .else
    vstrh.32 q1, [r0], #8
    .endif
    strd r0, r2, [sp, #SCORES]
    ldr r1, [sp, #SLOTS]
    add r1, r1, #\slot_bytes
    str r1, [sp, #SLOTS]
    ldr r4, [sp, #NOW]
    subs r4, r4, #1
    str r4, [sp, #NOW]
    bne 2b
    ldrd r4, r0, [sp, #LEFT]
    add r1, r1, r0
    str r1, [sp, #SLOTS]
    cmp r4, #0
    bgt 1b
    add sp, sp, #FRAME
    vpop {d8-d11}
    pop {r4-r11, pc}
.endm

    FUNCTION mg_score_two_mve
    SCORE_WIDE OCTET_OF_TWO, 1, 4, 32
    .size mg_score_two_mve, . - mg_score_two_mve

    FUNCTION mg_score_one_mve
    SCORE_WIDE OCTET_OF_ONE, 0, 2, 64
    .size mg_score_one_mve, . - mg_score_one_mve

/* ---- uint32_t mg_weigh_mve(int16_t *scores, int32_t length, int32_t drop);
 *
 * Replace scores [length] by weights 2^-(distance / 64) in Q(15 - drop), distance below the largest score; by nothing
 * beyond the table's 1024 distances, and up to a multiple of 16. Returns the sum of weights, which mcugen keeps below
 * 2^25. Distances are in [0, 2^16): unsigned halfwords. */
    FUNCTION mg_weigh_mve
    push {r4, lr}
    movw r3, #0x8000
    mov r4, r0
    dlstp.16 lr, r1
1:  vldrh.u16 q0, [r4], #16
    vmaxv.s16 r3, q0
    letp lr, 1b
    vdup.16 q2, r3
    movw r3, #1023
    vdup.16 q3, r3
    ldr r4, =mg_exp2_q15
    rsb r2, r2, #0
    movs r3, #0
    mov r12, #0
    dlstp.16 lr, r1
2:  vldrh.u16 q0, [r0]
    vsub.i16 q0, q2, q0
    vpt.u16 cs, q3, q0
    vldrht.u16 q1, [r4, q0, uxtw #1]
    vrshl.u16 q1, r2
    vaddva.u16 r12, q1
    vstrh.16 q1, [r0], #16
    letp lr, 2b
    ands r3, r1, #7                 /* the vectors stored end a few halfwords before r0: */
    beq 3f
    sub r0, r0, #16
    add r0, r0, r3, lsl #1
3:  rsb r1, r1, #0
    ands r1, r1, #15
    beq 5f
    vmov.i16 q0, #0
    dlstp.16 lr, r1
4:  vstrh.16 q0, [r0], #16
    letp lr, 4b
5:  mov r0, r12
    pop {r4, pc}
    .ltorg
    .size mg_weigh_mve, . - mg_weigh_mve

/* ---- Weighted sums of values, brought to Q8 of a V code.
 *
 * void mg_sum_two_mve(int16_t *out, const int8_t *values, const int16_t *weights, const mg_sum_t *sum);
 * void mg_sum_one_mve(the same);
 *
 * out = sat16(round(sum(weight * value) * factor * 2^up / 2^32)) of all channels: of two heads, fours at a time, or of
 * one head, eights at a time. The second head's weights lie row bytes and its output lies head_bytes behind.
 * |sum| <= 127 * the sum of weights < 2^31. */
    .equ SUM_UNIT, 0                /* mg_sum_t: bytes from unit to unit */
    .equ SUM_ROW, 4                 /* bytes of a head's weights, 32 per unit */
    .equ SUM_HEAD_BYTES, 8
    .equ SUM_STEPS, 12              /* fours or eights of channels */
    .equ SUM_FACTOR, 16             /* of both heads, and then up */
    .equ SUM_UP, 24

    .equ OUT, 32                    /* behind the sums on the stack, of both heads */
    .equ VALUES, 40                 /* the first of these channels */
    .equ WEIGHTS, 44
    .equ STEPS, 48
    .equ PARAMETERS, 52
    .equ SUM_FRAME, 56

/* r1 values   r3, r5 weights of both heads   q0 to q3 their weights of sixteen slots */
.macro CHANNEL_OF_TWO mla, first, second, at
    vldrb.s16 q4, [r1, #\at]
    vldrb.s16 q5, [r1, #\at + 8]
    \mla \first, q4, q0
    \mla \second, q4, q2
    vmladava.s16 \first, q5, q1
    vmladava.s16 \second, q5, q3
.endm

.macro UNIT_OF_TWO mla
    vldrh.u16 q0, [r3], #16
    vldrh.u16 q1, [r3], #16
    vldrh.u16 q2, [r5], #16
    vldrh.u16 q3, [r5], #16
    CHANNEL_OF_TWO \mla, r0, r8, 0
    CHANNEL_OF_TWO \mla, r2, r10, 16
    CHANNEL_OF_TWO \mla, r4, r12, 32
    CHANNEL_OF_TWO \mla, r6, lr, 48
    add r1, r1, r7
.endm

.macro CHANNEL_OF_ONE mla, acc, at
    vldrb.s16 q4, [r1, #\at]
    vldrb.s16 q5, [r1, #\at + 8]
    \mla \acc, q4, q0
    vmladava.s16 \acc, q5, q1
.endm

.macro UNIT_OF_ONE mla
    vldrh.u16 q0, [r3], #16
    vldrh.u16 q1, [r3], #16
    CHANNEL_OF_ONE \mla, r0, 0
    CHANNEL_OF_ONE \mla, r2, 16
    CHANNEL_OF_ONE \mla, r4, 32
    CHANNEL_OF_ONE \mla, r6, 48
    CHANNEL_OF_ONE \mla, r8, 64
    CHANNEL_OF_ONE \mla, r10, 80
    CHANNEL_OF_ONE \mla, r12, 96
    CHANNEL_OF_ONE \mla, lr, 112
    add r1, r1, r7
.endm

/* two: 1 or 0; bytes: of these channels of a unit. r7 unit   r9 end of the first head's weights   r11 parameters */
.macro SUM unit, two, bytes
    push {r4-r11, lr}
    vpush {d8-d15}
    sub sp, sp, #SUM_FRAME
    ldrd r7, r9, [r3, #SUM_UNIT]    /* and row */
    ldrd r4, r5, [r3, #SUM_HEAD_BYTES]
    add r4, r0, r4
    strd r0, r4, [sp, #OUT]
    strd r1, r2, [sp, #VALUES]
    strd r5, r3, [sp, #STEPS]
    ldrd r4, r6, [r3, #SUM_FACTOR]
    vdup.32 q6, r4
    vdup.32 q7, r6
    mov r11, r9                     /* row */
    add r9, r9, r2
1:  ldrd r1, r3, [sp, #VALUES]      /* some channels */
    .if \two
    add r5, r3, r11
    .endif
    \unit vmladav.s16
    cmp r3, r9
    beq 3f
2:  \unit vmladava.s16
    cmp r3, r9
    bne 2b
3:  mov r1, sp
    stm r1, {r0, r2, r4, r6, r8, r10, r12, lr}
    vldrw.u32 q0, [r1]
    vldrw.u32 q1, [r1, #16]
    ldr r3, [sp, #PARAMETERS]
    ldrd r0, r2, [r3, #SUM_UP]
    ldrd r4, r6, [sp, #OUT]
    vshl.s32 q0, r0
    vshl.s32 q1, r2
    vrmulh.s32 q0, q0, q6
    vrmulh.s32 q1, q1, q7
    vqmovnb.s32 q0, q0
    vqmovnb.s32 q1, q1
    vstrh.32 q0, [r4], #8
    .if \two
    vstrh.32 q1, [r6], #8
    .else
    vstrh.32 q1, [r4], #8
    .endif
    strd r4, r6, [sp, #OUT]
    ldr r1, [sp, #VALUES]
    ldr r0, [sp, #STEPS]
    add r1, r1, #\bytes
    subs r0, r0, #1
    str r1, [sp, #VALUES]
    str r0, [sp, #STEPS]
    bne 1b
    add sp, sp, #SUM_FRAME
    vpop {d8-d15}
    pop {r4-r11, pc}
.endm

    FUNCTION mg_sum_two_mve
    SUM UNIT_OF_TWO, 1, 64
    .size mg_sum_two_mve, . - mg_sum_two_mve

    FUNCTION mg_sum_one_mve
    SUM UNIT_OF_ONE, 0, 128
    .size mg_sum_one_mve, . - mg_sum_one_mve
