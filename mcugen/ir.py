"""All data between the passes, on one page. Everything is frozen; arrays are read-only.

checkpoint -> Model -> QuantizedModel -> Graph -> Plan -> Project -> Firmware -> Trace -> VerificationReport
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcugen.layouts import stored_bytes

# ---------------------------------------------------------------- model


ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu", "relu2")  # of a gate; gelu_tanh is GELU's tanh approximation


@dataclass(frozen=True, slots=True)
class Config:
    """The shape of a Llama-style decoder, under llama2.c's names (struct Config in run.c); what close relatives of
    Llama add follows behind norm_eps, and is off by default.

    head_size: values of a head, 0 for dim / n_heads. activation: of the gate, one of ACTIVATIONS.
    layer_windows: per layer, how many of the latest positions a token sees, 0 for all; () where all layers see all.
    rope_factors: what each pair's frequency is divided by (linear, Llama 3), in layers without a window; () for none.
    local_rope_theta: of layers with a window; 0 for rope_theta. attention_bias: bq, bk, bv, bo; mlp_bias: b1, b3, b2.
    qk_norm: RMSNorm of each head of queries and keys, before RoPE. post_norms: RMSNorm of what attention and
    feed-forward add to the residual. n_experts: of a mixture of experts, 0 for a plain feed-forward; the
    experts_per_token likeliest ones are weighted by the softmax of their router logits alone (as Mixtral).
    embedding_scale, logit_scale: what embedding rows and logits are multiplied by.
    """

    dim: int
    hidden_dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int
    seq_len: int  # trained context, tokens
    shared_classifier: bool
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    head_size: int = 0
    activation: str = "silu"
    layer_windows: tuple[int, ...] = ()
    rope_factors: tuple[float, ...] = ()
    local_rope_theta: float = 0.0
    attention_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    n_experts: int = 0
    experts_per_token: int = 0
    embedding_scale: float = 1.0
    logit_scale: float = 1.0

    @property
    def head_dim(self) -> int:
        return self.head_size or self.dim // self.n_heads

    @property
    def query_dim(self) -> int:
        return self.n_heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        return self.n_kv_heads * self.head_dim

    @property
    def group_size(self) -> int:
        """Query heads that share one KV head."""
        return self.n_heads // self.n_kv_heads

    @property
    def has_local_rope(self) -> bool:
        """Whether layers with a window turn by other angles than those without."""
        return any(self.layer_windows) and bool(self.rope_factors or self.local_rope_theta)

    def window(self, layer: int) -> int:
        """How many of the latest positions a layer's token sees, itself included; 0 for all."""
        return self.layer_windows[layer] if self.layer_windows else 0


def weight_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """The tensors of Model.weights, by name. wcls is not among them where the classifier is shared."""
    layers, dim, hidden = config.n_layers, config.dim, config.hidden_dim
    queries, kv = config.query_dim, config.kv_dim
    experts = (config.n_experts,) if config.n_experts else ()
    shapes: dict[str, tuple[int, ...]] = {
        "token_embedding_table": (config.vocab_size, dim),
        "rms_att_weight": (layers, dim),
        "wq": (layers, queries, dim),
        "wk": (layers, kv, dim),
        "wv": (layers, kv, dim),
        "wo": (layers, dim, queries),
        "rms_ffn_weight": (layers, dim),
        "w1": (layers, *experts, hidden, dim),
        "w2": (layers, *experts, dim, hidden),
        "w3": (layers, *experts, hidden, dim),
        "rms_final_weight": (dim,),
    }
    if not config.shared_classifier:
        shapes["wcls"] = (config.vocab_size, dim)
    if config.attention_bias:
        shapes |= {"bq": (layers, queries), "bk": (layers, kv), "bv": (layers, kv), "bo": (layers, dim)}
    if config.mlp_bias:
        shapes |= {"b1": (layers, hidden), "b3": (layers, hidden), "b2": (layers, dim)}
    if config.qk_norm:
        shapes |= {"q_norm": (layers, config.head_dim), "k_norm": (layers, config.head_dim)}
    if config.post_norms:
        shapes |= {"post_att_weight": (layers, dim), "post_ffn_weight": (layers, dim)}
    if config.n_experts:
        shapes["router"] = (layers, config.n_experts, dim)
    return shapes


# What a file may say of its Config, at most: anything else means a damaged or foreign file, or a model that no
# microcontroller holds. Token ids are uint16 in the firmware.
CONFIG_LIMITS = {
    "dim": 65_536,
    "hidden_dim": 262_144,
    "n_layers": 1_024,
    "n_heads": 1_024,
    "n_kv_heads": 1_024,
    "vocab_size": 65_536,
    "seq_len": 1_048_576,
}


