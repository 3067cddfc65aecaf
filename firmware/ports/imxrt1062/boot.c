/* What the boot ROM of an i.MX RT1062 reads at the beginning of its serial flash, and where it jumps to.
 *
 * Sources: RM = i.MX RT1060 Processor Reference Manual, chapter "System Boot" (FlexSPI NOR configuration block, image
 * vector table, boot data) and section "FlexRAM configuration"; W25Q64JV data sheet for the flash's commands, and
 * PJRC's teensy4/bootdata.c for the timing that the Teensy 4.1 runs its flash with. */

#include <stdint.h>

__attribute__((naked, noreturn)) void mg_boot(void);

/* The board file's flash begins with these 8 KiB: the linker places .boot2 first. */
enum {
    FLASH_ORIGIN = 0x60000000,
    FLASH_BYTES = 0x00800000,
    IVT_OFFSET = 0x1000,
    HEADER_BYTES = 0x2000
};

/* Offsets in the configuration block, and what is found there. */
enum {
    CONFIG_TAG = 0x000,        /* "FCFB" */
    CONFIG_VERSION = 0x004,
    CONFIG_TIMING = 0x00C,     /* sample clock looped back from the DQS pad; 3 cycles to hold and to set up CS */
    CONFIG_DEVICE = 0x044,     /* serial NOR (1), 4 pads, 133 MHz (8) */
    CONFIG_A1_BYTES = 0x050,
    CONFIG_READ = 0x080,       /* look-up table, sequence 0 */
    CONFIG_STATUS = 0x090,     /* sequence 1 */
    CONFIG_PAGE_BYTES = 0x1C0,
    CONFIG_SECTOR_BYTES = 0x1C4
};

/* An instruction of a sequence: what, on how many pads (0: one, 2: four), with what operand. Two make a word. */
#define STEP(operation, pads, operand) (((operation) << 10) | ((pads) << 8) | (operand))
#define STEPS(first, second) ((uint32_t)(first) | ((uint32_t)(second) << 16))
enum {
    COMMAND = 0x01,
    ADDRESS = 0x02,
    MODE = 0x07,
    READ = 0x09,
    DUMMY = 0x0C,
    JUMP_ON_CS = 0x1F
};

typedef struct {
    uint32_t config[IVT_OFFSET / 4];
    uint32_t header;
    void (*entry)(void);
    uint32_t reserved_1;
    uint32_t device_configuration;
    const void *boot_data;
    const void *self;
    uint32_t signature;
    uint32_t reserved_2;
    uint32_t image_origin; /* the boot data: image, its length, no plug-in */
    uint32_t image_bytes;
    uint32_t plugin;
    uint32_t unused[(HEADER_BYTES - IVT_OFFSET) / 4 - 11];
} mg_flash_header_t;

typedef char mg_header_has_the_size_that_it_should_have[(sizeof(mg_flash_header_t) == HEADER_BYTES) ? 1 : -1];

extern const mg_flash_header_t mg_flash_header;
__attribute__((section(".boot2"), used)) const mg_flash_header_t mg_flash_header = {
    .config =
        {
            [CONFIG_TAG / 4] = 0x42464346u,
            [CONFIG_VERSION / 4] = 0x56010000u,
            [CONFIG_TIMING / 4] = 0x00030301u,
            [CONFIG_DEVICE / 4] = 0x00080401u,
            [CONFIG_A1_BYTES / 4] = FLASH_BYTES,
            /* W25Q64JV: Fast Read Quad I/O, 24 bits of address, mode 0x20 (no continuous read), 4 dummy cycles */
            [CONFIG_READ / 4] = STEPS(STEP(COMMAND, 0, 0xEB), STEP(ADDRESS, 2, 24)),
            [CONFIG_READ / 4 + 1] = STEPS(STEP(MODE, 2, 0x20), STEP(DUMMY, 2, 4)),
            [CONFIG_READ / 4 + 2] = STEPS(STEP(READ, 2, 4), STEP(JUMP_ON_CS, 0, 1)),
            [CONFIG_STATUS / 4] = STEPS(STEP(COMMAND, 0, 0x05), STEP(READ, 0, 4)),
            [CONFIG_PAGE_BYTES / 4] = 256,
            [CONFIG_SECTOR_BYTES / 4] = 4096,
        },
    .header = 0x432000D1u, /* tag D1, 32 bytes (big-endian), version 43 */
    .entry = mg_boot,
    .boot_data = &mg_flash_header.image_origin,
    .self = &mg_flash_header.header,
    .image_origin = FLASH_ORIGIN,
    .image_bytes = FLASH_BYTES,
};

/* First code after the boot ROM, whose stack lies in memory that is about to change: 4 of the FlexRAM's 16 banks of
 * 32 KiB become instruction TCM, 12 data TCM (IOMUXC_GPR17: 3 and 2 per bank, GPR16: use that, both TCMs on, the rest
 * as after reset; GPR14: decode up to 512 KiB of each). Then as if the core had come from reset to our vector table,
 * which faults shall find (VTOR). */
__attribute__((naked, noreturn)) void mg_boot(void)
{
    __asm__ volatile("ldr  r0, =0x400AC000\n\t"
                     "ldr  r1, =0xAAAAAAFF\n\t"
                     "str  r1, [r0, #0x44]\n\t"
                     "ldr  r1, =0x00200007\n\t"
                     "str  r1, [r0, #0x40]\n\t"
                     "ldr  r1, =0x00AA0000\n\t"
                     "str  r1, [r0, #0x38]\n\t"
                     "dsb\n\t"
                     "isb\n\t"
                     "ldr  r0, =mg_vectors\n\t"
                     "ldr  r1, =0xE000ED08\n\t"
                     "str  r0, [r1]\n\t"
                     "ldr  r1, [r0]\n\t"
                     "mov  sp, r1\n\t"
                     "ldr  r1, [r0, #4]\n\t"
                     "bx   r1\n\t"
                     ".ltorg");
}
