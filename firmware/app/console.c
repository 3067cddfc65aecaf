#include "console.h"

#include "port.h"

enum { LINE_SIZE = 160, END_OF_TRANSMISSION = 4 };

typedef struct {
    const mg_model_t *model;
    const char *banner;
    const char *build;
    mg_sampler_t sampler;
    int32_t max_tokens;
} console_t;

static char line[LINE_SIZE];

static void print(const char *text)
{
    size_t length = 0;
    while (text[length] != '\0') {
        length++;
    }
    mg_port_write(text, length);
}

static void print_number(uint32_t value)
{
    char digits[10];
    size_t at = sizeof digits;
    do {
        at--;
        digits[at] = (char)('0' + value % 10u);
        value /= 10u;
    } while (value != 0u);
    mg_port_write(digits + at, sizeof digits - at);
}

static void print_hex(uint32_t value)
{
    char digits[8];
    for (int32_t i = 7; i >= 0; i--) {
        digits[i] = "0123456789abcdef"[value & 15u];
        value >>= 4;
    }
    mg_port_write(digits, sizeof digits);
}

static void end_answer(void)
{
    const char end = END_OF_TRANSMISSION;
    mg_port_write(&end, 1);
}

/* Print generated text, but for the byte 4: it would end the answer too early. */
static void emit(void *context, const uint8_t *bytes, int32_t length)
{
    (void)context;
    for (int32_t start = 0; start < length; start++) {
        int32_t end = start;
        while (end < length && bytes[end] != END_OF_TRANSMISSION) {
            end++;
        }
        mg_port_write((const char *)bytes + start, (size_t)(end - start));
        start = end;
    }
}

/* Read a line without its end into `line`; backspace works. Returns its length, -1 where it is too long, -2 at the
 * end of the input. */
static int32_t read_line(void)
{
    static int32_t last;
    int32_t length = 0;
    for (;;) {
        const int32_t byte = mg_port_read();
        const int32_t before = last;
        last = byte;
        if (byte < 0) {
            return -2;
        }
        if (byte == '\n' && before == '\r') {
            continue; /* the second half of a terminal's line end */
        }
        if (byte == '\r' || byte == '\n') {
            return (length <= LINE_SIZE) ? length : -1;
        }
        if (byte == 8 || byte == 127) {
            length = (length > 0) ? length - 1 : 0;
        } else {
            if (length < LINE_SIZE) {
                line[length] = (char)byte;
            }
            length = (length < INT32_MAX) ? length + 1 : length; /* beyond the line too: backspaces may follow */
        }
    }
}

/* Read up to `count` numbers separated by spaces from line [at, length); returns how many there were, or -1. */
static int32_t read_numbers(uint32_t *numbers, int32_t count, int32_t at, int32_t length)
{
    int32_t found = 0;
    while (at < length) {
        uint32_t value = 0;
        int32_t digits = 0;
        while (at < length && line[at] >= '0' && line[at] <= '9') {
            const uint32_t digit = (uint32_t)(line[at] - '0');
            if (value > (UINT32_MAX - digit) / 10u) {
                return -1; /* more than 32 bits */
            }
            value = value * 10u + digit;
            digits++;
            at++;
        }
        if (digits > 0) {
            if (found == count) {
                return -1;
            }
            numbers[found] = value;
            found++;
        } else if (line[at] == ' ') {
            at++;
        } else {
            return -1;
        }
    }
    return found;
}

/* Returns where the arguments of a command begin, if the line begins with `word`, which ends with a space; or 0. */
static int32_t after_word(const char *word, int32_t length)
{
    int32_t at = 0;
    while (word[at] != '\0') {
        if (at == length || line[at] != word[at]) {
            return 0;
        }
        at++;
    }
    return at;
}

static uint32_t hash_logits(const int32_t *logits, int32_t count)
{
    uint32_t hash = 2166136261u; /* FNV-1a, 32 bits */
    for (int32_t i = 0; i < count; i++) {
        for (uint32_t shift = 0; shift < 32u; shift += 8u) {
            hash = (hash ^ (((uint32_t)logits[i] >> shift) & 255u)) * 16777619u;
        }
    }
    return hash;
}

static void check(const mg_model_t *model, uint32_t count)
{
    mg_sampler_t greedy = {0, 0, 0, 65536u, 1u};
    int32_t token = model->tokenizer->bos;
    model->reset();
    for (uint32_t i = 0; i < count; i++) {
        const int32_t *logits = model->step(token);
        token = mg_sample(&greedy, logits, model->tokenizer->vocab_size);
        print_number(i);
        print(" ");
        print_number((uint32_t)token);
        print(" ");
        print_hex(hash_logits(logits, model->tokenizer->vocab_size));
        print("\n");
    }
}

/* Are the numbers within what mg_sampler_t asks for? */
static int32_t is_sampler(const uint32_t *numbers)
{
    return numbers[0] < 32768u && numbers[1] < 32u && numbers[3] >= 1u && numbers[3] <= 65536u && numbers[4] != 0u;
}

static void command(console_t *console, int32_t length)
{
    uint32_t numbers[5];
    int32_t at = after_word("#tokens ", length);
    if (at > 0 && read_numbers(numbers, 1, at, length) == 1 && numbers[0] <= (uint32_t)INT32_MAX) {
        console->max_tokens = (int32_t)numbers[0];
        return;
    }
    at = after_word("#sampler ", length);
    if (at > 0 && read_numbers(numbers, 5, at, length) == 5 && is_sampler(numbers)) {
        const mg_sampler_t sampler = {numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]};
        console->sampler = sampler;
        return;
    }
    at = after_word("#check ", length);
    if (at > 0 && read_numbers(numbers, 1, at, length) == 1) {
        check(console->model, numbers[0]);
        return;
    }
    if (length == after_word("#build", length)) {
        print(console->banner);
        print(", build ");
        print(console->build);
        print("\n");
        return;
    }
    print("? #tokens N, #sampler MULTIPLIER SHIFT TOP_K TOP_P SEED, #check N or #build\n");
}

void mg_console(const mg_model_t *model, const char *banner, const char *build, int32_t max_tokens)
{
    console_t console = {model, banner, build, {0, 0, 0, 65536u, 1u}, max_tokens};
    print(banner);
    print("\n");
    end_answer();

    for (int32_t length = read_line(); length != -2; length = read_line()) {
        int32_t generated = -1;
        if (length > 0 && line[0] == '#') {
            command(&console, length);
            generated = 0;
        } else if (length >= 0) {
            generated = mg_generate(model, &console.sampler, line, length, console.max_tokens, emit, 0);
            print("\n");
        }
        if (generated < 0) {
            print("? the line is too long\n");
        }
        end_answer();
    }
}
