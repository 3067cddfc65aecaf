/* Read a .tflite where it lies. The file is mcugen's own: indices and offsets in it are trusted.
 * Sources: FlatBuffers, "FlatBuffer Internals"; TFLite, schema.fbs, version 3. Little-endian cores only. */
#ifndef MG_STANDIN_TFLITE_FILE_H
#define MG_STANDIN_TFLITE_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "tensorflow/lite/micro/kernels/kernel_util.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace standin {

template <typename T>
inline T read(const uint8_t *at)
{
    return *reinterpret_cast<const T *>(at);
}

/* What an offset at `at` points to. */
inline const uint8_t *follow(const uint8_t *at)
{
    return at + read<uint32_t>(at);
}

class Table;

/* uint32 length, then the elements. An absent vector is empty. */
class Vector {
  public:
    explicit Vector(const uint8_t *at) : at_(at)
    {
    }
    uint32_t length() const
    {
        return (at_ == nullptr) ? 0u : read<uint32_t>(at_);
    }
    const uint8_t *data() const
    {
        return at_ + 4;
    }
    template <typename T>
    T element(uint32_t index) const
    {
        return read<T>(data() + sizeof(T) * index);
    }
    Table table(uint32_t index) const;
    /* A vector of int32, as TFLM shows it; not const there, though nobody writes it. */
    tflite::micro::TfLiteIntArray *int_array() const
    {
        static tflite::micro::TfLiteIntArray none = {0, {0}};
        void *const at = const_cast<uint8_t *>(at_);
        return (at == nullptr) ? &none : static_cast<tflite::micro::TfLiteIntArray *>(at);
    }

  private:
    const uint8_t *at_;
};

/* int32 distance back to its vtable: uint16 bytes of the vtable, uint16 bytes of the table, then per field the uint16
 * distance of its value from the table, 0 where it has the default. */
class Table {
  public:
    explicit Table(const uint8_t *at) : at_(at)
    {
    }
    template <typename T>
    T number(uint32_t field) const
    {
        const uint8_t *const value = find(field);
        return (value == nullptr) ? T(0) : read<T>(value);
    }
    Vector vector(uint32_t field) const
    {
        const uint8_t *const value = find(field);
        return Vector((value == nullptr) ? nullptr : follow(value));
    }
    /* Ends with a zero byte. */
    const char *string(uint32_t field) const
    {
        return reinterpret_cast<const char *>(vector(field).data());
    }
    bool has(uint32_t field) const
    {
        return find(field) != nullptr;
    }
    Table table(uint32_t field) const
    {
        return Table(follow(find(field)));
    }

  private:
    const uint8_t *find(uint32_t field) const
    {
        const uint8_t *const vtable = at_ - read<int32_t>(at_);
        const uint32_t slot = 4u + 2u * field;
        const uint32_t distance = (slot < read<uint16_t>(vtable)) ? read<uint16_t>(vtable + slot) : 0u;
        return (distance == 0u) ? nullptr : at_ + distance;
    }

    const uint8_t *at_;
};

inline Table Vector::table(uint32_t index) const
{
    return Table(follow(data() + 4u * index));
}

/* Field numbers. */
namespace model_field {
enum : uint32_t { operator_codes = 1, subgraphs = 2, buffers = 4, metadata = 6 };
}
namespace graph_field {
enum : uint32_t { tensors = 0, inputs = 1, outputs = 2, operators = 3 };
}
namespace tensor_field {
enum : uint32_t { shape = 0, type = 1, buffer = 2, quantization = 4, is_variable = 5 };
}
namespace quantization_field {
enum : uint32_t { scale = 2, zero_point = 3 };
}
namespace operator_field {
enum : uint32_t { opcode_index = 0, inputs = 1, outputs = 2, custom_options = 5 };
}
namespace code_field {
enum : uint32_t { custom_code = 1, builtin_code = 3 };
}
namespace buffer_field {
enum : uint32_t { data = 0 };
}
namespace metadata_field {
enum : uint32_t { name = 0, buffer = 1 };
}

inline Table root(const tflite::Model *model)
{
    return Table(follow(reinterpret_cast<const uint8_t *>(model)));
}

/* The one subgraph that is run. */
inline Table graph(const tflite::Model *model)
{
    return root(model).vector(model_field::subgraphs).table(0);
}

inline Vector tensors(const tflite::Model *model)
{
    return graph(model).vector(graph_field::tensors);
}

/* The content of a buffer; empty for a tensor that is not constant. */
inline Vector buffer(const tflite::Model *model, uint32_t index)
{
    return root(model).vector(model_field::buffers).table(index).vector(buffer_field::data);
}

} // namespace standin

#endif
