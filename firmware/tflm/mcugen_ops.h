/* Custom ops of TFLite Micro: each calls one kernel of kernels/ on the tensors of its node. A generated resolver names
 * the kernels of the core (<model>_ops.h); this file is the same for every model.
 *
 * An op allocates nothing and keeps nothing. Its parameters are the node's custom_options, read where they lie, in
 * flash; what lives from token to token (the KV rings, the counter) are variable tensors, which come as inputs and are
 * changed in place. Every structure of parameters begins with the op's number, announced once it is done (op_done.h). */
#ifndef MCUGEN_OPS_H
#define MCUGEN_OPS_H

#include <stddef.h>
#include <stdint.h>

#include "tensorflow/lite/micro/kernels/kernel_util.h"

extern "C" {
#include "kernels.h"
#include "op_done.h"
#include "ring.h"
}

/* Trees of TFLite Micro differ in which of these namespaces a name lies in. */
namespace tflite {
namespace micro {
}
} // namespace tflite

namespace mcugen {

using namespace tflite;
using namespace tflite::micro;

/* ---------------------------------------------------------------- what all ops share */

/* A tensor's memory, as whatever the kernel takes it for. */
struct Memory {
    void *bytes;

    template <class T> operator T *() const
    {
        return static_cast<T *>(bytes);
    }
};

/* The tensors of a node. */
struct Tensors {
    TfLiteContext *context;
    TfLiteNode *node;

    Memory in(int index) const
    {
        return Memory{GetMutableEvalInput(context, node, index)->data.data};
    }

    Memory out(int index) const
    {
        return Memory{GetEvalOutput(context, node, index)->data.data};
    }

