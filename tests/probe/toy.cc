/* The stand-in for TFLite Micro, called function by function. Places are offsets in toy_arena. */
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "toy_ops.h"

using namespace tflite;
using namespace tflite::micro;

extern "C" {
alignas(16) uint8_t toy_file[8192];
alignas(16) uint8_t toy_arena[4096];
int32_t toy_start(uint32_t offset, uint32_t size);
int32_t toy_invoke(void);
int32_t toy_reset(void);
uint32_t toy_input(uint32_t index);
uint32_t toy_output(uint32_t index);
uint32_t toy_head(void);
uint32_t toy_used(void);
uint32_t toy_add_too_many(void);
}

static const MicroOpResolver &resolver()
{
    static MicroMutableOpResolver<6> made;
    static const bool all = toy::add_ops(made) && made.AddFullyConnected() == kTfLiteOk;
    static const MicroOpResolver none;
    return all ? static_cast<const MicroOpResolver &>(made) : none;
}

static MicroInterpreter &interpreter()
{
    static MicroInterpreter made(GetModel(toy_file), resolver(), toy_arena, sizeof toy_arena);
    return made;
}

/* Begin anew with the model in toy_file, and with `size` bytes of the arena from `offset` on. */
int32_t toy_start(uint32_t offset, uint32_t size)
{
    interpreter() = MicroInterpreter(GetModel(toy_file), resolver(), toy_arena + offset, size);
    return interpreter().AllocateTensors();
}

int32_t toy_invoke(void)
{
    return interpreter().Invoke();
}

int32_t toy_reset(void)
{
    return interpreter().Reset();
}

uint32_t toy_input(uint32_t index)
{
    return static_cast<uint32_t>(interpreter().input(index)->data.uint8 - toy_arena);
}

uint32_t toy_output(uint32_t index)
{
    return static_cast<uint32_t>(interpreter().output(index)->data.uint8 - toy_arena);
}

uint32_t toy_head(void)
{
    return static_cast<uint32_t>(interpreter().head() - toy_arena);
}

uint32_t toy_used(void)
{
    return static_cast<uint32_t>(interpreter().arena_used_bytes());
}

/* One bit per try, 1 where it succeeded: twice the same name, one that begins with it, one more than fits. */
uint32_t toy_add_too_many(void)
{
    static const char *const names[] = {"TOY", "TOY", "TOY_2", "TOY_3"};
    MicroMutableOpResolver<2> two;
    const TFLMRegistration kernel = {nullptr, nullptr, nullptr, toy::sum, nullptr, 0, nullptr};
    uint32_t added = 0;
    for (uint32_t i = 0; i < 4u; i++) {
        added |= (two.AddCustom(names[i], &kernel) == kTfLiteOk) ? 1u << i : 0u;
    }
    return added;
}