@dataclass(frozen=True, slots=True, eq=False)
class Tokenizer:
    """A BPE vocabulary with integer merge ranks: of pieces, as llama2.c has them, or of pairs (merges) as elsewhere.

    pieces: the bytes of each token id; byte tokens read b"<0x0A>".
    ranks: int32[vocab]; of two neighbours whose concatenation is a piece, the pair whose piece has the
        lowest rank merges first; NO_MERGE where a piece is never the result of a merge. All NO_MERGE beside merges.
    unk: -1 where there is none. bos: what a sequence begins with; the token that ends one where a model has no other.
    first_byte: id of b"<0x00>" if the vocabulary holds all 256 byte tokens in order, else None: then a
        character outside the vocabulary becomes `unk`.
    lowercase: ASCII letters are lowered before anything else; not beside merges.
    prompt_suffix: text that the application appends to what its user types, e.g. "\\n".
    prefix: whether a space goes in front of a text: "always" (without merges, where it is a piece), "missing" (unless
        the text begins with one), or "never".
    specials: tokens that print nothing, beside unk, bos and eos.

    What follows goes with merges, and is off without:
    merges: int32[n, 3] in order of rank: two neighbours, and the token they become.
    symbols: int32[m], no piece twice: tokens that a text may consist of before anything merges.
    byte_level: a symbol is a byte, each of which is there; else a code point, and U+2581 is a space.
    split: where a text is cut into words, which never merge: a name of mcugen.split.SPLITS; "space" for before each
        space; "" for nowhere.
    whole_words: a word that is one of symbols, which then holds longer pieces too, becomes that token; byte_level
        only.
    fuse_unk: unknown neighbours in a word become one unk.
    """

    pieces: tuple[bytes, ...]
    ranks: NDArray[np.int32]
    unk: int = 0
    bos: int = 1
    eos: int = 2
    first_byte: int | None = 3
    lowercase: bool = False
    prompt_suffix: str = ""
    prefix: str = "always"
    specials: tuple[int, ...] = ()
    merges: NDArray[np.int32] | None = None
    symbols: NDArray[np.int32] | None = None
    byte_level: bool = False
    split: str = ""
    whole_words: bool = False
    fuse_unk: bool = False


