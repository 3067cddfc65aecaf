/* What a board must provide: four functions. firmware/README.md says how to write them for another board. */
#ifndef MG_PORT_H
#define MG_PORT_H

#include <stddef.h>
#include <stdint.h>

/* Bring up clock and console. Call once, first in main. Never fails: where the fast clock does not start, the
 * board goes on with a slower one, and mg_port_clock_hz tells. */
void mg_port_init(void);

/* Send `length` bytes to the console, as they are: no newline is translated. Blocks until all are handed over;
 * gives up on a byte that a broken console does not take within a bounded wait. */
void mg_port_write(const char *bytes, size_t length);

/* Wait for one byte from the console. Returns 0..255, or -1 when input has ended (a UART never ends). */
int32_t mg_port_read(void);

/* The core's clock now, in Hz; after mg_port_init. */
uint32_t mg_port_clock_hz(void);

#endif
