/* Stand-in for TFLite's header of this name: what mcugen's generated code uses of it. */
#ifndef MG_STANDIN_SCHEMA_GENERATED_H
#define MG_STANDIN_SCHEMA_GENERATED_H

namespace tflite {

/* Numbers as in schema.fbs. */
enum BuiltinOperator : int {
    BuiltinOperator_FULLY_CONNECTED = 9,
    BuiltinOperator_CUSTOM = 32,
};

struct Model; /* a .tflite in memory: here the file itself, from its first byte */

/* file: 16-byte aligned, as its constants are aligned relative to it. */
inline const Model *GetModel(const void *file)
{
    return static_cast<const Model *>(file);
}

} // namespace tflite

#endif