NO_MERGE = 2**31 - 1  # rank of a piece that is never the result of a merge


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A decoder in float32.

    weights: llama2.c's names (TransformerWeights in run.c), without the RoPE tables: those of weight_shapes, and wcls
        in any case (the embedding table itself where the classifier is shared).
    sha256: of the checkpoint file.
    factors: what its reader multiplied weights by, beyond what the file holds; an adapter's share is as much larger.
    """

    name: str
    config: Config
    weights: Mapping[str, NDArray[np.float32]]
    sha256: str
    factors: Mapping[str, float] = field(default_factory=dict)


# ---------------------------------------------------------------- quantised model

# Matrices of a layer that TFLite Micro's FULLY_CONNECTED may compute: all of them, or none. wv writes ring slots.
FC_MATRICES = ("wq", "wk", "wo", "w1", "w3", "w2")


def _freeze(*arrays: NDArray[np.generic]) -> None:
    for array in arrays:
        array.setflags(write=False)


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """A matrix of integer codes and what brings its accumulators to the output's units.

    codes: int8[rows, cols], in [-127, 127] of 8 bits and [-8, 7] of 4. multiplier: int16[rows] in [0, 32767]; shift:
    one for all rows. output = round(acc * multiplier * peak / 2**shift), where peak is x's block scale and acc the
    product of codes and x; of an embedding table, round(codes[token] * multiplier[token] / 2**shift).
    group_scale: int8[rows, groups] in [-127, 127], or None: what each run of `group` columns counts in acc (the last
    may be shorter); int4 only.
    fc: (multiplier, shift) of TFLite Micro's FULLY_CONNECTED, or None: our own kernel; int8 only. It brings acc to an
    int8 code = acc * multiplier * 2**(shift - 31), twice rounded (kernels.fc_codes), and the other multiplier and
    shift then apply to that code instead of acc. multiplier in [2**30, 2**31) with 24 significant bits, so that the
    filter's scale, multiplier * 2**(shift - 31), is a float32; shift in [-31, 0]: a code stands for 1 or more.
    """

    codes: NDArray[np.int8]
    multiplier: NDArray[np.int16]
    shift: int
    bits: int = 8
    group: int = 0
    group_scale: NDArray[np.int8] | None = None
    fc: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        _freeze(self.codes, self.multiplier)
        if self.group_scale is not None:
            _freeze(self.group_scale)


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """gain: int16[dim] in Q(gain_frac), with sqrt(dim) and the output's scale in it; gain_frac may be negative.

    eps: in squared units of the input. Of heads, gain is int16[heads * head_dim]: each head is a vector of its own.
    """

    gain: NDArray[np.int16]
    gain_frac: int
    eps: int

    def __post_init__(self) -> None:
        _freeze(self.gain)


@dataclass(frozen=True, slots=True, eq=False)
class Expert:
    """One feed-forward of a mixture; all of a layer have the same shapes, bits, units of gate, up and hidden."""

    w1: Linear
    w3: Linear
    w2: Linear


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedLayer:
    """One decoder layer in integers.

    key_zero: int32[kv_dim] in Q(15 + key_shift) of a key code; key_shift: how much finer wk's output is than a code.
    score_shift: q . k to scores in 1/64 octaves. gate_frac: w1 x is Q(gate_frac); swiglu_shift: activation(w1 x) *
    (w3 x) to int16, where the activation keeps Q(gate_frac), but for relu2: Q(2 * gate_frac - 15).
    *_bias: int16[rows] in the units of what they are added to, or None where all are zero; out_bias is wo bv + bo,
    since softmax weights sum to 1. Norms that Config does not ask for are None. A mixture of experts has a router,
    int8 with Q16 logits, and experts instead of w1, w3 and w2.
    """

    att_norm: Norm
    wq: Linear
    wk: Linear
    wv: Linear
    key_zero: NDArray[np.int32]
    key_shift: int
    score_shift: int
    wo: Linear
    ffn_norm: Norm
    w1: Linear | None
    w3: Linear | None
    gate_frac: int
    swiglu_shift: int
    w2: Linear | None
    query_bias: NDArray[np.int16] | None = None
    key_bias: NDArray[np.int16] | None = None
    out_bias: NDArray[np.int16] | None = None
    gate_bias: NDArray[np.int16] | None = None
    up_bias: NDArray[np.int16] | None = None
    down_bias: NDArray[np.int16] | None = None
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    post_att_norm: Norm | None = None
    post_ffn_norm: Norm | None = None
    router: Linear | None = None
    experts: tuple[Expert, ...] = ()

    def __post_init__(self) -> None:
        biases = (self.query_bias, self.key_bias, self.out_bias, self.gate_bias, self.up_bias, self.down_bias)
        _freeze(self.key_zero, *(bias for bias in biases if bias is not None))


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedModel:
    """A decoder in integers only (profile W8A8KV8; W8A8KV8-FC8 where its matrices have an fc).

    rope_step: uint32[head_dim / 2], turns per position in Q32; local_rope_step: those of layers with a window, None
    where they are the same.
    value_bits: of cached values, 8, or 4 with a step per kernels.VALUES4_GROUP channels.
    max_position: cached keys are turned back before a position reaches it (their zero points hold below it).
    classifier: shares its codes with embedding where config.shared_classifier. Logits are Q16 nats.
    sha256: of the checkpoint it came from; recipe: how it was made, for provenance.
    """

    name: str
    config: Config
    embedding: Linear
    layers: tuple[QuantizedLayer, ...]
    final_norm: Norm
    classifier: Linear
    rope_step: NDArray[np.uint32]
    max_position: int
    sha256: str
    recipe: str
    local_rope_step: NDArray[np.uint32] | None = None
    value_bits: int = 8

    def __post_init__(self) -> None:
        _freeze(self.rope_step)
        if self.local_rope_step is not None:
            _freeze(self.local_rope_step)

    def layer_rope_step(self, layer: int) -> NDArray[np.uint32]:
        local = self.local_rope_step if self.config.window(layer) else None
        return self.rope_step if local is None else local


# ---------------------------------------------------------------- graph


@dataclass(frozen=True, slots=True)
class Buffer:
    """An array in the arena, of one token, and of as many as a forward pass takes at once.

    state: lives from token to token (the KV ring). layout: how its values lie (mcugen.layouts).
    """

    name: str
    dtype: str  # "int8", "int16" or "int32"
    shape: tuple[int, ...]
    state: bool = False
    layout: str = "plain"
    tokens: int = 1

    @property
    def token_bytes(self) -> int:
        return stored_bytes(self.layout, self.dtype, self.shape)

    @property
    def nbytes(self) -> int:
        return self.tokens * self.token_bytes


@dataclass(frozen=True, slots=True)
class KernelVariant:
    """One C implementation of a kernel: same contract, same numbers, another core.

    sources: files in firmware/, the one with the symbol first.
    """

    symbol: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Bank:
    """A matrix of every expert. label: "layers.0.w1"; rank: the op reads the one that choice[rank] names."""

    label: str
    matrices: tuple[Linear, ...]
    rank: int


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One kernel call. kernel: its name in mcugen.kernels; label: "layers.0.wq".

    inputs, outputs, scratch: buffer names. in_place: outputs[0] may share its bytes with inputs[0].
    row: outputs[0] is a state buffer of which only the current ring slot is written.
    last: only the last token of a forward pass needs this op.
    slots: outputs[0] is a ring of which only that many slots in front may be written; 0 for any.
    parameters: integers and constant tensors by name, as the kernel's C parameters name them.
    """

    kernel: str
    label: str
    variant: KernelVariant
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    scratch: tuple[str, ...] = ()
    in_place: bool = False
    row: bool = False
    last: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)
    slots: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Ring:
    """How tokens share the slots of a KV ring: the first `sinks` keep theirs (StreamingLLM, Xiao et al. 2023), the
    others take turns in those behind them."""

    slots: int
    sinks: int = 0

    def slot(self, token: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the tokens with these numbers in a sequence go."""
        turns = self.sinks + (token - self.sinks) % (self.slots - self.sinks)
        return np.where(token < self.sinks, token, turns)

    def sees(self, token: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether a token finds another one, or itself, in the ring once its own slot is written."""
        age = token - other
        return (age >= 0) & ((other < self.sinks) | (age < self.slots - self.sinks))


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """A forward pass as a flat list of ops over named buffers, and the ops that turn the key rings back.

    ops run for every token; rebase ops run before them when the position has reached model.max_position.
    context: slots of a KV ring; of a layer with a smaller window, that. sinks: slots in front of the rings of
    `context` slots that keep the first tokens of a sequence. batch: tokens of a prompt that one pass takes at most.
    family: of the kernels (mcugen.families); packing: of their matrices (mcugen.packing).
    """

    model: QuantizedModel
    context: int
    buffers: Mapping[str, Buffer]
    ops: tuple[Op, ...]
    rebase: tuple[Op, ...]
    logits: str
    batch: int = 1
    family: str = "portable"
    packing: str = "row_major"
    sinks: int = 0

    def ring(self, name: str) -> Ring:
        """How tokens share a state buffer of keys or values."""
        slots = self.buffers[name].shape[0]
        return Ring(slots, self.sinks if slots == self.context else 0)

    @property
    def rings(self) -> tuple[Ring, ...]:
        """Each layer's ring."""
        return tuple(self.ring(op.outputs[0]) for op in self.rebase)


# ---------------------------------------------------------------- plan


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of the arena, from `begin` to before `end`, that lie together. memory: "ram" or one of Board.memories."""

    memory: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What lies or runs in which memory ("ram", "flash" or one of Board.memories), and why. nbytes: at most."""

    what: str
    memory: str
    nbytes: int
    why: str


@dataclass(frozen=True, slots=True)
class Placement:
    """Which memory holds what; stack and variables are in the main RAM in any case.

    parts: of the arena, in order and without gaps; () for the whole arena in main RAM. kernels: the memory that they
    run from. weights: label of a matrix -> the memory that it is copied to at start; the others are read from flash.
    decisions: the same for people, every one with its reason.
    """

    parts: tuple[Part, ...] = ()
    kernels: str = "flash"
    weights: Mapping[str, str] = field(default_factory=dict)
    decisions: tuple[Decision, ...] = ()

    def nbytes(self, memory: str) -> int:
        """What was decided to lie in a memory."""
        return sum(decision.nbytes for decision in self.decisions if decision.memory == memory)


@dataclass(frozen=True, slots=True)
class Plan:
    """Where everything lies.

    arena_bytes: a multiple of the plan's alignment (4 at least), as every offset is. offsets: buffer name -> byte
    offset in the arena. lower_bound: the largest sum of live bytes (each size rounded up to the alignment) at any op;
    no plan can be smaller.
    peak_op: index of that op in graph.ops or, negative, in graph.rebase; peak_buffers: the buffers alive at it.
    flash: (what, bytes) of the generated constants. stack_bytes: what the board reserves.
    lifetimes: buffer name -> first and last op it is alive at, numbered as peak_op; state lives at all of them.
    live_bytes: per op of graph.ops the sum of live bytes, state included.
    placement: in which memory the arena, or a part of it, and everything else lies.
    """

    arena_bytes: int
    offsets: Mapping[str, int]
    lower_bound: int
    peak_op: int
    peak_buffers: tuple[str, ...]
    flash: tuple[tuple[str, int], ...]
    stack_bytes: int
    lifetimes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    live_bytes: tuple[int, ...] = ()
    placement: Placement = Placement()

    @property
    def parts(self) -> tuple[Part, ...]:
        """Of the arena, one at least."""
        return self.placement.parts or (Part("ram", 0, self.arena_bytes),)


# ---------------------------------------------------------------- verification


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """What every op wrote, token by token.

    tokens: what was fed. outputs: per op of graph.ops, a tuple of int arrays [T, n], one per output (for a KV ring,
    the slot written). rebased: token index -> the key rings right after they were turned back, one per layer.
    state: the state buffers after the last token.
    """

    tokens: tuple[int, ...]
    outputs: tuple[tuple[NDArray[np.integer], ...], ...]
    rebased: Mapping[int, tuple[NDArray[np.int8], ...]]
    state: Mapping[str, NDArray[np.integer]]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first value that differs, in the order the firmware computes.

    kernel: empty where no op is to blame; label then says when (verify.BEFORE_THE_OPS, AFTER_THE_OPS).
    """

    token_index: int
    op_index: int
    label: str
    kernel: str
    output: str
    element: int
    expected: int
    observed: int


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """One rung's verdict. values: how many integers were compared."""

    rung: str
    machine: str
    tokens: int
    ops: int
    values: int
    difference: Difference | None


# ---------------------------------------------------------------- board


@dataclass(frozen=True, slots=True)
class MemoryRegion:
    origin: int  # address
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Memory:
    """RAM beside a board's main one. holds: what may lie there, of {"code", "data"}. fast: the core waits less for
    data in it than in the main one."""

    name: str
    region: MemoryRegion
    holds: frozenset[str]
    fast: bool = False


@dataclass(frozen=True, slots=True)
class Board:
    """A fact sheet: what boards/*.toml states, checked.

    core: "cortex-m4", "host" ...; features: what the core has, e.g. {"dsp", "fpu"}; cores: how many of them.
    port: the folder of firmware/ports/ that starts this board ("stm32f4", "host").
    port_defines: integer constants that the port's C needs, sorted by name.
    xip: whether code and weights are read from a serial flash through a cache. memories: in the file's order.
    flashing: (tool, what it has to know) in the order to try.
    flash_data: where the flash is read as data, if another bus reads it; code is at flash.origin in any case.
    ram_code: where code in the main RAM is fetched, if another bus does it.
    own_port: (file name, content) of a user's own port, which then has none in firmware/ports/.
    """

    name: str
    title: str
    core: str
    features: frozenset[str]
    clock_hz: int
    flash: MemoryRegion
    ram: MemoryRegion
    stack_bytes: int
    headroom: float  # share of RAM that the report asks to keep free; 0.20 = 20 %
    port: str
    port_defines: tuple[tuple[str, int], ...]
    sha256: str
    facts: Mapping[str, str] = field(default_factory=dict)  # everything else worth showing, with its source
    cores: int = 1
    xip: bool = False
    memories: tuple[Memory, ...] = ()
    flashing: tuple[tuple[str, Mapping[str, str | int]], ...] = ()
    flash_data: int | None = None
    ram_code: int | None = None
    own_port: tuple[tuple[str, bytes], ...] = ()


# ---------------------------------------------------------------- project and firmware


@dataclass(frozen=True, slots=True)
class Project:
    """A rendered C project: nothing is written yet.

    files: relative path -> content. sources: which of them are compiled, in link order.
    include_dirs: relative, in search order. linker_script: relative path, or None on the host.
    """

    name: str
    board: Board
    files: Mapping[str, bytes]
    sources: tuple[str, ...]
    include_dirs: tuple[str, ...]
    linker_script: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Firmware:
    """What a toolchain made of a Project.

    image: the ELF (or the host's shared library) as bytes. sections: name -> bytes, allocated ones only.
    flash_bytes: what is programmed. static_bytes: all in main RAM but the stack. stack_bytes: reserved for that.
    toolchain: e.g. "zig 0.17.1 (clang 22)". flags: its options for kinds of sources ("c -Os"), and to "link".
    """

    board: Board
    image: bytes
    sections: Mapping[str, int]
    flash_bytes: int
    static_bytes: int
    stack_bytes: int
    toolchain: str
    flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
