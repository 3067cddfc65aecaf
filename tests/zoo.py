"""The model zoo: tiny random decoders of odd shapes, and stories260K where its files are.

Every rung of the ladder walks through it. Random models are never trained: a rung that wants a model with something
to say takes stories260K.
"""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from mcugen.checkpoints import read_checkpoint
from mcugen.fc8 import to_fc8
from mcugen.ir import NO_MERGE, Config, Model, QuantizedModel, Tokenizer, weight_shapes
from mcugen.quantize import calibrate, quantize
from mcugen.tokenizer import encode, read_tokenizer

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"

# Odd on purpose: sizes that no packing likes, every way to share KV heads, the smallest of everything.
SHAPES = {
    "gqa": Config(48, 172, 2, 6, 2, 300, 16, False),  # 6 query heads over 2 KV heads, hidden 172
    "mqa": Config(32, 20, 1, 4, 1, 11, 8, True),
    "mha": Config(24, 33, 2, 3, 3, 50, 16, True),
    "narrow": Config(4, 1, 3, 2, 1, 5, 4, False),  # head_dim 2, hidden 1
    "wide": Config(64, 40, 1, 2, 1, 77, 32, True),  # head_dim 32
}


def model_of(config: Config, seed: int = 0) -> Model:
    """A random decoder whose values stay of order 1 from the first layer to the last.

    Each matrix keeps the variance of its input (standard deviation 1 / sqrt(columns)); what adds to the residual is
    smaller by sqrt(2 n_layers), as llama2.c's model.py has it. Logits have a standard deviation near 2.
    """
    rng = np.random.default_rng(seed)
    small = 1 / np.sqrt(2 * config.n_layers)
    scales = {"token_embedding_table": 2.0, "wcls": 2.0, "wo": small, "w2": small, "router": 2.0}
    weights = {}
    for name, shape in weight_shapes(config).items():
        if name.startswith(("rms_", "post_")) or name.endswith("_norm"):
            values = np.exp(rng.normal(0, 0.3, shape))
            values *= small if name.startswith("post_") else 1
        elif name.startswith("b"):
            values = rng.normal(0, 0.3, shape)
        else:
            values = rng.normal(0, scales.get(name, 1.0) / np.sqrt(shape[-1]), shape)
        weights[name] = values.astype(np.float32)
    if config.shared_classifier:
        weights["wcls"] = weights["token_embedding_table"]
    for tensor in weights.values():
        tensor.setflags(write=False)
    return Model(f"random{seed}", config, weights, f"{seed:064x}")


def random_tokens(config: Config, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.vocab_size, count)


@functools.cache
def quantized(config: Config, seed: int = 0, bits: int = 8) -> QuantizedModel:
    """model_of this shape in integers, calibrated on 8 sequences of random tokens: cheap, and close enough."""
    model = model_of(config, seed)
    sequences = random_tokens(config, 8 * config.seq_len, seed).reshape(8, -1)
    return quantize(model, calibrate(model, sequences, "random tokens"), bits)


@functools.cache
def fc8(config: Config, seed: int = 0) -> QuantizedModel:
    """The same for TFLite Micro's FULLY_CONNECTED, calibrated on a few tokens."""
    return to_fc8(quantized(config, seed), tokens=48)


def random_tokenizer(vocab_size: int) -> Tokenizer:
    """A BPE vocabulary of any size from 3: the specials, the 256 bytes where they fit, letters, and random merges."""
    rng = np.random.default_rng(vocab_size)
    specials = [b"<unk>", b"\n<s>\n", b"\n</s>\n"]
    with_bytes = vocab_size >= 3 + 256
    pieces = specials + [b"<0x%02X>" % byte for byte in range(256) if with_bytes]
    room = vocab_size - len(pieces)
    singles = [bytes([letter]) for letter in b" etaoinshrdlucmfwygpbvkxjqz"][: room - room // 2]
    merges: list[bytes] = []
    while len(singles) + len(merges) < room:
        known = singles + merges
        left, right = rng.integers(0, len(known), 2)
        merged = known[left] + known[right]
        if merged not in known:
            merges.append(merged)
    ranks = np.full(vocab_size, NO_MERGE, np.int32)
    ranks[vocab_size - len(merges) :] = np.arange(len(merges))
    ranks.setflags(write=False)
    return Tokenizer((*pieces, *singles, *merges), ranks, first_byte=3 if with_bytes else None)


def byte_level_tokenizer(vocab_size: int, split: str = "llama3") -> Tokenizer:
    """A byte-level vocabulary of any size from 263: bytes, merges, and what ends a text.

    "s " merges first, which no split lets happen; then " the" and "hat", then random ones.
    """
    rng = np.random.default_rng(vocab_size)
    pieces = [*(bytes([byte]) for byte in range(256)), b"s ", b"he", b" t", b" the", b"at", b"hat"]
    merges = [(ord("s"), ord(" "), 256), (ord("h"), ord("e"), 257), (ord(" "), ord("t"), 258), (258, 257, 259),
              (ord("a"), ord("t"), 260), (ord("h"), 260, 261)]  # fmt: skip
    known = [*b" etaoinshrdlu", *range(257, 262)]
    while len(pieces) < vocab_size - 1:
        left, right = (known[i] for i in rng.integers(0, len(known), 2))
        if pieces[left] + pieces[right] not in pieces:
            merges.append((left, right, len(pieces)))
            known.append(len(pieces))
            pieces.append(pieces[left] + pieces[right])
    pieces.append(b"<|endoftext|>")
    ends = vocab_size - 1
    return Tokenizer(
        tuple(pieces), np.full(vocab_size, NO_MERGE, np.int32), unk=-1, bos=ends, eos=ends, first_byte=None,
        prefix="never", specials=(ends,), merges=np.array(merges, np.int32).reshape(-1, 3),
        symbols=np.arange(ends, dtype=np.int32) if split == "llama3" else np.arange(256, dtype=np.int32),
        byte_level=True, split=split, whole_words=split == "llama3",
    )  # fmt: skip


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Shapes of all kinds, odd ones preferred; small enough that a forward pass takes no time."""
    head_dim = 2 * draw(st.integers(1, 16))
    n_kv_heads = draw(st.integers(1, 3))
    n_heads = n_kv_heads * draw(st.integers(1, 3))
    return Config(
        dim=n_heads * head_dim,
        hidden_dim=draw(st.integers(1, 40) | st.just(172)),
        n_layers=draw(st.integers(1, 3)),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        vocab_size=draw(st.integers(3, 50) | st.just(300)),
        seq_len=draw(st.sampled_from([2, 3, 8, 16])),
        shared_classifier=draw(st.booleans()),
    )


def shapes() -> pytest.MarkDecorator:
    """Run a test once for each of SHAPES, as `config`."""
    return pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES.keys())


# ---------------------------------------------------------------- stories260K


@functools.cache
def stories() -> Model:
    """The real checkpoint; skips where it is not there."""
    if not (DATA / "stories260K.bin").exists():
        pytest.skip("stories260K.bin is not here")
    return read_checkpoint(DATA / "stories260K.bin")


@functools.cache
def stories_tokenizer() -> Tokenizer:
    stories()
    return read_tokenizer(DATA / "tok512.bin", 512)


@functools.cache
def stories_tokens() -> np.ndarray:
    """The first 8,192 tokens of the text, without bos."""
    text = (DATA / "tinystories.txt").read_text(encoding="utf-8")
    return np.array(list(itertools.islice(encode(stories_tokenizer(), text[:24000], bos=False), 8192)))
