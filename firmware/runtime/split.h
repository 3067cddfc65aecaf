/* Where byte-level vocabularies cut a text into words. Twin: mcugen/split.py. */
#ifndef MG_SPLIT_H
#define MG_SPLIT_H

#include <stdint.h>

/* A pattern, and the kinds of code points: 0 other, 1 letter, 2 number, 3 white space. Every table is constant and
 * generated (kind_tables in mcugen/split.py).
 *   starts         lower 16 bits of where a run of one kind begins, by plane
 *   kinds          of each run
 *   planes         [plane_count + 1]  plane p has the runs planes[p] up to, not including, planes[p + 1]; the first of
 *                  them begins at 0. Code points of other planes are other
 *   modern         1: contractions in any case, any lead before letters, newlines stay with what is before them
 *   digits         the most numbers in a word; 0: any
 *   number_space   1: a word of numbers may begin with a space
 *   numbers_apart  1: in front of a number, white space is as at the end of the text */
typedef struct {
    const uint16_t *starts;
    const uint8_t *kinds;
    const uint16_t *planes;
    int32_t plane_count;
    int32_t modern;
    int32_t digits;
    int32_t number_space;
    int32_t numbers_apart;
} mg_split_t;

/* Return where the code point at `at` ends: in front of the next byte that does not continue it, after 4 at most, so
 * that malformed UTF-8 gets through as well. At -1 stands a space, which is not in the text. */
static inline int32_t mg_code_point_end(const char *text, int32_t length, int32_t at)
{
    int32_t end = at + 1;
    while (at >= 0 && end < length && end - at < 4 && ((uint8_t)text[end] & 0xC0u) == 0x80u) {
        end++;
    }
    return end;
}

/* Return where the word ends that begins at `at`, in [-1, length). Twin: words. */
int32_t mg_word_end(const mg_split_t *split, const char *text, int32_t length, int32_t at);

#endif
