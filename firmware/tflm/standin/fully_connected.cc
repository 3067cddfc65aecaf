/* FULLY_CONNECTED of int8, per tensor, without bias: the integer arithmetic of TFLM's reference kernel.
 *
 * y = clamp(acc * scale, -128, 127), where acc = w . x and scale is w's; those of x and y are 1, all zero points 0.
 * It rounds twice: 31 bits of the product are dropped with ties up, then -shift bits with ties away from zero. */
#include "tensorflow/lite/micro/kernels/kernel_util.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tflite_file.h"

namespace tflite {
namespace micro {

TFLMRegistration Register_FULLY_CONNECTED();

static const uint32_t one = 0x3F800000u; /* 1.0f */

/* Of a positive float of IEEE 754: its exponent e says 1.mantissa * 2^(e - 127), or 0.1mantissa * 2^(e - 126). */
struct Multiplier {
    int32_t fraction; /* Q31, in [2^30, 2^31), and exact: the mantissa has 24 bits; or 0 */
    int32_t shift;    /* in [-31, 30] */
};

static Multiplier multiplier_of(uint32_t scale)
{
    const int32_t shift = static_cast<int32_t>(scale >> 23) - 126;
    if (shift < -31) {
        return {0, 0}; /* zero and subnormal numbers, too */
    }
    return {static_cast<int32_t>(((scale & 0x007FFFFFu) | 0x00800000u) << 7), shift};
}

static int32_t scaled(int32_t acc, Multiplier multiplier)
{
    const uint32_t left = (multiplier.shift > 0) ? static_cast<uint32_t>(multiplier.shift) : 0u;
    const uint32_t right = (multiplier.shift < 0) ? static_cast<uint32_t>(-multiplier.shift) : 0u;
    const int32_t wide = static_cast<int32_t>(static_cast<uint32_t>(acc) << left); /* wraps, as it does there */
    /* |product| <= 2^62, and what is kept of it fits 32 bits. */
    const int64_t high = (static_cast<int64_t>(wide) * multiplier.fraction + (INT64_C(1) << 30)) >> 31;
    const int64_t mask = (INT64_C(1) << right) - 1;
    const int64_t half = (mask >> 1) + ((high < 0) ? 1 : 0);
    return static_cast<int32_t>((high >> right) + (((high & mask) > half) ? 1 : 0));
}

/* The bits of a tensor's scale, or 0 where it has another zero point than 0, or not one scale for all of it. */
static uint32_t scale_of(const TfLiteContext *context, int tensor)
{
    const standin::Table table = standin::tensors(context->model).table(static_cast<uint32_t>(tensor));
    if (!table.has(standin::tensor_field::quantization)) {
        return 0u;
    }
    const standin::Table quantization = table.table(standin::tensor_field::quantization);
    const standin::Vector scale = quantization.vector(standin::quantization_field::scale);
    const standin::Vector zero_point = quantization.vector(standin::quantization_field::zero_point);
    const bool fits = scale.length() == 1u && zero_point.length() == 1u && zero_point.element<int64_t>(0) == 0;
    return fits ? scale.element<uint32_t>(0) : 0u;
}

static TfLiteStatus prepare(TfLiteContext *context, TfLiteNode *node)
{
    const TfLiteEvalTensor *const x = GetEvalInput(context, node, 0);
    const TfLiteEvalTensor *const w = GetEvalInput(context, node, 1);
    const TfLiteEvalTensor *const y = GetEvalOutput(context, node, 0);
    const uint32_t w_scale = scale_of(context, node->inputs->data[1]);
    const bool fits =
        GetEvalInput(context, node, 2) == nullptr && x->type == kTfLiteInt8 && w->type == kTfLiteInt8 &&
        y->type == kTfLiteInt8 && x->dims->size == 2 && w->dims->size == 2 && y->dims->size == 2 &&
        x->dims->data[0] == 1 && y->dims->data[0] == 1 && x->dims->data[1] == w->dims->data[1] &&
        y->dims->data[1] == w->dims->data[0] && scale_of(context, node->inputs->data[0]) == one &&
        scale_of(context, node->outputs->data[0]) == one &&
        w_scale != 0u && (w_scale >> 23) <= 126u + 30u; /* nor negative: the sign is the bit above the exponent */
    return fits ? kTfLiteOk : kTfLiteError;
}

static TfLiteStatus invoke(TfLiteContext *context, TfLiteNode *node)
{
    const int8_t *const x = GetEvalInput(context, node, 0)->data.int8;
    const TfLiteEvalTensor *const w = GetEvalInput(context, node, 1);
    int8_t *const y = GetEvalOutput(context, node, 0)->data.int8;
    const Multiplier multiplier = multiplier_of(scale_of(context, node->inputs->data[1]));
    const int rows = w->dims->data[0];
    const int cols = w->dims->data[1];
    for (int r = 0; r < rows; r++) {
        const int8_t *const row = w->data.int8 + static_cast<size_t>(r) * static_cast<size_t>(cols);
        int32_t acc = 0; /* cols <= 65536: |acc| <= 2^30 */
        for (int c = 0; c < cols; c++) {
            acc += row[c] * x[c];
        }
        const int32_t code = scaled(acc, multiplier);
        y[r] = static_cast<int8_t>((code > 127) ? 127 : (code < -128) ? -128 : code);
    }
    return kTfLiteOk;
}

TFLMRegistration Register_FULLY_CONNECTED()
{
    return {nullptr, nullptr, prepare, invoke, nullptr, BuiltinOperator_FULLY_CONNECTED, nullptr};
}

} // namespace micro
} // namespace tflite
