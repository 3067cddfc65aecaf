/* Stand-in for TFLM's header of this name: an interpreter that does what a generated project needs. */
#ifndef MG_STANDIN_MICRO_INTERPRETER_H
#define MG_STANDIN_MICRO_INTERPRETER_H

#include "tensorflow/lite/micro/micro_op_resolver.h"

namespace tflite {
namespace micro {

struct TfLiteContext {
    const Model *model;
    TfLiteEvalTensor *tensors; /* one per tensor of the file */
};

/* Runs one subgraph. It differs from TFLM in this: every tensor has its offset in the file's metadata
 * OfflineMemoryAllocation, no kernel allocates anything or has a function `free` or `reset`, and tensors show as
 * TfLiteEvalTensor. No destructor: nothing is freed.
 *
 * The arena, from its start: the variables in order of tensor index, each rounded up to 16 bytes; the head, in which
 * the other tensors lie at their offsets; free; tables for nodes and tensors, up to the end. */
class MicroInterpreter {
  public:
    /* arena: 16-byte aligned, `size` bytes. */
    MicroInterpreter(const Model *model, const MicroOpResolver &resolver, uint8_t *arena, size_t size)
        : resolver_(&resolver), arena_(arena), size_(size), context_{model, nullptr}
    {
    }

    /* Prepares all nodes and zeroes the variables. Fails where the arena is too small or not aligned, where the file
     * has no offset for a tensor, and where a kernel is missing or refuses its node. */
    TfLiteStatus AllocateTensors();

    /* Runs the nodes in order, up to the first that fails. */
    TfLiteStatus Invoke();

    /* Zeroes the variables. */
    TfLiteStatus Reset();

    TfLiteEvalTensor *input(size_t index);
    TfLiteEvalTensor *output(size_t index);

    /* Variables, head and tables. */
    size_t arena_used_bytes() const
    {
        return used_;
    }

    /* Where offset 0 of the memory plan lies. Not in TFLM. */
    uint8_t *head() const
    {
        return head_;
    }

  private:
    struct Node {
        TfLiteNode node;
        const TFLMRegistration *registration;
    };

    TfLiteStatus MakeTables();
    TfLiteStatus InitNodes();
    TfLiteStatus PrepareNodes();
    TfLiteStatus PlaceTensors();

    const MicroOpResolver *resolver_;
    uint8_t *arena_;
    size_t size_;
    TfLiteContext context_;
    Node *nodes_ = nullptr;
    uint32_t n_nodes_ = 0;
    uint8_t *head_ = nullptr;
    uint8_t *tables_ = nullptr; /* where the tables begin */
    size_t used_ = 0;           /* 0: not allocated */
};

} // namespace micro
} // namespace tflite

#endif
