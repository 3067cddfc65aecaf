/* An interpreter for the .tflite files of mcugen, for verification where TFLite Micro itself is not at hand: in its
 * place the same generated project runs on the host and on emulated boards. Never part of a generated project. */
#include "tensorflow/lite/micro/kernels/kernel_util.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tflite_file.h"

namespace tflite {
namespace micro {

static const size_t alignment = 16u; /* of tensors and tables, bytes: MicroArenaBufferAlignment() */

static size_t aligned(size_t size)
{
    return (size + alignment - 1u) & ~(alignment - 1u);
}

/* Bytes of a tensor. */
static size_t tensor_bytes(const TfLiteEvalTensor &tensor)
{
    size_t bytes = (tensor.type == kTfLiteInt32) ? 4u : (tensor.type == kTfLiteInt16) ? 2u : 1u;
    for (int i = 0; i < tensor.dims->size; i++) {
        bytes *= static_cast<size_t>(tensor.dims->data[i]);
    }
    return bytes;
}

/* One int32 per tensor: its offset in the head, -1 where it has none. Null where the file does not say.
 * The metadata: int32 version 1, the subgraph 0, how many offsets follow (TFLM, docs/memory_management.md). */
static const int32_t *offline_plan(const Model *model, uint32_t n_tensors)
{
    static const char wanted[] = "OfflineMemoryAllocation";
    const standin::Vector metadata = standin::root(model).vector(standin::model_field::metadata);
    for (uint32_t i = 0; i < metadata.length(); i++) {
        const standin::Table entry = metadata.table(i);
        const char *const name = entry.string(standin::metadata_field::name);
        size_t same = 0;
        while (same < sizeof wanted && name[same] == wanted[same]) {
            same++;
        }
        if (same == sizeof wanted) { /* its zero byte, too */
            const standin::Vector plan =
                standin::buffer(model, entry.number<uint32_t>(standin::metadata_field::buffer));
            const int32_t *const words = reinterpret_cast<const int32_t *>(plan.data());
            return (words[0] == 1 && words[1] == 0 && words[2] == static_cast<int32_t>(n_tensors)) ? words + 3
                                                                                                 : nullptr;
        }
    }
    return nullptr;
}

/* Lay the tables at the end of the arena and fill in what the file says. */
TfLiteStatus MicroInterpreter::MakeTables()
{
    const Model *const model = context_.model;
    const standin::Vector tensors = standin::tensors(model);
    const standin::Vector operators = standin::graph(model).vector(standin::graph_field::operators);
    const size_t tensors_size = aligned(tensors.length() * sizeof(TfLiteEvalTensor));
    const size_t nodes_size = aligned(operators.length() * sizeof(Node));
    const size_t end = size_ & ~(alignment - 1u);
    if ((reinterpret_cast<uintptr_t>(arena_) & (alignment - 1u)) != 0u || tensors_size + nodes_size > end) {
        return kTfLiteError;
    }
    tables_ = arena_ + end - tensors_size - nodes_size;
    nodes_ = reinterpret_cast<Node *>(tables_);
    n_nodes_ = operators.length();
    context_.tensors = reinterpret_cast<TfLiteEvalTensor *>(tables_ + nodes_size);

    for (uint32_t i = 0; i < tensors.length(); i++) {
        const standin::Table from = tensors.table(i);
        const standin::Vector data = standin::buffer(model, from.number<uint32_t>(standin::tensor_field::buffer));
        TfLiteEvalTensor &to = context_.tensors[i];
        to.data.data = (data.length() == 0u) ? nullptr : const_cast<uint8_t *>(data.data());
        to.dims = from.vector(standin::tensor_field::shape).int_array();
        to.type = static_cast<TfLiteType>(from.number<int8_t>(standin::tensor_field::type));
    }
    return kTfLiteOk;
}

/* Find each op's kernel, and let it look at its options. */
TfLiteStatus MicroInterpreter::InitNodes()
{
    const standin::Vector codes = standin::root(context_.model).vector(standin::model_field::operator_codes);
    const standin::Vector operators = standin::graph(context_.model).vector(standin::graph_field::operators);
    for (uint32_t i = 0; i < n_nodes_; i++) {
        const standin::Table op = operators.table(i);
        const standin::Table code = codes.table(op.number<uint32_t>(standin::operator_field::opcode_index));
        const auto builtin = static_cast<BuiltinOperator>(code.number<int32_t>(standin::code_field::builtin_code));
        const TFLMRegistration *const kernel = (builtin == BuiltinOperator_CUSTOM)
                                                   ? resolver_->FindOp(code.string(standin::code_field::custom_code))
                                                   : resolver_->FindOp(builtin);
        if (kernel == nullptr || kernel->free != nullptr || kernel->reset != nullptr) {
            return kTfLiteError;
        }
        const standin::Vector options = op.vector(standin::operator_field::custom_options);
        TfLiteNode node = {};
        node.inputs = op.vector(standin::operator_field::inputs).int_array();
        node.outputs = op.vector(standin::operator_field::outputs).int_array();
        node.custom_initial_data = (options.length() == 0u) ? nullptr : options.data();
        node.custom_initial_data_size = static_cast<int>(options.length());
        if (kernel->init != nullptr) {
            node.user_data =
                kernel->init(&context_, static_cast<const char *>(node.custom_initial_data), options.length());
        }
        nodes_[i].node = node;
        nodes_[i].registration = kernel;
    }
    return kTfLiteOk;
}

TfLiteStatus MicroInterpreter::PrepareNodes()
{
    for (uint32_t i = 0; i < n_nodes_; i++) {
        const TFLMRegistration *const kernel = nodes_[i].registration;
        if (kernel->prepare != nullptr && kernel->prepare(&context_, &nodes_[i].node) != kTfLiteOk) {
            return kTfLiteError;
        }
    }
    return kTfLiteOk;
}

/* Give every tensor that is not constant its place. */
TfLiteStatus MicroInterpreter::PlaceTensors()
{
    const standin::Vector tensors = standin::tensors(context_.model);
    const int32_t *const plan = offline_plan(context_.model, tensors.length());
    if (plan == nullptr) {
        return kTfLiteError;
    }
    size_t variables = 0;
    for (uint32_t i = 0; i < tensors.length(); i++) {
        if (tensors.table(i).number<bool>(standin::tensor_field::is_variable)) {
            context_.tensors[i].data.data = arena_ + variables;
            variables += aligned(tensor_bytes(context_.tensors[i]));
        }
    }
    head_ = arena_ + variables;
    size_t head_size = 0;
    for (uint32_t i = 0; i < tensors.length(); i++) {
        TfLiteEvalTensor &tensor = context_.tensors[i];
        if (tensor.data.data != nullptr) {
            continue; /* a constant or a variable */
        }
        if (plan[i] < 0) {
            return kTfLiteError;
        }
        const size_t offset = static_cast<size_t>(plan[i]);
        const size_t tensor_end = offset + aligned(tensor_bytes(tensor));
        head_size = (tensor_end > head_size) ? tensor_end : head_size;
        tensor.data.data = head_ + offset;
    }
    const size_t before_tables = static_cast<size_t>(tables_ - arena_);
    if (variables + head_size > before_tables) {
        return kTfLiteError;
    }
    used_ = variables + head_size + (size_ & ~(alignment - 1u)) - before_tables;
    return kTfLiteOk;
}

TfLiteStatus MicroInterpreter::AllocateTensors()
{
    used_ = 0;
    if (MakeTables() != kTfLiteOk || InitNodes() != kTfLiteOk || PrepareNodes() != kTfLiteOk ||
        PlaceTensors() != kTfLiteOk) {
        used_ = 0;
        return kTfLiteError;
    }
    return Reset();
}

TfLiteStatus MicroInterpreter::Invoke()
{
    if (used_ == 0u && AllocateTensors() != kTfLiteOk) {
        return kTfLiteError;
    }
    for (uint32_t i = 0; i < n_nodes_; i++) {
        const TfLiteStatus status = nodes_[i].registration->invoke(&context_, &nodes_[i].node);
        if (status != kTfLiteOk) {
            return status;
        }
    }
    return kTfLiteOk;
}

TfLiteStatus MicroInterpreter::Reset()
{
    for (uint8_t *at = arena_; at < head_; at++) { /* the variables, and what fills them up to 16 bytes */
        *at = 0;
    }
    return kTfLiteOk;
}

TfLiteEvalTensor *MicroInterpreter::input(size_t index)
{
    const standin::Vector inputs = standin::graph(context_.model).vector(standin::graph_field::inputs);
    return &context_.tensors[inputs.element<int32_t>(static_cast<uint32_t>(index))];
}

TfLiteEvalTensor *MicroInterpreter::output(size_t index)
{
    const standin::Vector outputs = standin::graph(context_.model).vector(standin::graph_field::outputs);
    return &context_.tensors[outputs.element<int32_t>(static_cast<uint32_t>(index))];
}

TfLiteEvalTensor *GetMutableEvalInput(const TfLiteContext *context, const TfLiteNode *node, int index)
{
    if (index < 0 || index >= node->inputs->size || node->inputs->data[index] < 0) {
        return nullptr;
    }
    return &context->tensors[node->inputs->data[index]];
}

const TfLiteEvalTensor *GetEvalInput(const TfLiteContext *context, const TfLiteNode *node, int index)
{
    return GetMutableEvalInput(context, node, index);
}

TfLiteEvalTensor *GetEvalOutput(const TfLiteContext *context, const TfLiteNode *node, int index)
{
    return &context->tensors[node->outputs->data[index]];
}

} // namespace micro
} // namespace tflite
