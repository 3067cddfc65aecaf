// What an exported sketch calls of an Arduino core, for this computer: Serial is standard input and output.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct Terminal {
    void begin(unsigned long) {}

    int available()
    {
        const int byte = getchar();
        return (byte == EOF) ? 0 : (ungetc(byte, stdin), 1);
    }

    int read() { return getchar(); }

    size_t write(const uint8_t *bytes, size_t count) { return fwrite(bytes, 1, count, stdout); }

    void println() { putchar('\n'); }
};

extern Terminal Serial;
void setup();
void loop();
