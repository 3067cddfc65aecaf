#include "split.h"

enum { OTHER, LETTER, NUMBER, SPACE, END };

enum {
    NOT_UTF8 = -1,    /* stands for bytes that are no code point; other */
    LONG_S = 0x17F    /* an s that is no ASCII */
};

/* The code point at `at`, the space at -1, or NOT_UTF8: its first byte must announce how many there are. */
static int32_t code_at(const char *text, int32_t length, int32_t at)
{
    if (at < 0 || at >= length) {
        return at < 0 ? ' ' : NOT_UTF8;
    }
    const int32_t first = (uint8_t)text[at];
    const int32_t count = mg_code_point_end(text, length, at) - at;
    const int32_t announced = first < 0x80 ? 1 : first < 0xC0 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3
                            : first < 0xF8 ? 4 : 0;
    if (count != announced) {
        return NOT_UTF8;
    }
    int32_t code = count == 1 ? first : first & (0x7F >> count);
    for (int32_t i = 1; i < count; i++) {
        code = code * 64 + ((uint8_t)text[at + i] & 0x3F); /* below 2^21 */
    }
    return code;
}

static int32_t kind_of(const mg_split_t *split, int32_t code)
{
    if (code < 0 || code >= split->plane_count * 65536) { /* plane_count <= 17 */
        return OTHER;
    }
    int32_t low = split->planes[code / 65536];
    int32_t high = split->planes[code / 65536 + 1];
    while (high - low > 1) { /* starts[low] <= code < starts[high], or high is the plane's end */
        const int32_t middle = (low + high) / 2;
        if (split->starts[middle] <= code % 65536) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return split->kinds[low];
}

static int32_t kind_at(const mg_split_t *split, const char *text, int32_t length, int32_t at)
{
    return at >= length ? END : kind_of(split, code_at(text, length, at));
}

/* Where code points of one kind end, `most` of them at most. */
static int32_t run(const mg_split_t *split, const char *text, int32_t length, int32_t at, int32_t kind, int32_t most)
{
    for (int32_t i = 0; i < most && kind_at(split, text, length, at) == kind; i++) {
        at = mg_code_point_end(text, length, at);
    }
    return at;
}

static int32_t is_newline(int32_t code)
{
    return code == '\n' || code == '\r';
}

/* Where a contraction ends whose apostrophe is before `at`: 's 't 'm 'd, 're 've 'll; 0 where none is. */
static int32_t contraction_end(const mg_split_t *split, const char *text, int32_t length, int32_t at)
{
    int32_t letters[2];
    for (int32_t i = 0; i < 2; i++) {
        letters[i] = code_at(text, length, at + i); /* the second counts only behind a first of one byte */
        if (split->modern != 0) {
            const int32_t upper = letters[i] >= 'A' && letters[i] <= 'Z';
            letters[i] = letters[i] == LONG_S ? 's' : upper ? letters[i] + ('a' - 'A') : letters[i];
        }
    }
    if (letters[0] == 's' || letters[0] == 't' || letters[0] == 'm' || letters[0] == 'd') {
        return mg_code_point_end(text, length, at);
    }
    const int32_t pair = ((letters[0] == 'r' || letters[0] == 'v') && letters[1] == 'e')
                      || (letters[0] == 'l' && letters[1] == 'l');
    return pair != 0 ? at + 2 : 0;
}

/* Where white space ends: at its last newline; in front of its last code point, which goes with what follows; or whole,
 * where nothing follows. */
static int32_t space_end(const mg_split_t *split, const char *text, int32_t length, int32_t at)
{
    int32_t end = at;
    int32_t last = at;
    int32_t behind_newline = 0;
    do {
        last = end;
        end = mg_code_point_end(text, length, last);
        if (is_newline(code_at(text, length, last)) != 0) {
            behind_newline = end;
        }
    } while (kind_at(split, text, length, end) == SPACE);
    if (split->modern != 0 && behind_newline > 0) {
        return behind_newline;
    }
    const int32_t next = kind_at(split, text, length, end);
    const int32_t stays = next == END || (split->numbers_apart != 0 && next == NUMBER);
    return stays != 0 || last == at ? end : last;
}

int32_t mg_word_end(const mg_split_t *split, const char *text, int32_t length, int32_t at)
{
    const int32_t code = code_at(text, length, at);
    const int32_t first = kind_of(split, code);
    const int32_t blank = code == ' ';
    const int32_t next = mg_code_point_end(text, length, at);
    const int32_t second = kind_at(split, text, length, next);
    if (code == '\'') {
        const int32_t end = contraction_end(split, text, length, next);
        if (end > 0) {
            return end;
        }
    }
    const int32_t leads = split->modern == 0 ? blank : (first == OTHER || first == SPACE) && is_newline(code) == 0;
    if (first == LETTER || (leads != 0 && second == LETTER)) {
        return run(split, text, length, next, LETTER, length);
    }
    if (first == NUMBER || (split->number_space != 0 && blank != 0 && second == NUMBER)) {
        return run(split, text, length, next, NUMBER, split->digits > 0 ? split->digits - 1 : length);
    }
    if (first == OTHER || (blank != 0 && second == OTHER)) {
        int32_t end = run(split, text, length, next, OTHER, length);
        while (split->modern != 0 && is_newline(code_at(text, length, end)) != 0) {
            end++;
        }
        return end;
    }
    return space_end(split, text, length, at);
}
