/* What the kernels for MVE share. */
#ifndef MG_VECTORS_MVE_H
#define MG_VECTORS_MVE_H

#include <arm_mve.h>

enum {
    MG_UNIT = 16,  /* slots of a ring that lie together */
    MG_OCTET = 8   /* channels of a slot of keys that lie together */
};

/* Interleave the even and the odd lanes of eight values, saturated to int16. */
static inline int16x8_t mg_narrow_s16(int32x4_t even, int32x4_t odd)
{
    return vqmovntq_s32(vqmovnbq_s32(vreinterpretq_s16_s32(even), even), odd);
}

/* Every other one of eight words, from the first on. GCC 12 cannot assemble what it makes of VLD2 in some loops. */
static inline int32x4_t mg_every_other_s32(const int32_t *words)
{
    return vldrwq_gather_shifted_offset_s32(words, vidupq_n_u32(0u, 2));
}

#endif
