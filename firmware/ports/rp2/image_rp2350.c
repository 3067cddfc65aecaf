/* What the RP2350's boot ROM looks for in the first 4 KiB of flash: that this is a program, for its Arm cores, Secure.
 * The vector table is at the beginning of flash, where the boot ROM takes it to be unless told otherwise.
 * Source: "RP2350 Datasheet", chapter "Bootrom", sections "Block format" and "IMAGE_DEF items". */

#include <stdint.h>

#if MG_CHIP == 2350

extern const uint32_t mg_image_definition[5];
__attribute__((section(".image"), used)) const uint32_t mg_image_definition[5] = {
    0xFFFFDED3u, /* a block begins */
    0x10210142u, /* IMAGE_DEF, one word; executable (1), Secure (2), Arm (0), RP2350 (1) */
    0x000001FFu, /* the last item: one word came before it */
    0u,          /* to the next block: there is no other one */
    0xAB123579u  /* the block ends */
};

#else
typedef char mg_has_no_image_definition; /* C99 asks for something in every file */
#endif
