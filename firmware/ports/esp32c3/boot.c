/* What tells the ESP32-C3's boot ROM that flash holds a program which runs where it lies ("direct boot"): the ROM maps
 * flash at 0x42000000 for code and at 0x3C000000 for data, and jumps to the ninth byte.
 *
 * Source: Espressif, github.com/espressif/esp32c3-direct-boot-example, README.md. */

#include <stdint.h>

extern const uint32_t mg_direct_boot[2];
__attribute__((section(".boot2"), used)) const uint32_t mg_direct_boot[2] = {0xAEDB041Du, 0xAEDB041Du};
