/* Stand-in for TFLM's header of this name. */
#ifndef MG_STANDIN_MICRO_MUTABLE_OP_RESOLVER_H
#define MG_STANDIN_MICRO_MUTABLE_OP_RESOLVER_H

#include "tensorflow/lite/micro/micro_op_resolver.h"

namespace tflite {
namespace micro {

TFLMRegistration Register_FULLY_CONNECTED();

/* A list of at most `capacity` kernels. Layout as in TFLM, x86-64 and 32-bit, as far as it is used: the pointer to
 * the virtual functions, the kernels, how many there are. So an op library can add its ops to TFLM's own resolver. */
template <unsigned int capacity>
class MicroMutableOpResolver : public MicroOpResolver {
  public:
    const TFLMRegistration *FindOp(BuiltinOperator code) const override
    {
        for (unsigned int i = 0; i < length_; i++) {
            if (code != BuiltinOperator_CUSTOM && registrations_[i].builtin_code == code) {
                return &registrations_[i];
            }
        }
        return nullptr;
    }

    const TFLMRegistration *FindOp(const char *name) const override
    {
        for (unsigned int i = 0; i < length_; i++) {
            const TFLMRegistration &kernel = registrations_[i];
            if (kernel.builtin_code == BuiltinOperator_CUSTOM && same(kernel.custom_name, name)) {
                return &kernel;
            }
        }
        return nullptr;
    }

    /* Fails where the list is full or has a kernel of that name. */
    TfLiteStatus AddCustom(const char *name, const TFLMRegistration *registration)
    {
        return (FindOp(name) == nullptr) ? Add(BuiltinOperator_CUSTOM, name, *registration) : kTfLiteError;
    }

    TfLiteStatus AddFullyConnected()
    {
        return Add(BuiltinOperator_FULLY_CONNECTED, nullptr, Register_FULLY_CONNECTED());
    }

  private:
    static bool same(const char *a, const char *b)
    {
        while (*a != '\0' && *a == *b) {
            a++;
            b++;
        }
        return *a == *b;
    }

    TfLiteStatus Add(BuiltinOperator code, const char *name, const TFLMRegistration &registration)
    {
        if (length_ == capacity) {
            return kTfLiteError;
        }
        registrations_[length_] = registration;
        registrations_[length_].builtin_code = code;
        registrations_[length_].custom_name = name;
        length_++;
        return kTfLiteOk;
    }

    TFLMRegistration registrations_[capacity] = {};
    unsigned int length_ = 0;
};

} // namespace micro
} // namespace tflite

#endif
