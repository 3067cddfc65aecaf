/* Tables of ../tables.h, arranged for these cores. */
#ifndef MG_TABLES_DSP_H
#define MG_TABLES_DSP_H

#include <stdint.h>

extern const uint16_t mg_exp2_reversed_q15[1025];
extern const uint32_t mg_sigmoid_halves_q15[128];

#endif
