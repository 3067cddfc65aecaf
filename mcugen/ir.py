"""All data between the passes, on one page. Everything is frozen; arrays are read-only.

checkpoint -> Model -> QuantizedModel -> Graph -> Plan -> Project -> Firmware -> Trace -> VerificationReport
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# ---------------------------------------------------------------- model


@dataclass(frozen=True, slots=True)
class Config:
    """The shape of a Llama-style decoder, under llama2.c's names (struct Config in run.c)."""

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

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    @property
    def kv_dim(self) -> int:
        return self.n_kv_heads * self.head_dim

    @property
    def group_size(self) -> int:
        """Query heads that share one KV head."""
        return self.n_heads // self.n_kv_heads


@dataclass(frozen=True, slots=True, eq=False)
class Tokenizer:
    """A BPE vocabulary with integer merge ranks.

    pieces: the bytes of each token id; byte tokens read b"<0x0A>".
    ranks: int32[vocab]; of two neighbours whose concatenation is a piece, the pair whose piece has the
        lowest rank merges first; NO_MERGE where a piece is never the result of a merge.
    first_byte: id of b"<0x00>" if the vocabulary holds all 256 byte tokens in order, else None: then a
        character outside the vocabulary becomes `unk`.
    lowercase: ASCII letters are lowered before anything else.
    prompt_suffix: text that the application appends to what its user types, e.g. "\\n".
    """

    pieces: tuple[bytes, ...]
    ranks: NDArray[np.int32]
    unk: int = 0
    bos: int = 1
    eos: int = 2
    first_byte: int | None = 3
    lowercase: bool = False
    prompt_suffix: str = ""


NO_MERGE = 2**31 - 1  # rank of a piece that is never the result of a merge


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A decoder in float32.

    weights: llama2.c's names (TransformerWeights in run.c), without the RoPE tables:
        token_embedding_table[vocab, dim], rms_att_weight[layer, dim], wq[layer, dim, dim],
        wk[layer, kv_dim, dim], wv[layer, kv_dim, dim], wo[layer, dim, dim], rms_ffn_weight[layer, dim],
        w1[layer, hidden, dim], w2[layer, dim, hidden], w3[layer, hidden, dim], rms_final_weight[dim],
        wcls[vocab, dim] (the embedding table itself where the classifier is shared).
    sha256: of the checkpoint file.
    """

    name: str
    config: Config
    weights: Mapping[str, NDArray[np.float32]]
    sha256: str


# ---------------------------------------------------------------- board


@dataclass(frozen=True, slots=True)
class MemoryRegion:
    origin: int  # address
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Board:
    """A fact sheet: what boards/*.toml states, checked.

    core: "cortex-m4", "host" ...; features: what the core has, e.g. {"dsp", "fpu"}.
    port: the folder of firmware/ports/ that starts this board ("stm32f4", "host").
    port_defines: integer constants that the port's C needs, sorted by name.
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
    flash_bytes: what is programmed. static_bytes: .data + .bss. stack_bytes: reserved for the stack.
    toolchain: e.g. "zig 0.17.1 (clang 22)".
    """

    board: Board
    image: bytes
    sections: Mapping[str, int]
    flash_bytes: int
    static_bytes: int
    stack_bytes: int
    toolchain: str
