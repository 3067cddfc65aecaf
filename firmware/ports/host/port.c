/* The port for a PC: standard input and output. The only file of the firmware that uses a C library. */

#include "port.h"

#include <stdio.h>

void mg_port_init(void)
{
}

void mg_port_write(const char *bytes, size_t length)
{
    (void)fwrite(bytes, 1u, length, stdout);
    (void)fflush(stdout); /* a token appears when it is written */
}

int32_t mg_port_read(void)
{
    const int byte = getchar();
    return (byte == EOF) ? -1 : (int32_t)byte;
}

uint32_t mg_port_clock_hz(void)
{
    return MG_CLOCK_HZ; /* nominal: the board file's figure */
}
