/* The four functions that compilers call even in freestanding code (GCC manual, section 2.1, "Standards").
 * Words where both pointers are word-aligned, bytes otherwise: Armv6-M faults on unaligned words.
 *
 * Each loop holds an empty asm statement: without it a compiler may recognise the loop as memcpy or memset and
 * replace it by a call to itself. */

#include <stddef.h>
#include <stdint.h>

void *memcpy(void *restrict to, const void *restrict from, size_t length);
void *memmove(void *to, const void *from, size_t length);
void *memset(void *to, int value, size_t length);
int memcmp(const void *a, const void *b, size_t length);

static inline void keep_loop(void)
{
    __asm__ volatile("" ::: "memory");
}

/* Copy with rising addresses: right for any `to` at or below `from`, and for areas that do not overlap. */
static void copy_up(uint8_t *to, const uint8_t *from, size_t length)
{
    size_t i = 0;
    if ((((uintptr_t)to | (uintptr_t)from) & 3u) == 0u) {
        for (; length - i >= 4u; i += 4u) {
            *(uint32_t *)(void *)(to + i) = *(const uint32_t *)(const void *)(from + i);
            keep_loop();
        }
    }
    for (; i < length; i++) {
        to[i] = from[i];
        keep_loop();
    }
}

void *memcpy(void *restrict to, const void *restrict from, size_t length)
{
    copy_up(to, from, length);
    return to;
}

void *memmove(void *to, const void *from, size_t length)
{
    uint8_t *const t = to;
    const uint8_t *const f = from;
    if ((uintptr_t)t <= (uintptr_t)f) {
        copy_up(t, f, length);
        return to;
    }
    for (size_t i = length; i > 0u; i--) { /* `to` above `from`: from the end, so that nothing is overwritten */
        t[i - 1u] = f[i - 1u];
        keep_loop();
    }
    return to;
}

void *memset(void *to, int value, size_t length)
{
    uint8_t *const t = to;
    const uint8_t byte = (uint8_t)value;
    const uint32_t word = byte * 0x01010101u;
    size_t i = 0;
    if (((uintptr_t)t & 3u) == 0u) {
        for (; length - i >= 4u; i += 4u) {
            *(uint32_t *)(void *)(t + i) = word;
            keep_loop();
        }
    }
    for (; i < length; i++) {
        t[i] = byte;
        keep_loop();
    }
    return to;
}

int memcmp(const void *a, const void *b, size_t length)
{
    const uint8_t *const x = a;
    const uint8_t *const y = b;
    for (size_t i = 0; i < length; i++) {
        if (x[i] != y[i]) {
            return (int)x[i] - (int)y[i];
        }
        keep_loop();
    }
    return 0;
}
