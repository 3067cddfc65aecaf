/* The toy ops for TFLM's Python interpreter, whose resolver has this capacity. */
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "toy_ops.h"

extern "C" bool toy_register(tflite::micro::MicroMutableOpResolver<200> *resolver);

bool toy_register(tflite::micro::MicroMutableOpResolver<200> *resolver)
{
    return toy::add_ops(*resolver) && !toy::add_ops(*resolver); /* TFLM finds that it has them */
}
