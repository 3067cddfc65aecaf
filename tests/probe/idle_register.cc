/* A custom op that does nothing, for TFLM's Python interpreter: what an arena must hold is all that matters. */
#include "tensorflow/lite/micro/kernels/kernel_util.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

namespace tflite {
namespace micro {
}
} // namespace tflite

using namespace tflite;
using namespace tflite::micro;

extern "C" bool idle_register(MicroMutableOpResolver<200> *resolver);

static TfLiteStatus idle(TfLiteContext *, TfLiteNode *)
{
    return kTfLiteOk;
}

bool idle_register(MicroMutableOpResolver<200> *resolver)
{
    static const TFLMRegistration registration = {nullptr, nullptr, nullptr, idle, nullptr, 0, nullptr};
    return resolver->AddCustom("IDLE", &registration) == kTfLiteOk;
}
