/* What the emulator calls for every block and every memory access: counts, limits, alignment.
 *
 * Runs on the host, inside unicorn; profile_hook.py compiles it and mirrors the structures. In C because a
 * callback into Python costs a thousand times as much as the block that it counts.
 *
 * A block is a run of instructions that the emulator enters at its first one and leaves after its last one, so
 * its executions times its instructions are exact. The same address may begin blocks of several sizes (a
 * block that was entered in its middle, or cut at an address where a run ends), hence the key (address, size). */
#include <stddef.h>
#include <stdint.h>

enum {
    MG_SLOTS = 1 << 16,   /* of the table of blocks; a power of two */
    MG_CODES = 8,         /* sections of code at most */
    MG_FILL = 1 << 15,    /* blocks at most: half full, so that a search ends soon */
    MG_IT_STATE = (3 << 25) | (63 << 10), /* of XPSR */
    MG_UC_MEM_WRITE = 17  /* unicorn.h: uc_mem_type; a read is 16 */
};

enum {
    MG_CODE_THUMB = 0,
    MG_CODE_RISCV = 1
};

enum {
    MG_STOP_NONE = 0,
    MG_STOP_PAUSED = 1,     /* as asked: before the block at stop_address */
    MG_STOP_LIMIT = 2,      /* too many instructions: before the block at stop_address */
    MG_STOP_MISALIGNED = 3, /* access of stop_size bytes at stop_address, by the instruction at stop_pc */
    MG_STOP_TABLE = 4,      /* more blocks than MG_FILL */
    MG_STOP_NO_CODE = 5     /* before a block at stop_address, which is not code */
};

typedef struct {
    uint64_t executions;
    uint32_t address;
    uint32_t size; /* bytes; 0: the slot is free */
    uint32_t instructions;
    uint32_t reserved;
} mg_block_t;

/* A section of the program that may be executed. */
typedef struct {
    const uint8_t *bytes;
    uint32_t origin; /* address of bytes[0] */
    uint32_t size;
} mg_code_t;

typedef struct {
    int (*stop)(void *engine); /* uc_emu_stop */
    int (*read_register)(void *engine, int id, void *value); /* uc_reg_read */
    int (*write_register)(void *engine, int id, const void *value); /* uc_reg_write */
    uint64_t instructions;     /* since the last reset of the profile */
    uint64_t loads;
    uint64_t stores;
    uint64_t limit;            /* stop when `instructions` reaches it */
    uint32_t stack_low;        /* [stack_low, stack_high) is the stack */
    uint32_t stack_high;
    uint32_t stack_lowest;     /* lowest stack address written */
    uint32_t last_block;       /* where the running block begins */
    uint32_t pc_register;      /* e.g. UC_ARM_REG_PC */
    uint32_t pause;            /* 1: stop before the next block, and leave it uncounted */
    uint32_t stop_reason;
    uint32_t stop_address;
    uint32_t stop_size;
    uint32_t stop_pc;
    uint32_t blocks;           /* slots in use */
    uint32_t status_register;  /* UC_ARM_REG_XPSR */
    uint32_t code_kind;        /* MG_CODE_... */
    uint32_t has_status;       /* 1: clear the IT state after an access */
    uint32_t code_count;       /* how many of `code` */
    uint32_t reserved;
    mg_code_t code[MG_CODES];
    mg_block_t block[MG_SLOTS];
} mg_profile_t;

static void stop(void *engine, mg_profile_t *profile, uint32_t reason, uint32_t address)
{
    if (profile->stop_reason == MG_STOP_NONE) { /* the first reason is the cause of the others */
        profile->stop_reason = reason;
        profile->stop_address = address;
    }
    (void)profile->stop(engine);
}

/* Bytes of the instruction whose first two bytes are given. The top five bits of a halfword say 0b11101, 0b11110 or
 * 0b11111 where a 32-bit Thumb instruction begins (Armv7-M Architecture Reference Manual, A5.1); the low two bits say
 * 0b11 where a 32-bit RISC-V instruction does (RISC-V ISA manual, volume I, 1.5; RV32IMC has no longer ones). */
static uint32_t instruction_size(const uint8_t *code, uint32_t code_kind)
{
    if (code_kind == (uint32_t)MG_CODE_RISCV) {
        return (code[0] & 3u) == 3u ? 4u : 2u;
    }
    return (code[1] >> 3) >= 0x1Du ? 4u : 2u;
}

static uint32_t count_instructions(const uint8_t *code, uint32_t size, uint32_t code_kind)
{
    uint32_t count = 0;
    uint32_t at = 0;
    while (at < size) {
        at += instruction_size(code + at, code_kind);
        count++;
    }
    return count;
}