    mg_ring_t ring(int index) const
    {
        const mg_ring_t *ring = in(index);
        return *ring;
    }
};

inline void *Init(TfLiteContext *, const char *options, size_t)
{
    return const_cast<char *>(options); /* only read; null where the node has none */
}

/* A node with other inputs, outputs or options belongs to another version of these ops. */
template <class Op> TfLiteStatus Prepare(TfLiteContext *, TfLiteNode *node)
{
    const bool fits = node->user_data != nullptr && node->inputs->size >= Op::inputs &&
                      node->outputs->size == Op::outputs &&
                      node->custom_initial_data_size >= static_cast<int>(sizeof(typename Op::Options)) &&
                      Op::fits(*static_cast<const typename Op::Options *>(node->user_data), node->inputs->size,
                               node->custom_initial_data_size);
    return fits ? kTfLiteOk : kTfLiteError;
}

template <class Op> TfLiteStatus Eval(TfLiteContext *context, TfLiteNode *node)
{
    const auto &options = *static_cast<const typename Op::Options *>(node->user_data);
    const TfLiteStatus status = Op::run(Tensors{context, node}, options);
    if (Op::announced) {
        mg_op_done(static_cast<uint32_t>(options.op));
    }
    return status;
}

template <class Op, class Resolver> TfLiteStatus Add(Resolver *resolver, const char *name)
{
    TFLMRegistration registration = {};
    registration.init = Init;
    registration.prepare = Prepare<Op>;
    registration.invoke = Eval<Op>;
    return resolver->AddCustom(name, &registration);
}

/* An op that reads and writes a fixed number of tensors. */
template <class Parameters, int input_count, int output_count> struct Plain {
    using Options = Parameters;
    static constexpr int inputs = input_count;
    static constexpr int outputs = output_count;
    static constexpr bool announced = true;

    static bool fits(const Options &, int given, int size)
    {
        return given == inputs && size == static_cast<int>(sizeof(Options));
    }
};

/* ---------------------------------------------------------------- the ring */

struct NextSlotOptions {
    int32_t op; /* of the first re-basing */
    int32_t context;
    int32_t max_position;
    int32_t delta;
    int32_t heads;
    int32_t head_dim;
    int32_t layers;
};

/* Open the slot of one more token; where the positions run out, turn all cached keys back first.
 * in: counter (position, slot and length of the next token, but that its slot is not open yet), rope step; per layer
 * the ring of keys and its zero points. out: mg_ring_t. options: a shift per layer behind the structure. */
template <auto rebase> struct NextSlot {
    using Options = NextSlotOptions;
    static constexpr int inputs = 2;
    static constexpr int outputs = 1;
    static constexpr bool announced = false;

    static bool fits(const Options &o, int given, int size)
    {
        return given == inputs + 2 * o.layers && size == static_cast<int>(sizeof o) + 4 * o.layers;
    }

    static TfLiteStatus run(const Tensors &t, const Options &o)
    {
        mg_ring_t *const counter = t.in(0);
        mg_ring_t *const ring = t.out(0);
        ring->position = counter->position - 1; /* a counter of zeros is a fresh one */
        ring->slot = counter->slot - 1;
        ring->length = counter->length;
        mg_ring_next(ring, o.context);
        if (ring->position == o.max_position) {
            const int32_t *const shift = &o.layers + 1;
            for (int32_t i = 0; i < o.layers; i++) {
                const Memory keys = t.in(2 + 2 * i);
                const mg_rope_t rope = {t.in(1), t.in(3 + 2 * i), o.heads, o.head_dim, shift[i]};
                rebase(keys, keys, o.context, o.delta, &rope);
                mg_op_done(static_cast<uint32_t>(o.op + i));
            }
            ring->position = o.context;
        }
        counter->position = ring->position + 1;
        counter->slot = ring->slot + 1;
        counter->length = ring->length;
        return kTfLiteOk;
    }
};

/* ---------------------------------------------------------------- matrices */

struct MatrixOptions {
    int32_t op;
    int32_t rows;
    int32_t cols;
    int32_t shift;
    int32_t chunk;
    int32_t group;
};

/* The matrix whose codes and multipliers are the inputs from `index` on. */
inline mg_linear_t Matrix(const Tensors &t, int index, const MatrixOptions &o)
{
    return mg_linear_t{t.in(index).bytes, t.in(index + 1), o.rows, o.cols, o.shift, o.chunk, o.group};
}

/* in: token, codes, multiplier. out: y. */
template <auto kernel> struct Embed : Plain<MatrixOptions, 3, 1> {
    static TfLiteStatus run(const Tensors &t, const MatrixOptions &o)
    {
        const int32_t *const token = t.in(0);
        if (*token < 0 || *token >= o.rows) {
            return kTfLiteError;
        }
        const mg_linear_t table = Matrix(t, 1, o);
        kernel(t.out(0), *token, &table);
        return kTfLiteOk;
    }
};

/* in: x, scale, codes, multiplier. out: y. */
template <auto kernel> struct Linear : Plain<MatrixOptions, 4, 1> {
    static TfLiteStatus run(const Tensors &t, const MatrixOptions &o)
    {
        const mg_linear_t w = Matrix(t, 2, o);
        kernel(t.out(0), t.in(0), t.in(1), 1, &w);
        return kTfLiteOk;
    }
};

/* in: residual, x, scale, codes, multiplier. out: y. */
template <auto kernel> struct LinearAdd : Plain<MatrixOptions, 5, 1> {
    static TfLiteStatus run(const Tensors &t, const MatrixOptions &o)
    {
        const mg_linear_t w = Matrix(t, 3, o);
        kernel(t.out(0), t.in(0), t.in(1), t.in(2), 1, &w);
        return kTfLiteOk;
    }
};

/* in: x, scale, codes, multiplier, mg_ring_t, the ring that is written. */
template <auto kernel> struct LinearRing : Plain<MatrixOptions, 6, 0> {
    static TfLiteStatus run(const Tensors &t, const MatrixOptions &o)
    {
        const mg_linear_t w = Matrix(t, 2, o);
        kernel(t.in(5), t.ring(4).slot, t.in(0), t.in(1), 1, &w);
        return kTfLiteOk;
    }
};

/* ---------------------------------------------------------------- behind FULLY_CONNECTED */

struct RescaleOptions {
    int32_t op;
    int32_t rows;
    int32_t shift;
};

/* in: the codes that FULLY_CONNECTED made, scale, multiplier. out: y. */
template <auto kernel> struct Rescale : Plain<RescaleOptions, 3, 1> {
    static TfLiteStatus run(const Tensors &t, const RescaleOptions &o)
    {
        const mg_rescale_t rescale = {t.in(2), o.rows, o.shift};
        kernel(t.out(0), t.in(0), t.in(1), &rescale);
        return kTfLiteOk;
    }
};

/* in: residual, codes, scale, multiplier. out: y. */
template <auto kernel> struct RescaleAdd : Plain<RescaleOptions, 4, 1> {
    static TfLiteStatus run(const Tensors &t, const RescaleOptions &o)
    {
        const mg_rescale_t rescale = {t.in(3), o.rows, o.shift};
        kernel(t.out(0), t.in(0), t.in(1), t.in(2), &rescale);
        return kTfLiteOk;
    }
};

/* ---------------------------------------------------------------- vectors */

struct NormOptions {
    int32_t op;
    int32_t dim;
    int32_t gain_frac;
    int32_t reserved;
    int64_t eps;
};

/* in: x, gain. out: y. */
template <auto kernel> struct Norm : Plain<NormOptions, 2, 1> {
    static TfLiteStatus run(const Tensors &t, const NormOptions &o)
    {
        const mg_norm_t norm = {t.in(1), o.dim, o.gain_frac, o.eps};
        kernel(t.out(0), t.in(0), &norm);
        return kTfLiteOk;
    }
};

struct BlockOptions {
    int32_t op;
    int32_t n;
};

/* in: x. out: codes, scale. */
template <auto kernel> struct Block : Plain<BlockOptions, 1, 2> {
    static TfLiteStatus run(const Tensors &t, const BlockOptions &o)
    {
        kernel(t.out(0), t.out(1), t.in(0), o.n);
        return kTfLiteOk;
    }
};

struct SwigluOptions {
    int32_t op;
    int32_t n;
    int32_t gate_frac;
    int32_t shift;
};

/* in: gate, up. out: y. */
template <auto kernel> struct Swiglu : Plain<SwigluOptions, 2, 1> {
    static TfLiteStatus run(const Tensors &t, const SwigluOptions &o)
    {
        kernel(t.out(0), t.in(0), t.in(1), o.n, o.gate_frac, o.shift);
        return kTfLiteOk;
    }
};

/* ---------------------------------------------------------------- attention */

struct RopeOptions {
    int32_t op;
    int32_t heads;
    int32_t head_dim;
};

/* in: x, mg_ring_t, rope step. out: y. */
template <auto kernel> struct Rope : Plain<RopeOptions, 3, 1> {
    static TfLiteStatus run(const Tensors &t, const RopeOptions &o)
    {
        const mg_rope_t rope = {t.in(2), nullptr, o.heads, o.head_dim, 0};
        kernel(t.out(0), t.in(0), t.ring(1).position, &rope);
        return kTfLiteOk;
    }
};

struct RopeRingOptions {
    int32_t op;
    int32_t heads;
    int32_t head_dim;
    int32_t shift;
};

/* in: x, mg_ring_t, rope step, zero points, the ring that is written. */
template <auto kernel> struct RopeRing : Plain<RopeRingOptions, 5, 0> {
    static TfLiteStatus run(const Tensors &t, const RopeRingOptions &o)
    {
        const mg_rope_t rope = {t.in(2), t.in(3), o.heads, o.head_dim, o.shift};
        const mg_ring_t ring = t.ring(1);
        kernel(t.in(4), ring.slot, t.in(0), ring.position, &rope);
        return kTfLiteOk;
    }
};

struct AttentionOptions {
    int32_t op;
    int32_t n_heads;
    int32_t n_kv_heads;
    int32_t head_dim;
    int32_t shift;
    int32_t drop;
};

/* in: q, keys, values, mg_ring_t. out: y, scratch. */
template <auto kernel> struct Attention : Plain<AttentionOptions, 4, 2> {
    static TfLiteStatus run(const Tensors &t, const AttentionOptions &o)
    {
        const mg_attention_t attention = {o.n_heads, o.n_kv_heads, o.head_dim, o.shift, o.drop};
        kernel(t.out(0), t.in(0), t.in(1), t.in(2), t.out(1), t.ring(3).length, &attention);
        return kTfLiteOk;
    }
};

/* ---------------------------------------------------------------- the likeliest token */

struct NextTokenOptions {
    int32_t op;
    int32_t vocab_size;
};

/* in: logits. out: the token of the largest, the lowest on ties. */
struct NextToken : Plain<NextTokenOptions, 1, 1> {
    static constexpr bool announced = false;

    static TfLiteStatus run(const Tensors &t, const NextTokenOptions &o)
    {
        const int32_t *const logits = t.in(0);
        int32_t *const token = t.out(0);
        *token = 0;
        for (int32_t i = 1; i < o.vocab_size; i++) {
            if (logits[i] > logits[*token]) {
                *token = i;
            }
        }
        return kTfLiteOk;
    }
};

} // namespace mcugen

#endif
