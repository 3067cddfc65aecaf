/* The observation point of the generated forward pass.
 *
 * The forward pass calls mg_op_done(i) when op i has written its output and nothing has overwritten it yet.
 * On the target it does nothing: a debugger sets a breakpoint on it, an emulator watches its address, and
 * verification compares the memory of op i with the simulator there. It costs one call per op and lies in a
 * file of its own so that the compiler cannot inline it away; do not link with -flto. */
#ifndef MG_OP_DONE_H
#define MG_OP_DONE_H

#include <stdint.h>

/* op: index of the op that has just finished, in the order of the graph, from 0. */
void mg_op_done(uint32_t op);

/* Only in the host build (op_done_host.c): call `observer` from mg_op_done; a null pointer stops that. */
void mg_set_op_observer(void (*observer)(uint32_t op));

#endif
