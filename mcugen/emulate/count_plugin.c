/* Counts every instruction that QEMU executes, exactly, in memory that Python shares.
 *
 * Runs on the host, inside QEMU; count_plugin.py compiles it and says how it is loaded. QEMU calls on_block once for
 * each block that it translates; there an addition is put in front of every instruction. An instruction counts when
 * it is reached: one that an IT block or a vector predicate skips counts as well, and so does LE, each time round.
 *
 * Debian ships no qemu-plugin.h, so what is used of it is declared here: version 1 of the interface, QEMU 4.2 to 8.2
 * (include/qemu/qemu-plugin.h). */
#define _POSIX_C_SOURCE 200809L /* pthread, mmap */

#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;

enum { QEMU_PLUGIN_INLINE_ADD_U64 = 0 };

extern int qemu_plugin_version;
int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
                                           void (*callback)(qemu_plugin_id_t id, struct qemu_plugin_tb *block));
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *instruction);
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *instruction, int operation, void *at,
                                                uint64_t addend);

int qemu_plugin_version = 1;

/* counts[i] belongs to the instruction at origin + 2 i; counts[places] to all instructions elsewhere. */
static uint64_t *counts;
static uint64_t origin;
static uint64_t places;

static void on_block(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
    (void)id;
    const size_t length = qemu_plugin_tb_n_insns(block);
    for (size_t i = 0; i < length; i++) {
        struct qemu_plugin_insn *const instruction = qemu_plugin_tb_get_insn(block, i);
        const uint64_t place = (qemu_plugin_insn_vaddr(instruction) - origin) >> 1; /* huge below the origin */
        uint64_t *const count = &counts[(place < places) ? place : places];
        qemu_plugin_register_vcpu_insn_exec_inline(instruction, QEMU_PLUGIN_INLINE_ADD_U64, count, 1u);
    }
}

/* Nobody writes to the lifeline: it ends when its owner closes it or dies, and QEMU with it. */
static void *watch_lifeline(void *descriptor)
{
    char byte;
    while (read((int)(intptr_t)descriptor, &byte, 1u) > 0) {
    }
    _exit(0);
}

static int map_counts(const char *path)
{
    const int file = open(path, O_RDWR);
    if (file < 0) {
        return -1;
    }
    void *const mapped = mmap(NULL, (size_t)(places + 1u) * sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    (void)close(file);
    counts = (uint64_t *)mapped;
    return (mapped == MAP_FAILED) ? -1 : 0;
}

/* The value of an argument "name=value", or NULL if it is another one. */
static const char *value_of(const char *argument, const char *name)
{
    const size_t length = strlen(name);
    return (strncmp(argument, name, length) == 0 && argument[length] == '=') ? argument + length + 1u : NULL;
}

/* counts: a file of places + 1 zeros of 64 bits. lifeline: a descriptor, open for reading. */
int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    const char *path = NULL;
    intptr_t lifeline = -1;
    (void)info;
    for (int i = 0; i < argc; i++) {
        const char *value;
        if ((value = value_of(argv[i], "counts")) != NULL) {
            path = value;
        } else if ((value = value_of(argv[i], "origin")) != NULL) {
            origin = strtoull(value, NULL, 0);
        } else if ((value = value_of(argv[i], "places")) != NULL) {
            places = strtoull(value, NULL, 0);
        } else if ((value = value_of(argv[i], "lifeline")) != NULL) {
            lifeline = (intptr_t)strtol(value, NULL, 0);
        } else {
            return -1;
        }
    }
    pthread_t thread;
    if (path == NULL || map_counts(path) != 0 || lifeline < 0
        || pthread_create(&thread, NULL, watch_lifeline, (void *)lifeline) != 0) {
        return -1;
    }
    (void)pthread_detach(thread);
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_block);
    return 0;
}
