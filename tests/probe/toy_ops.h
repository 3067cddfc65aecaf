/* Small custom ops, for the tests of the stand-in for TFLite Micro. Vectors are int32[1, n]. */
#ifndef TOY_OPS_H
#define TOY_OPS_H

#include "tensorflow/lite/micro/kernels/kernel_util.h"

namespace tflite {
namespace micro {
}
} // namespace tflite

namespace toy {

using namespace tflite;
using namespace tflite::micro;

struct Options {
    int32_t number;
    int32_t more;
};

inline void *keep_options(TfLiteContext *, const char *options, size_t length)
{
    return (length == sizeof(Options)) ? const_cast<char *>(options) : nullptr;
}

inline TfLiteStatus need_options(TfLiteContext *, TfLiteNode *node)
{
    return (node->user_data == node->custom_initial_data && node->user_data != nullptr) ? kTfLiteOk : kTfLiteError;
}

inline int32_t length_of(const TfLiteEvalTensor *tensor)
{
    return tensor->dims->data[tensor->dims->size - 1];
}

/* TOY_SUM: total += x; y = total. total is a variable. */
inline TfLiteStatus sum(TfLiteContext *context, TfLiteNode *node)
{
    const TfLiteEvalTensor *const x = GetEvalInput(context, node, 0);
    int32_t *const total = GetMutableEvalInput(context, node, 1)->data.i32;
    int32_t *const y = GetEvalOutput(context, node, 0)->data.i32;
    for (int32_t i = 0; i < length_of(x); i++) {
        total[i] += x->data.i32[i];
        y[i] = total[i];
    }
    return kTfLiteOk;
}

/* TOY_AFFINE: y = number * x + bias + more. */
inline TfLiteStatus affine(TfLiteContext *context, TfLiteNode *node)
{
    const Options *const options = static_cast<const Options *>(node->user_data);
    const TfLiteEvalTensor *const x = GetEvalInput(context, node, 0);
    const int32_t *const bias = GetEvalInput(context, node, 1)->data.i32;
    int32_t *const y = GetEvalOutput(context, node, 0)->data.i32;
    for (int32_t i = 0; i < length_of(x); i++) {
        y[i] = options->number * x->data.i32[i] + bias[i] + options->more;
    }
    return kTfLiteOk;
}

/* TOY_LIMIT: y = x, but fails where an x is larger than number. */
inline TfLiteStatus limit(TfLiteContext *context, TfLiteNode *node)
{
    const Options *const options = static_cast<const Options *>(node->user_data);
    const TfLiteEvalTensor *const x = GetEvalInput(context, node, 0);
    int32_t *const y = GetEvalOutput(context, node, 0)->data.i32;
    for (int32_t i = 0; i < length_of(x); i++) {
        if (x->data.i32[i] > options->number) {
            return kTfLiteError;
        }
        y[i] = x->data.i32[i];
    }
    return kTfLiteOk;
}

inline void forget(TfLiteContext *, void *)
{
}

template <typename Resolver>
bool add_ops(Resolver &resolver)
{
    static const TFLMRegistration sums = {nullptr, nullptr, nullptr, sum, nullptr, 0, nullptr};
    static const TFLMRegistration affines = {keep_options, nullptr, need_options, affine, nullptr, 0, nullptr};
    static const TFLMRegistration limits = {keep_options, nullptr, need_options, limit, nullptr, 0, nullptr};
    static const TFLMRegistration freed = {nullptr, forget, nullptr, sum, nullptr, 0, nullptr};
    static const TFLMRegistration ended = {nullptr, nullptr, nullptr, sum, forget, 0, nullptr};
    return resolver.AddCustom("TOY_SUM", &sums) == kTfLiteOk &&
           resolver.AddCustom("TOY_AFFINE", &affines) == kTfLiteOk &&
           resolver.AddCustom("TOY_LIMIT", &limits) == kTfLiteOk &&
           resolver.AddCustom("TOY_FREED", &freed) == kTfLiteOk &&
           resolver.AddCustom("TOY_ENDED", &ended) == kTfLiteOk;
}

} // namespace toy

#endif
