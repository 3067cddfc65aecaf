/* The second core of an RP2040 or RP2350, which gets tasks and says that they are done through the two queues of words
 * between the cores. Sources: "RP2040 Datasheet" and "RP2350 Datasheet", sections "Inter-processor FIFOs
 * (Mailboxes)" and, in the chapter "Bootrom", "Launching Code On Processor Core 1". */

#include "second_core.h"

static const uint32_t FIFO_ST = 0xD0000050u; /* status of this core's side */
static const uint32_t FIFO_WR = 0xD0000054u;
static const uint32_t FIFO_RD = 0xD0000058u;
static const uint32_t VTOR = 0xE000ED08u;

enum {
    FIFO_VLD = 1, /* there is a word to read; to write there is always room: two words wait at most, of 4 or 8 */
    FIFO_DEPTH = 8,
    STACK_BYTES = 1024, /* of the second core; layout.py counts them */
    ATTEMPTS = 8,
    ANSWER_TRIES = 5000 /* > 0.3 ms at 150 MHz; the boot ROM answers within some dozen instructions */
};

static uint64_t second_stack[STACK_BYTES / 8];
static int32_t running;

static volatile uint32_t *reg(uint32_t address)
{
    return (volatile uint32_t *)address;
}

/* What was written before is there for the other core when it has the word. */
static void send(uint32_t word)
{
    __asm__ volatile("dmb" ::: "memory");
    *reg(FIFO_WR) = word;
    __asm__ volatile("sev");
}

static uint32_t receive(void)
{
    while ((*reg(FIFO_ST) & FIFO_VLD) == 0u) {
        __asm__ volatile("wfe"); /* a send since the last wfe lets this one through */
    }
    const uint32_t word = *reg(FIFO_RD);
    __asm__ volatile("dmb" ::: "memory");
    return word;
}

/* What the second core does for ever. Its coprocessors 10 and 11, the FPU, are its own: see ports/cortex_m/startup.c. */
static void serve(void)
{
    if (MG_HAS_FPU == 1) {
        *reg(0xE000ED88u) |= 0xFu << 20;
        __asm__ volatile("dsb\n\tisb" ::: "memory");
    }
    for (;;) {
        const mg_task_t task = (mg_task_t)receive();
        task((int32_t)receive());
        send(0u);
    }
}

/* Send a word to the boot ROM on the second core. Returns 1 where it comes back, as it does in the right order. */
static int32_t echoed(uint32_t word)
{
    for (int32_t i = 0; (word == 0u) && (i < FIFO_DEPTH) && ((*reg(FIFO_ST) & FIFO_VLD) != 0u); i++) {
        (void)*reg(FIFO_RD); /* what is left of an earlier attempt */
    }
    send(word);
    for (int32_t i = 0; i < ANSWER_TRIES; i++) {
        if ((*reg(FIFO_ST) & FIFO_VLD) != 0u) {
            return (*reg(FIFO_RD) == word) ? 1 : 0;
        }
    }
    return 0;
}

void mg_second_core_start(void)
{
    const uint32_t words[6] = {0u, 0u, 1u, *reg(VTOR), (uint32_t)(second_stack + STACK_BYTES / 8), (uint32_t)serve};
    for (int32_t attempt = 0; (attempt < ATTEMPTS) && (running == 0); attempt++) {
        running = 1;
        for (int32_t i = 0; (i < 6) && (running == 1); i++) {
            running = echoed(words[i]);
        }
    }
}

void mg_second_core_run(mg_task_t task, int32_t argument)
{
    if (running == 0) {
        task(argument);
        return;
    }
    send((uint32_t)task);
    send((uint32_t)argument);
}

void mg_second_core_wait(void)
{
    if (running == 1) {
        (void)receive();
    }
}
