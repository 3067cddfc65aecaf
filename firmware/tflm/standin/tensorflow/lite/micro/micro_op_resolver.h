/* Stand-in for TFLM's header of this name. */
#ifndef MG_STANDIN_MICRO_OP_RESOLVER_H
#define MG_STANDIN_MICRO_OP_RESOLVER_H

#include "tensorflow/lite/micro/kernels/kernel_util.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace tflite {
namespace micro {

/* Which kernel an op of the file is. The virtual functions are TFLM's first two, in its order. They have bodies here
 * because a pure virtual one needs the C++ library. */
class MicroOpResolver {
  public:
    /* Null where there is none. */
    virtual const TFLMRegistration *FindOp(BuiltinOperator) const
    {
        return nullptr;
    }
    virtual const TFLMRegistration *FindOp(const char *) const
    {
        return nullptr;
    }
};

} // namespace micro
} // namespace tflite

#endif
