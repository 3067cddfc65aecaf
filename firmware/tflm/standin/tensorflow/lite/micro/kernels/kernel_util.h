/* Stand-in for TFLM's header of this name: what custom ops see of the interpreter.
 *
 * Names, order of members and their types are TFLM's, so that an op compiled against this header runs in the real
 * interpreter, on x86-64 too. What only the interpreter looks into is left out. */
#ifndef MG_STANDIN_KERNEL_UTIL_H
#define MG_STANDIN_KERNEL_UTIL_H

#include <stddef.h>
#include <stdint.h>

namespace tflite {
namespace micro {

enum TfLiteStatus : int { kTfLiteOk = 0, kTfLiteError = 1 };

/* Numbers as in TFLM and, for these, in the file. */
enum TfLiteType : int { kTfLiteInt32 = 2, kTfLiteUInt8 = 3, kTfLiteInt16 = 7, kTfLiteInt8 = 9 };

struct TfLiteContext; /* what belongs to the interpreter */

/* As many integers as `size` says; in the file a vector of int32 lies likewise. */
struct TfLiteIntArray {
    int size;
    int data[1];
};

union TfLitePtrUnion {
    int32_t *i32;
    int16_t *i16;
    uint8_t *uint8;
    int8_t *int8;
    void *data;
};

/* Layout as in TFLM, x86-64 and 32-bit. */
struct TfLiteEvalTensor {
    TfLitePtrUnion data;
    TfLiteIntArray *dims;
    TfLiteType type;
};
static_assert(sizeof(TfLiteEvalTensor) == 3 * sizeof(void *), "an array of these is TFLM's");

/* Layout as in TFLM, x86-64 and 32-bit. inputs, outputs: tensor indices. user_data: what init returned.
 * custom_initial_data: the custom_options in the file. */
struct TfLiteNode {
    TfLiteIntArray *inputs;
    TfLiteIntArray *outputs;
    TfLiteIntArray *intermediates;
    void *user_data;
    void *builtin_data;
    const void *custom_initial_data;
    int custom_initial_data_size;
};
static_assert(offsetof(TfLiteNode, custom_initial_data_size) == 6 * sizeof(void *), "TFLM's layout");

/* Layout as in TFLM, x86-64 and 32-bit: what a kernel is. Any function but invoke may be null. */
struct TFLMRegistration {
    void *(*init)(TfLiteContext *context, const char *buffer, size_t length);
    void (*free)(TfLiteContext *context, void *buffer);
    TfLiteStatus (*prepare)(TfLiteContext *context, TfLiteNode *node);
    TfLiteStatus (*invoke)(TfLiteContext *context, TfLiteNode *node);
    void (*reset)(TfLiteContext *context, void *buffer);
    int32_t builtin_code;
    const char *custom_name;
};
static_assert(sizeof(TFLMRegistration) == 7 * sizeof(void *), "an array of these is TFLM's");

/* The index-th tensor of a node; null for an input that is left out. A tensor that is not constant has its data only
 * once AllocateTensors has returned: not while nodes are prepared. */
const TfLiteEvalTensor *GetEvalInput(const TfLiteContext *context, const TfLiteNode *node, int index);
TfLiteEvalTensor *GetMutableEvalInput(const TfLiteContext *context, const TfLiteNode *node, int index);
TfLiteEvalTensor *GetEvalOutput(const TfLiteContext *context, const TfLiteNode *node, int index);

} // namespace micro
} // namespace tflite

#endif
