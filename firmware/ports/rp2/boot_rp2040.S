/* The RP2040's second boot stage: 252 bytes that its boot ROM copies from the beginning of flash into RAM and calls,
 * and their checksum. It makes the flash readable where the program lies, fast, and starts the program.
 *
 * Four data lines without a command in front of each address (EBh, continuous) where status register 2 says that
 * the flash has them enabled (QE), as a W25Q16JV-IQ does from the factory; else plain reads (03h). Nothing is
 * programmed. Clock: a half of the system's, or a quarter for plain reads, which are slower.
 * Sources: "RP2040 Datasheet", sections "Bootrom", "Flash Second Stage", "SSI"; W25Q16JV data sheet, "Instructions". */

#if MG_CHIP == 2040

#define SSI 0x18000000
#define CTRLR0 0x00
#define CTRLR1 0x04
#define SSIENR 0x08
#define BAUDR 0x14
#define SR 0x28
#define DR0 0x60
#define RX_SAMPLE_DLY 0xF0
#define SPI_CTRLR0 0xF4

#define PADS 0x40020000   /* PADS_QSPI: the clock, then data lines 0 to 3, from offset 4 on */
#define PAD_CLOCK 0x21    /* 8 mA, fast edges: 62.5 MHz */
#define PAD_DATA 0x50     /* 4 mA, input; no Schmitt trigger, which would delay it */

#define EIGHT_BITS (7 << 16)                            /* frames that go out and come in at once */
#define READS (31 << 16 | 3 << 8)                       /* command and address out, then 32 bits in */
#define QUAD (2 << 21 | READS)
#define PLAIN_03 (0x03 << 24 | 2 << 8 | 6 << 2)         /* 8 bits of command, 24 of address */
#define FIRST_EB (4 << 11 | 2 << 8 | 8 << 2 | 1)        /* the command on one line; address and mode, 32 bits, on four */
#define NEXT_EB (0xA0 << 24 | 4 << 11 | 8 << 2 | 2)     /* no command; mode A0h: the next read needs none either */

    .syntax unified
    .thumb
    .section .boot2, "ax", %progbits
    .global mg_boot2
    .type mg_boot2, %function
    .thumb_func
mg_boot2:
    ldr r0, =PADS
    movs r1, #PAD_CLOCK
    str r1, [r0, #4]
    movs r1, #PAD_DATA
    str r1, [r0, #8]
    str r1, [r0, #12]
    str r1, [r0, #16]
    str r1, [r0, #20]

    ldr r3, =SSI
    movs r4, #0
    movs r5, #1
    movs r6, #SPI_CTRLR0
    movs r7, #RX_SAMPLE_DLY
    str r4, [r3, #SSIENR]
    movs r0, #4
    str r0, [r3, #BAUDR]
    str r5, [r3, r7]            /* sample one cycle later: at half the system clock, data come that late */
    str r4, [r3, #CTRLR1]       /* one word per read */

    ldr r0, =EIGHT_BITS
    str r0, [r3, #CTRLR0]
    str r5, [r3, #SSIENR]
    movs r0, #0x35              /* read status register 2 */
    movs r1, #0
    bl exchange
    ldr r0, [r3, #DR0]
    ldr r2, [r3, #DR0]
    str r4, [r3, #SSIENR]
    lsrs r2, r2, #2             /* QE, bit 1 */
    bcc plain

    movs r0, #2
    str r0, [r3, #BAUDR]
    ldr r0, =QUAD
    str r0, [r3, #CTRLR0]
    ldr r0, =FIRST_EB
    str r0, [r3, r6]
    str r5, [r3, #SSIENR]
    movs r0, #0xEB
    movs r1, #0xA0
    bl exchange
    str r4, [r3, #SSIENR]
    ldr r0, =NEXT_EB
    b start

plain:
    ldr r0, =READS
    str r0, [r3, #CTRLR0]
    ldr r0, =PLAIN_03

start:
    str r0, [r3, r6]
    str r5, [r3, #SSIENR]
    ldr r0, =0x10000100         /* the vector table */
    ldr r1, =0xE000ED08         /* VTOR */
    str r0, [r1]
    ldr r1, [r0]
    mov sp, r1
    ldr r0, [r0, #4]
    bx r0

/* Send two frames, r0 and r1, and wait until they are out: at most 40 clocks of the flash, 160 of the system. Changes
 * r0, r1, r2. */
exchange:
    str r0, [r3, #DR0]
    str r1, [r3, #DR0]
    movs r1, #5                 /* BUSY, and the queue is empty (TFE) */
    movs r2, #255               /* tries, of seven cycles and more */
wait:
    ldr r0, [r3, #SR]
    ands r0, r1
    cmp r0, #4
    beq sent
    subs r2, #1
    bne wait
sent:
    bx lr

    .ltorg
    .size mg_boot2, . - mg_boot2
    .org 252
    .word 0x1DAFE7AF            /* CRC-32 of the above: 04C11DB7, from FFFFFFFF, not reflected, not inverted */

#endif