/* The bytes at an address, if so many of them are code there; else NULL. */
static const uint8_t *find_code(const mg_profile_t *profile, uint32_t address, uint32_t size)
{
    for (uint32_t i = 0; i < profile->code_count; i++) {
        const mg_code_t *const code = &profile->code[i];
        const uint32_t offset = address - code->origin; /* wraps to a large value below the origin */
        if (offset < code->size && size <= code->size - offset) {
            return code->bytes + offset;
        }
    }
    return NULL;
}

/* The slot of a block, filled in when the block is new; NULL, and the run stopped, when the table is full or the block
 * is not code. */
static mg_block_t *find_block(void *engine, mg_profile_t *profile, uint32_t address, uint32_t size)
{
    uint32_t slot = ((address >> 1) * 2654435761u) >> 16; /* Knuth's multiplicative hash; < MG_SLOTS */
    while (profile->block[slot].size != 0u) {
        if (profile->block[slot].address == address && profile->block[slot].size == size) {
            return &profile->block[slot];
        }
        slot = (slot + 1u) % MG_SLOTS;
    }
    const uint8_t *const code = find_code(profile, address, size);
    if (profile->blocks == MG_FILL || code == NULL) {
        stop(engine, profile, (code == NULL) ? MG_STOP_NO_CODE : MG_STOP_TABLE, address);
        return NULL;
    }
    profile->blocks++;
    mg_block_t *const block = &profile->block[slot];
    block->address = address;
    block->size = size;
    block->instructions = count_instructions(code, size, profile->code_kind);
    return block;
}

/* UC_HOOK_BLOCK: the emulator is about to run `size` bytes at `address`. */
void mg_on_block(void *engine, uint64_t address, uint32_t size, mg_profile_t *profile)
{
    if (profile->pause != 0u) {
        stop(engine, profile, MG_STOP_PAUSED, (uint32_t)address);
        return;
    }
    if (profile->instructions >= profile->limit) {
        stop(engine, profile, MG_STOP_LIMIT, (uint32_t)address);
        return;
    }
    if (size == 0u) { /* RISC-V, an illegal instruction begins here: nothing is executed, an exception follows */
        return;
    }
    mg_block_t *const block = find_block(engine, profile, (uint32_t)address, size);
    if (block == NULL) {
        return;
    }
    block->executions++;
    profile->instructions += block->instructions;
    profile->last_block = (uint32_t)address;
}

/* UC_HOOK_MEM_READ, UC_HOOK_MEM_WRITE. A core with unaligned access enabled would do it, more slowly; others
 * fault. The firmware is held to the strict rule. `size` is a power of two; where the emulator takes eight bytes at once
 * (VPUSH of a double register), the instruction asks for the alignment of a word (Armv7-M Architecture Reference Manual,
 * A3.2.1). */
void mg_on_access(void *engine, int type, uint64_t address, int size, int64_t value, mg_profile_t *profile)
{
    const uint32_t where = (uint32_t)address;
    const uint32_t alignment = (size > 4) ? 4u : (uint32_t)size;
    (void)value;
    if (type == MG_UC_MEM_WRITE) {
        profile->stores++;
        if (where >= profile->stack_low && where < profile->stack_lowest) {
            profile->stack_lowest = where;
        }
    } else {
        profile->loads++;
    }
    if ((where & (alignment - 1u)) != 0u && profile->stop_reason == MG_STOP_NONE) {
        profile->stop_size = (uint32_t)size;
        (void)profile->read_register(engine, (int)profile->pc_register, &profile->stop_pc);
        stop(engine, profile, MG_STOP_MISALIGNED, where);
    }
    if (profile->has_status == 0u) {
        return;
    }
    /* unicorn 2.1.4 leaves the IT state of the access behind, and the next block would run under its condition
     * (unicorn issue 2309). The block that runs now has its conditions compiled in: clear the state. */
    uint32_t status = 0;
    (void)profile->read_register(engine, (int)profile->status_register, &status);
    if ((status & MG_IT_STATE) != 0u) {
        status &= ~(uint32_t)MG_IT_STATE;
        (void)profile->write_register(engine, (int)profile->status_register, &status);
    }
}

/* Forget the executions; the blocks and their lengths stay known. */
void mg_reset_profile(mg_profile_t *profile)
{
    for (size_t slot = 0; slot < (size_t)MG_SLOTS; slot++) {
        profile->block[slot].executions = 0u;
    }
    profile->instructions = 0u;
    profile->loads = 0u;
    profile->stores = 0u;
    profile->stack_lowest = profile->stack_high;
}
