/* Constant tables of the integer arithmetic. Twin: mcugen/tables.py. */
#ifndef MG_TABLES_H
#define MG_TABLES_H

#include <stdint.h>

extern const uint16_t mg_exp2_q15[1024];  /* 2^(-i/64), at most 32767 */
extern const int16_t mg_sine_q15[513];    /* sin(2 pi i / 512), one turn and the first entry again */
extern const int16_t mg_sigmoid_q15[65];  /* 1 / (1 + exp(-(i - 32) / 4)), on [-8, 8] */
extern const int16_t mg_phi_q15[65];      /* the normal distribution at (i - 32) / 4 */
extern const int16_t mg_phi_tanh_q15[65]; /* what GELU's tanh approximation has for it */

#endif
