"""The quantised model as one file: everything comes back, and nothing wrong gets in."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import (
    ARCHITECTURES,
    NEAREST,
    SHAPES,
    architectures,
    byte_level_tokenizer,
    configs,
    fc8,
    model_of,
    quantized,
    random_tokenizer,
    random_tokens,
    shapes,
)

from mcugen.errors import InputError, InternalError
from mcugen.ir import FC_MATRICES, Config, QuantizedModel, Tokenizer
from mcugen.lower import lower
from mcugen.quantize import calibrate, quantize
from mcugen.quantized_file import load_quantized, save_quantized
from mcugen.simulate import simulate

MQA, NARROW, GQA = SHAPES["mqa"], SHAPES["narrow"], SHAPES["gqa"]
TOKENIZER = random_tokenizer(11)
FULL = save_quantized(quantized(MQA), TOKENIZER)
INT4 = save_quantized(quantized(MQA, bits=4), TOKENIZER)
FC8 = save_quantized(fc8(MQA), TOKENIZER)


def same(one: object, two: object) -> bool:
    """Equal in every field, dtype and element."""
    if isinstance(one, np.ndarray):
        assert isinstance(two, np.ndarray)
        return one.dtype == two.dtype and one.dtype.isnative and np.array_equal(one, two)
    if dataclasses.is_dataclass(one):
        assert type(one) is type(two)
        return all(same(getattr(one, f.name), getattr(two, f.name)) for f in dataclasses.fields(one))
    if isinstance(one, tuple):
        assert isinstance(two, tuple)
        return len(one) == len(two) and all(map(same, one, two))
    return type(one) is type(two) and one == two


# ---------------------------------------------------------------- there and back


INTEGERS = pytest.mark.parametrize(
    "integers", [quantized, functools.partial(quantized, bits=4), fc8], ids=["8", "4", "fc8"]
)


@INTEGERS
@shapes()
def test_a_model_comes_back(config: Config, integers: Callable[[Config], QuantizedModel], tmp_path: Path) -> None:
    check_comes_back(integers(config), tmp_path)


@pytest.mark.parametrize("bits", [8, 4])
@architectures()
def test_a_relative_of_llama_comes_back(config: Config, bits: int, tmp_path: Path) -> None:
    check_comes_back(quantized(config, bits=bits), tmp_path)


def test_windows_and_frequencies_come_back(tmp_path: Path) -> None:
    config = dataclasses.replace(NARROW, layer_windows=(0, 3, 2), rope_factors=(4.0,), local_rope_theta=100.0)
    check_comes_back(quantized(config), tmp_path)


def check_comes_back(model: QuantizedModel, tmp_path: Path) -> None:
    content = save_quantized(model)
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    for source in (content, path):
        loaded, tokenizer = load_quantized(source)
        assert same(model, loaded)
        assert tokenizer is None
    assert save_quantized(loaded) == content


@settings(max_examples=10)
@given(configs(), st.integers(0, 2**32 - 1), st.sampled_from([8, 4]))
def test_any_shape_comes_back(config: Config, seed: int, bits: int) -> None:
    model = model_of(config, seed)
    integers = quantize(
        model, calibrate(model, [random_tokens(config, config.seq_len)], "random tokens"), NEAREST[bits]
    )
    content = save_quantized(integers, random_tokenizer(config.vocab_size))
    loaded, tokenizer = load_quantized(content)
    assert same(integers, loaded)
    assert same(random_tokenizer(config.vocab_size), tokenizer)


@INTEGERS
def test_what_comes_back_computes_the_same(integers: Callable[[Config], QuantizedModel]) -> None:
    model = integers(GQA)
    loaded = load_quantized(save_quantized(model))[0]
    tokens = random_tokens(GQA, 20).tolist()
    one, two = (simulate(lower(m, 8), tokens) for m in (model, loaded))
    for a, b in zip(one.outputs, two.outputs, strict=True):
        assert same(a, b)


def test_a_shared_classifier_is_stored_once_and_shared_again() -> None:
    loaded = load_quantized(FULL)[0]
    assert loaded.classifier.codes is loaded.embedding.codes
    assert "classifier.codes" not in stored(FULL)
    assert "classifier.codes" in stored(save_quantized(quantized(GQA)))
    codes = quantized(MQA).embedding.codes.copy()
    codes[0, 0] ^= 1
    model = quantized(MQA)
    torn = dataclasses.replace(model, classifier=dataclasses.replace(model.classifier, codes=codes))
    with pytest.raises(InternalError) as caught:
        save_quantized(torn)
    assert caught.value.what == "the shared classifier has other codes than the embedding"


def test_matrices_of_any_bits_and_groups_come_back() -> None:
    """Each matrix has its own; a group of 0 is one scale per row, in the multiplier."""
    model = quantized(MQA)
    layer = model.layers[0]
    rows, cols = layer.w1.codes.shape
    codes = np.arange(rows * cols).reshape(rows, cols) % 16 - 8
    scales = np.arange(rows).reshape(rows, 1) % 255 - 127
    whole = dataclasses.replace(layer.w1, codes=codes.astype(np.int8), bits=4)
    groups = dataclasses.replace(whole, group=64, group_scale=scales.astype(np.int8), shift=32)
    mixed = dataclasses.replace(model, layers=(dataclasses.replace(layer, w1=whole, w3=groups),))
    content = save_quantized(mixed)
    assert same(load_quantized(content)[0], mixed)
    assert header(content)["integers"]["layers.0.w3.group"] == 64
    assert [name for name in stored(content) if name.endswith("group_scale")] == ["layers.0.w3.group_scale"]


def test_the_tokenizer_comes_back() -> None:
    with_bytes = random_tokenizer(300)
    changed = dataclasses.replace(TOKENIZER, unk=3, bos=4, eos=0, lowercase=True, prompt_suffix="\n→ \0")
    for config, tokenizer in ((MQA, TOKENIZER), (MQA, changed), (GQA, with_bytes)):
        loaded = load_quantized(save_quantized(quantized(config), tokenizer))[1]
        assert same(tokenizer, loaded)
        assert loaded is not None and not loaded.ranks.flags.writeable
    assert with_bytes.first_byte == 3


def test_loaded_arrays_are_read_only() -> None:
    model = load_quantized(FULL)[0]
    for array in (model.embedding.codes, model.layers[0].key_zero, model.final_norm.gain, model.rope_step):
        assert not array.flags.writeable


def test_real_numbers_are_stored_exactly() -> None:
    config = dataclasses.replace(MQA, rope_theta=500000.1, norm_eps=1e-6)
    model = dataclasses.replace(quantized(MQA), config=config)
    content = save_quantized(model)
    assert header(content)["config"]["norm_eps"] == (1e-6).hex()
    assert load_quantized(content)[0].config == config


def test_a_big_endian_model_gives_the_same_bytes() -> None:
    model = quantized(MQA)
    swapped = dataclasses.replace(model, rope_step=model.rope_step.astype(">u4"))
    layer = model.layers[0]
    wq = dataclasses.replace(layer.wq, multiplier=layer.wq.multiplier.astype(">i2"))
    swapped = dataclasses.replace(swapped, layers=(dataclasses.replace(layer, wq=wq),))
    assert save_quantized(swapped) == save_quantized(model)


def test_the_bytes_are_the_same_in_every_process() -> None:
    program = "import test_quantized_file as t; print(t.hashlib.sha256(t.FULL).hexdigest())"
    expected = hashlib.sha256(FULL).hexdigest()
    for seed in ("0", "1"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, check=True, text=True)
        assert done.stdout.strip() == expected


def test_the_safetensors_library_reads_it() -> None:
    tensors = stored(FULL)
    assert np.array_equal(tensors["embedding.codes"], quantized(MQA).embedding.codes)
    assert tensors["tokenizer.pieces"].tobytes() == b"".join(TOKENIZER.pieces)
    assert (len(FULL) - sum(t.nbytes for t in tensors.values())) % 8 == 0  # tensors start on 8 bytes


# ---------------------------------------------------------------- wrong files are refused

DTYPES = {"I8": "<i1", "I16": "<i2", "I32": "<i4", "U8": "<u1", "U32": "<u4", "F32": "<f4", "I64": "<i8"}


def stored(content: bytes) -> dict[str, np.ndarray]:
    raw = safetensors.deserialize(content)
    return {n: np.frombuffer(bytes(e["data"]), DTYPES[e["dtype"]]).reshape(e["shape"]).copy() for n, e in raw}


def header(content: bytes) -> dict[str, Any]:
    (size,) = struct.unpack_from("<Q", content)
    return json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["mcugen"])


def packed(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    """A safetensors file, written down once more after its own description."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    entries: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for name, array in tensors.items():
        dtype = names["<" + array.dtype.str[1:]]
        entries[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in tensors.values())


Change = Callable[[dict[str, Any], dict[str, np.ndarray]], object]


def changed(change: Change, content: bytes = FULL) -> bytes:
    """The file after change(header, tensors), with a digest that is right again."""
    head, tensors = header(content), stored(content)
    change(head, tensors)
    del head["digest"]
    text = json.dumps(head, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode() + array.tobytes())
    head["digest"] = digest.hexdigest()
    return packed(tensors, {"mcugen": json.dumps(head, sort_keys=True, separators=(",", ":"))})


def refusal(content: bytes) -> tuple[str, str]:
    with pytest.raises(InputError) as caught:
        load_quantized(content)
    assert caught.value.where == "quantized model"
    return caught.value.what, caught.value.hint


def test_a_file_changed_by_nothing_is_read() -> None:
    assert same(load_quantized(changed(lambda head, tensors: None))[0], quantized(MQA))


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "none.safetensors"
    with pytest.raises(InputError) as caught:
        load_quantized(path)
    assert str(caught.value) == (
        "cannot read the quantized model: No such file or directory\n"
        f"  where: quantized model {path}\n"
        "  try:   give the path of a file that mcugen quantize wrote"
    )


def test_no_safetensors_file() -> None:
    hint = "give a file that mcugen quantize wrote; if it is one, copy or quantize it again"
    for content in (b"", b"hello, world", FULL[:-1], FULL + b"\0"):
        assert refusal(content) == (f"the {len(content):,} bytes are not a whole safetensors file", hint)


def test_a_safetensors_file_of_something_else() -> None:
    what = "the safetensors file has no mcugen entry in its metadata"
    for metadata in ({}, {"format": "pt"}):
        assert refusal(packed(stored(FULL), metadata)) == (
            what,
            "name the folder of a Hugging Face model, or a file that mcugen quantize wrote",
        )
    assert refusal(struct.pack("<Q", 22) + b'{"__metadata__": null}')[0] == what
    again = "quantize the model again"
    for text in ("{", "", "[" * 100_000):
        assert refusal(packed({}, {"mcugen": text})) == ("the mcugen entry of the metadata is not JSON", again)
    for text in ("[]", "{}", '{"format": "other"}'):
        expected = 'the metadata is not of the format "mcugen quantized model"'
        assert refusal(packed({}, {"mcugen": text})) == (expected, again)


@pytest.mark.parametrize("version", [1, 5, 0, "2", True, 2.0, None])
def test_another_version(version: object) -> None:
    assert refusal(changed(lambda head, tensors: head.update(version=version))) == (
        f"the file is of version {version!r}; this mcugen reads version 2 to 4",
        "quantize the model again with this mcugen, or read it with the one that wrote it",
    )


def test_a_changed_byte_of_a_tensor() -> None:
    damaged = bytearray(FULL)
    damaged[-1] ^= 1
    assert refusal(bytes(damaged)) == (
        "the content does not match its digest",
        "the file is damaged: copy or quantize it again",
    )


def test_a_tensor_type_that_no_model_has() -> None:
    content = packed({"x": np.zeros(2, "<f4")}, {"mcugen": json.dumps(header(FULL))})
    assert refusal(content) == ("tensor x is of type F32", "the types are I8, I16, I32, U8, U32")


def put(name: str, value: object) -> Change:
    """Set one entry of the header, by its path."""

    def change(head: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        *path, last = name.split("/")
        for part in path:
            head = head[part]
        head[last] = value

    return change


def tensor(name: str, value: np.ndarray) -> Change:
    return lambda head, tensors: tensors.update({name: value})


def element(name: str, value: int) -> Change:
    return lambda head, tensors: tensors[name].reshape(-1).put(0, value)


def drop(name: str) -> Change:
    def change(head: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        *path, last = name.split("/")
        target: dict[str, Any] = tensors
        if last not in tensors:
            target = head
            for part in path:
                target = target[part]
        del target[last]

    return change


def in_range(low: str, high: str) -> str:
    return f"it must be an integer in [{low}, {high}]"


def counted(names: int) -> str:
    return f"quantize the model again: version 4 has {names} of that kind here"


HEX = 'it must be a positive number in hexadecimal, as in "0x1.0p+0"'
LINE = "it must be 1 to 255 printable characters"
GROUPS = "it must be one of (0, 32, 64), and 0 for 8 bits"


@pytest.mark.parametrize(
    ("change", "what", "hint"),
    [
        # names
        (drop("recipe"), "entry recipe is missing", counted(9)),
        (put("more", 1), "entry 'more' is unknown", counted(9)),
        (drop("config/dim"), "config dim is missing", counted(23)),
        (put("config/more", 1), "config 'more' is unknown", counted(23)),
        (drop("integers/final_norm.eps"), "integer final_norm.eps is missing", counted(39)),
        (put("integers/eps", 1), "integer 'eps' is unknown", counted(39)),
        (put("integers/more", 1), "integer 'more' is unknown", counted(39)),
        (drop("layers.0.wq.codes"), "tensor layers.0.wq.codes is missing", counted(25)),
        (tensor("more", np.zeros(1, "<i1")), "tensor 'more' is unknown", counted(25)),
        (drop("tokenizer/bos"), "tokenizer setting bos is missing", counted(6)),
        (put("config/n_layers", 2), "integer layers.1.att_norm.eps is missing", counted(68)),
        (put("tokenizer", None), "tensor 'tokenizer.offsets' is unknown", counted(22)),
        # config
        (put("config", []), "config is []", "it must be a mapping of names to values"),
        (put("config/dim", 0), "dim is 0", in_range("1", "65,536")),
        (put("config/dim", True), "dim is True", in_range("1", "65,536")),
        (put("config/dim", 32.0), "dim is 32.0", in_range("1", "65,536")),
        (put("config/vocab_size", 65_537), "vocab_size is 65537", in_range("1", "65,536")),
        (put("config/n_layers", 10**30), f"n_layers is {10**30}", in_range("1", "1,024")),
        (put("config/shared_classifier", 1), "shared_classifier is 1", "it must be true or false"),
        (
            put("config/n_heads", 3),
            "dim 32, n_heads 3 and n_kv_heads 1 do not go together",
            "each must be a multiple of the next",
        ),
        (put("config/n_heads", 32), "head_dim is 1", "it must be even and at most 256"),
        (put("config/dim", 1032), "head_dim is 258", "it must be even and at most 256"),
        (put("config/rope_theta", 1.0), "rope_theta is 1.0", HEX),
        (put("config/rope_theta", "nan"), "rope_theta is 'nan'", HEX),
        (put("config/rope_theta", "inf"), "rope_theta is 'inf'", HEX),
        (put("config/norm_eps", "-0x1p-3"), "norm_eps is '-0x1p-3'", HEX),
        (put("config/norm_eps", "0x1p+99999"), "norm_eps is '0x1p+99999'", HEX),
        (put("config/norm_eps", "0x0p+0"), "norm_eps is '0x0p+0'", HEX),
        (put("config/norm_eps", "small"), "norm_eps is 'small'", HEX),
        # integers, at the ends of kernels.h's ranges
        (put("integers", None), "integers is None", "it must be a mapping of names to values"),
        (put("integers/final_norm.eps", 0), "final_norm.eps is 0", in_range("1", "281,474,976,710,656")),
        (
            put("integers/layers.0.ffn_norm.eps", 2**48 + 1),
            f"layers.0.ffn_norm.eps is {2**48 + 1}",
            in_range("1", "281,474,976,710,656"),
        ),
        (put("integers/max_position", 8), "max_position is 8", in_range("9", "1,073,741,824")),
        (put("integers/embedding.shift", 0), "embedding.shift is 0", in_range("1", "62")),
        (put("integers/embedding.shift", 63), "embedding.shift is 63", in_range("1", "62")),
        (put("integers/classifier.shift", 15), "classifier.shift is 15", in_range("16", "32")),
        (put("integers/layers.0.w2.shift", 33), "layers.0.w2.shift is 33", in_range("16", "32")),
        (put("integers/embedding.bits", 4), "embedding.bits is 4", in_range("8", "8")),
        (put("integers/classifier.bits", 4), "classifier.bits is 4", in_range("8", "8")),
        (put("integers/embedding.group", 32), "embedding.group is 32", in_range("0", "0")),
        (put("integers/layers.0.wq.bits", 9), "layers.0.wq.bits is 9", in_range("4", "8")),
        (put("integers/layers.0.wq.bits", 6), "layers.0.wq.bits is 6", "it must be 4 or 8"),
        (put("integers/layers.0.wq.bits", True), "layers.0.wq.bits is True", in_range("4", "8")),
        (put("integers/layers.0.w1.group", 65), "layers.0.w1.group is 65", in_range("0", "64")),
        (put("integers/layers.0.w1.group", 32), "layers.0.w1.group is 32", GROUPS),
        (put("integers/final_norm.gain_frac", 16), "final_norm.gain_frac is 16", in_range("-14", "15")),
        (
            put("integers/layers.0.att_norm.gain_frac", -15),
            "layers.0.att_norm.gain_frac is -15",
            in_range("-14", "15"),
        ),
        (put("integers/layers.0.key_shift", 8), "layers.0.key_shift is 8", in_range("0", "7")),
        (put("integers/layers.0.key_shift", -1), "layers.0.key_shift is -1", in_range("0", "7")),
        (put("integers/layers.0.score_shift", 0), "layers.0.score_shift is 0", in_range("1", "30")),
        (put("integers/layers.0.score_shift", 31), "layers.0.score_shift is 31", in_range("1", "30")),
        (put("integers/layers.0.gate_frac", 12), "layers.0.gate_frac is 12", in_range("4", "11")),
        (put("integers/layers.0.swiglu_shift", 31), "layers.0.swiglu_shift is 31", in_range("1", "30")),
        # tensors
        (
            tensor("layers.0.wk.codes", np.zeros((8, 31), "<i1")),
            "tensor layers.0.wk.codes has the shape (8, 31)",
            "its config asks for (8, 32)",
        ),
        (
            tensor("layers.0.wk.codes", np.zeros((8, 32), "<u1")),
            "tensor layers.0.wk.codes is of type uint8",
            "it must be int8",
        ),
        (element("embedding.codes", -128), "tensor embedding.codes holds -128", "its values must be in [-127, 127]"),
        (
            element("layers.0.w1.multiplier", -1),
            "tensor layers.0.w1.multiplier holds -1",
            "its values must be in [0, 32,767]",
        ),
        (
            tensor("layers.0.wq.group_scale", np.ones((32, 1), "<i1")),
            "tensor 'layers.0.wq.group_scale' is unknown",
            counted(25),
        ),
        (
            element("layers.0.key_zero", -(127 << 22) - 1),
            "tensor layers.0.key_zero holds -532676609",
            "its values must be in [-532,676,608, 532,676,608]",
        ),
        # texts
        (put("name", ""), "name is ''", LINE),
        (put("name", "a\nb"), "name is 'a\\nb'", LINE),
        (put("name", 7), "name is 7", LINE),
        (put("recipe", "x" * 256), "recipe is '" + "x" * 56 + "...", LINE),
        (put("recipe", "\ud800"), "recipe is '\\ud800'", LINE),
        (put("sha256", "A" * 64), "sha256 is '" + "A" * 56 + "...", "it must be 64 digits of hexadecimal"),
        # tokenizer
        (put("tokenizer", 1), "tokenizer is 1", "it must be a mapping of names to values"),
        (put("tokenizer/eos", 11), "eos is 11", in_range("0", "10")),
        (put("tokenizer/lowercase", 0), "lowercase is 0", "it must be true or false"),
        (put("tokenizer/prompt_suffix", "\udcff"), "prompt_suffix is '\\udcff'", "it must be a text"),
        (put("tokenizer/first_byte", 3), "first_byte is 3", "11 tokens cannot hold all bytes: null"),
        (
            element("tokenizer.ranks", -1),
            "tensor tokenizer.ranks holds -1",
            "its values must be in [0, 2,147,483,647]",
        ),
    ],
)
def test_a_wrong_entry_is_refused(change: Change, what: str, hint: str) -> None:
    assert refusal(changed(change)) == (what, hint)


@pytest.mark.parametrize(
    ("change", "what", "hint"),
    [
        (put("integers/layers.0.w1.group", 16), "layers.0.w1.group is 16", GROUPS),
        (put("integers/layers.0.w1.bits", 8), "layers.0.w1.group is 32", GROUPS),
        (put("integers/layers.0.w1.group", 0), "tensor 'layers.0.w1.group_scale' is unknown", counted(31)),
        (drop("layers.0.wo.group_scale"), "tensor layers.0.wo.group_scale is missing", counted(32)),
        (
            tensor("layers.0.wo.group_scale", np.ones((32, 2), "<i1")),
            "tensor layers.0.wo.group_scale has the shape (32, 2)",
            "its config asks for (32, 1)",
        ),
        (
            tensor("layers.0.wo.group_scale", np.ones((32, 1), "<i2")),
            "tensor layers.0.wo.group_scale is of type int16",
            "it must be int8",
        ),
        (
            element("layers.0.wo.group_scale", -128),
            "tensor layers.0.wo.group_scale holds -128",
            "its values must be in [-127, 127]",
        ),
        (element("layers.0.w2.codes", 8), "tensor layers.0.w2.codes holds 8", "its values must be in [-8, 7]"),
        (element("layers.0.w2.codes", -9), "tensor layers.0.w2.codes holds -9", "its values must be in [-8, 7]"),
    ],
)
def test_a_wrong_entry_of_an_int4_model_is_refused(change: Change, what: str, hint: str) -> None:
    assert refusal(changed(change, INT4)) == (what, hint)


@pytest.mark.parametrize("split", ["llama3", "gpt2"])
def test_a_vocabulary_with_merges_comes_back(split: str) -> None:
    model = quantized(dataclasses.replace(MQA, vocab_size=300))
    tokenizer = byte_level_tokenizer(300, split)
    content = save_quantized(model, tokenizer)
    assert same(load_quantized(content)[1], tokenizer)
    for change, what in (
        (lambda head, tensors: tensors.pop("tokenizer.symbols"), "tensor tokenizer.symbols is missing"),
        (element("tokenizer.merges", 300), "tensor tokenizer.merges holds 300"),
        (element("tokenizer.merges", 299), "a merge is there twice, or its pieces do not add up"),
        (element("tokenizer.symbols", 1), "the vocabulary of bytes does not hold every byte once"),
        (drop("tokenizer/split"), "tokenizer setting split is missing"),
        (aged(3), "tensor 'tokenizer.merges' is unknown"),
        (put("tokenizer/split", "tekken"), "split is 'tekken'"),
        (put("tokenizer/prefix", None), "prefix is None"),
        (put("tokenizer/split", ["gpt2"]), "split is ['gpt2']"),
        (put("tokenizer/split", "space"), "the split 'space' belongs to another kind of vocabulary"),
        (put("tokenizer/byte_level", 1), "byte_level is 1"),
        (put("tokenizer/lowercase", True), "whole_words or lowercase do not go with the merges"),
        (put("tokenizer/specials", [300]), "a special token is 300"),
        (put("tokenizer/specials", 3), "specials is 3"),
        (put("tokenizer/unk", -2), "unk is -2"),
        (put("tokenizer/unk", 5), "a symbol is there twice, or prints nothing, or is a byte token"),
    ):
        assert refusal(changed(change, content))[0] == what


def test_settings_of_merges_without_merges_are_refused() -> None:
    silent = dataclasses.replace(TOKENIZER, prefix="never", specials=(3, 5))
    content = save_quantized(quantized(MQA), silent)
    assert same(load_quantized(content)[1], silent)
    assert refusal(changed(put("tokenizer/split", "gpt2"), content))[0] == "settings of merges without merges"
    assert refusal(changed(put("tokenizer/prefix", "missing"), content))[0] == "a prefix that only merges have"


def aged(version: int) -> Change:
    """The header as version 2 and 3 had it: one epsilon, nothing of relatives of Llama or of merges."""

    def change(head: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        head["version"] = version
        del head["integers"]["value_bits"]
        head["config"] = {name: head["config"][name] for name in OLD_CONFIG}
        eps = {head["integers"].pop(name) for name in list(head["integers"]) if name.endswith("norm.eps")}
        (head["integers"]["eps"],) = eps

    return change


OLD_CONFIG = (
    "dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len", "shared_classifier",
    "rope_theta", "norm_eps",
)  # fmt: skip


@pytest.mark.parametrize("version", [2, 3])
def test_a_file_of_version_2_and_3_is_read(version: int) -> None:
    """Version 2 has no fc."""
    for content, model in ((FULL, quantized(MQA)), (INT4, quantized(MQA, bits=4))):
        assert header(content)["version"] == 4
        assert same(load_quantized(changed(aged(version), content)), (model, TOKENIZER))
    if version == 3:
        assert same(load_quantized(changed(aged(3), FC8)), (fc8(MQA), TOKENIZER))
    else:
        assert refusal(changed(aged(2), FC8)) == (
            "integer 'layers.0.w1.fc_multiplier' is unknown", counted(36),
        )  # fmt: skip


def test_a_file_of_version_3_has_no_relatives_of_llama() -> None:
    content = changed(put("version", 3), save_quantized(quantized(ARCHITECTURES["qwen2"])))
    assert refusal(content) == ("config 'activation' is unknown", counted(10))


# What close relatives of Llama add, in two models that together have all of it.
ALL = save_quantized(quantized(ARCHITECTURES["all"]))
MOE = save_quantized(quantized(ARCHITECTURES["moe2"], bits=4))


@pytest.mark.parametrize(
    ("content", "change", "what", "hint"),
    [
        (ALL, put("config/head_size", 7), "head_dim is 7", "it must be even and at most 256"),
        (ALL, put("config/head_size", 258), "head_size is 258", in_range("0", "256")),
        (ALL, put("config/head_size", 4), "tensor layers.0.query_norm.gain has the shape (48,)", "its config asks for (24,)"),
        (
            ALL,
            put("config/head_size", 0),
            "dim 34, n_heads 6 and n_kv_heads 3 do not go together",
            "each must be a multiple of the next",
        ),
        (
            ALL,
            put("config/activation", "tanh"),
            "activation is 'tanh'",
            "it must be one of silu, gelu, gelu_tanh, relu, relu2",
        ),
        (ALL, put("config/activation", ["gelu"]), "activation is ['gelu']", "it must be one of silu, gelu, gelu_tanh, relu, relu2"),
        (ALL, put("config/attention_bias", 1), "attention_bias is 1", "it must be true or false"),
        (ALL, put("config/attention_bias", False), "tensor 'layers.0.key_bias' is unknown", counted(54)),
        (ALL, put("config/mlp_bias", False), "tensor 'layers.0.down_bias' is unknown", counted(54)),
        (ALL, put("config/qk_norm", False), "integer 'layers.0.key_norm.eps' is unknown", counted(76)),
        (ALL, put("config/post_norms", False), "integer 'layers.0.post_att_norm.eps' is unknown", counted(76)),
        (ALL, put("config/embedding_scale", "-0x1p+0"), "embedding_scale is '-0x1p+0'", HEX),
        (ALL, put("config/logit_scale", 0), "logit_scale is 0", HEX),
        (ALL, put("config/layer_windows", 8), "layer_windows is 8", "it must be a list"),
        (ALL, put("config/layer_windows", [8]), "layer_windows has 1 entries", "it must have 2, or 0"),
        (ALL, put("config/layer_windows", [8, -1]), "layer_windows is -1", in_range("0", "1,048,576")),
        (ALL, put("config/rope_factors", ["0x1p+0"]), "rope_factors has 1 entries", "it must have 4, or 0"),
        (ALL, put("config/rope_factors", ["0x0p+0"]), "rope_factors is '0x0p+0'", HEX),
        (ALL, put("config/local_rope_theta", "x"), "local_rope_theta is 'x'", HEX),
        (ALL, put("config/n_experts", 65), "n_experts is 65", in_range("0", "64")),
        (ALL, put("config/experts_per_token", 1), "experts_per_token is 1", in_range("0", "0")),
        (ALL, put("integers/layers.1.query_norm.eps", 0), "layers.1.query_norm.eps is 0", in_range("1", "281,474,976,710,656")),
        (ALL, put("integers/layers.1.post_ffn_norm.gain_frac", 16), "layers.1.post_ffn_norm.gain_frac is 16", in_range("-14", "15")),
        (
            ALL,
            tensor("layers.0.query_bias", np.zeros(47, "<i2")),
            "tensor layers.0.query_bias has the shape (47,)",
            "its config asks for (48,)",
        ),
        (ALL, tensor("layers.0.up_bias", np.zeros(30, "<i4")), "tensor layers.0.up_bias is of type int32", "it must be int16"),
        (MOE, put("config/experts_per_token", 0), "experts_per_token is 0", in_range("1", "4")),
        (MOE, put("config/experts_per_token", 5), "experts_per_token is 5", in_range("1", "4")),
        (MOE, put("config/mlp_bias", True), "mlp_bias is true of a mixture of experts", "their biases are not known here: false"),
        (MOE, put("integers/layers.0.router.bits", 4), "layers.0.router.bits is 4", in_range("8", "8")),
        (MOE, put("integers/layers.0.router.shift", 15), "layers.0.router.shift is 15", in_range("16", "32")),
        (MOE, put("integers/layers.1.experts.3.w2.shift", 33), "layers.1.experts.3.w2.shift is 33", in_range("16", "32")),
        (
            MOE,
            lambda head, _: head["integers"].update({"layers.1.experts.3.w2.bits": 8, "layers.1.experts.3.w2.group": 0}),
            "layers.1.experts.3.w2.bits is 8",
            "experts have matrices of the same bits, and layers.1.experts.0.w2.bits is 4",
        ),
        (MOE, drop("layers.0.experts.2.w3.codes"), "tensor layers.0.experts.2.w3.codes is missing", counted(111)),
        (MOE, element("layers.0.experts.2.w3.codes", 8), "tensor layers.0.experts.2.w3.codes holds 8", "its values must be in [-8, 7]"),
        (MOE, element("layers.0.router.codes", -128), "tensor layers.0.router.codes holds -128", "its values must be in [-127, 127]"),
        (MOE, put("config/n_experts", 3), "integer 'layers.0.experts.3.w1.bits' is unknown", counted(110)),
    ],
)  # fmt: skip
def test_a_wrong_entry_of_a_relative_is_refused(content: bytes, change: Change, what: str, hint: str) -> None:
    assert refusal(changed(change, content)) == (what, hint)


def test_the_accumulators_of_routers_and_experts_are_checked() -> None:
    for name in ("layers.0.router", "layers.1.experts.2.w1"):
        codes = stored(MOE)[f"{name}.codes"]
        row = tensor(f"{name}.codes", np.full_like(codes, 127 if "router" in name else 7))
        many = tensor(f"{name}.group_scale", np.full((len(codes), 2), 127, "<i1"))

        def change(
            head: dict[str, Any], tensors: dict[str, np.ndarray], name: str = name, row=row, many=many
        ) -> None:
            row(head, tensors)
            if f"{name}.group_scale" in tensors:
                many(head, tensors)
            head["integers"][f"{name}.shift"] = 16

        assert refusal(changed(change, MOE))[0].startswith(f"an accumulator of {name}.codes can reach ")


def test_a_bias_of_zeros_is_not_stored() -> None:
    model = quantized(ARCHITECTURES["qwen2"])
    assert stored(save_quantized(model))["layers.0.query_bias"].any()
    layers = tuple(dataclasses.replace(layer, query_bias=None) for layer in model.layers)
    without = dataclasses.replace(model, layers=layers)
    content = save_quantized(without)
    assert "layers.0.query_bias" not in stored(content)
    assert same(load_quantized(content)[0], without)


def test_an_fc_is_two_integers_of_a_matrix() -> None:
    integers = header(FC8)["integers"]
    names = ("wq", "wk", "wo", "w1", "w3", "w2")
    found = {
        name: (integers[f"layers.0.{name}.fc_multiplier"], integers[f"layers.0.{name}.fc_shift"]) for name in names
    }
    assert found == {name: getattr(fc8(MQA).layers[0], name).fc for name in names}
    assert sum("fc_" in name for name in integers) == 2 * len(names)
    assert not any("fc_" in name for name in (*header(FULL)["integers"], *header(INT4)["integers"]))


@pytest.mark.parametrize("shift", [16, 32])
def test_the_shift_of_a_matrix_with_an_fc(shift: int) -> None:
    load_quantized(changed(put("integers/layers.0.wk.shift", shift), FC8))


@pytest.mark.parametrize(
    ("change", "what", "hint"),
    [
        (drop("integers/layers.0.wq.fc_multiplier"), "integer layers.0.wq.fc_multiplier is missing", counted(51)),
        (drop("integers/layers.0.w2.fc_shift"), "integer layers.0.w2.fc_shift is missing", counted(51)),
        (drop("integers/layers.0.wq.fc_shift"), "integer 'layers.0.w1.fc_multiplier' is unknown", counted(39)),
        (put("integers/layers.0.wv.fc_shift", 0), "integer 'layers.0.wv.fc_shift' is unknown", counted(51)),
        (put("integers/classifier.fc_shift", 0), "integer 'classifier.fc_shift' is unknown", counted(51)),
        (put("integers/layers.0.wo.fc_shift", 1), "layers.0.wo.fc_shift is 1", in_range("-31", "0")),
        (put("integers/layers.0.wo.fc_shift", -32), "layers.0.wo.fc_shift is -32", in_range("-31", "0")),
        (put("integers/layers.0.wo.fc_shift", 0.0), "layers.0.wo.fc_shift is 0.0", in_range("-31", "0")),
        (
            put("integers/layers.0.w3.fc_multiplier", 2**30 - 128),
            f"layers.0.w3.fc_multiplier is {2**30 - 128}",
            in_range("1,073,741,824", "2,147,483,520"),
        ),
        (
            put("integers/layers.0.w3.fc_multiplier", 2**31),
            f"layers.0.w3.fc_multiplier is {2**31}",
            in_range("1,073,741,824", "2,147,483,520"),
        ),
        (
            put("integers/layers.0.w3.fc_multiplier", 2**30 + 64),
            "layers.0.w3.fc_multiplier is 1,073,741,888",
            "it must be a multiple of 128, as a float32 scale is",
        ),
        (put("integers/layers.0.w1.bits", 4), "layers.0.w1.bits is 4", in_range("8", "8")),
        (put("integers/layers.0.w1.group", 32), "layers.0.w1.group is 32", GROUPS),
        (put("integers/layers.0.w1.shift", 15), "layers.0.w1.shift is 15", in_range("16", "32")),
        (put("integers/layers.0.wv.shift", 15), "layers.0.wv.shift is 15", in_range("16", "32")),
        (
            element("layers.0.wq.codes", -128),
            "tensor layers.0.wq.codes holds -128",
            "its values must be in [-127, 127]",
        ),
    ],
)
def test_a_wrong_entry_of_an_fc8_model_is_refused(change: Change, what: str, hint: str) -> None:
    assert refusal(changed(change, FC8)) == (what, hint)


def test_pieces_are_cut_where_they_may() -> None:
    size = sum(map(len, TOKENIZER.pieces))
    good = stored(FULL)["tokenizer.offsets"]
    for index, value in ((0, 1), (1, 0), (-1, size - 1), (3, int(good[2]))):
        offsets = good.copy()
        offsets[index] = value
        assert refusal(changed(tensor("tokenizer.offsets", offsets))) == (
            "tensor tokenizer.offsets does not cut the pieces",
            f"it must rise from 0 to {size:,} in steps of 1 to 1,024",
        )


def test_byte_tokens_are_where_first_byte_says() -> None:
    content = save_quantized(quantized(GQA), random_tokenizer(300))
    assert refusal(changed(put("tokenizer/first_byte", 4), content)) == (
        "first_byte is 4",
        "the 256 byte tokens <0x00> to <0xFF> must follow from there",
    )


def test_a_zero_point_beyond_its_shift_is_refused() -> None:
    model = quantized(MQA)
    layer = dataclasses.replace(model.layers[0], key_shift=1, key_zero=np.full(8, (127 << 16) + 1, np.int32))
    assert refusal(save_quantized(dataclasses.replace(model, layers=(layer,)))) == (
        "tensor layers.0.key_zero holds a magnitude of 8,323,073",
        "its shift allows 8,323,072",
    )
    fits = dataclasses.replace(layer, key_zero=np.full(8, -127 << 16, np.int32))
    load_quantized(save_quantized(dataclasses.replace(model, layers=(fits,))))


@pytest.mark.parametrize("shift", [16, 25, 32])
def test_an_accumulator_beyond_its_shift_is_refused(shift: int) -> None:
    most = (2 ** (shift - 1) - 1) // 127  # sum of |w| in a row
    codes = np.full((2, most // 127 + 1), -127, np.int8)
    codes[:, -1] = most % 127
    wide = dataclasses.replace(MQA, dim=2, n_heads=1, hidden_dim=codes.shape[1], vocab_size=2)
    load_quantized(save_quantized(wide_model(wide, codes, shift)))
    codes = codes.copy()
    codes[1, -1] += 1
    assert refusal(save_quantized(wide_model(wide, codes, shift))) == (
        f"an accumulator of layers.0.w2.codes can reach {127 * (most + 1):,}",
        f"its shift keeps it below {2 ** (shift - 1):,}",
    )


def test_an_accumulator_of_fully_connected_must_fit_int32() -> None:
    """Its bound has nothing to do with the shift, which applies to int8 codes."""
    most = (2**31 - 1) // 127
    codes = np.full((2, most // 127 + 1), -127, np.int8)
    codes[:, -1] = most % 127
    wide = dataclasses.replace(MQA, dim=2, n_heads=1, hidden_dim=codes.shape[1], vocab_size=2)

    def content(w2: np.ndarray) -> bytes:
        model = wide_model(wide, w2, 16)
        w2_and_others = {
            name: dataclasses.replace(getattr(model.layers[0], name), fc=(2**30, -31)) for name in FC_MATRICES
        }
        return save_quantized(
            dataclasses.replace(model, layers=(dataclasses.replace(model.layers[0], **w2_and_others),))
        )

    load_quantized(content(codes))
    codes = codes.copy()
    codes[1, -1] += 1
    assert refusal(content(codes)) == (
        f"an accumulator of layers.0.w2.codes can reach {127 * (most + 1):,}",
        "its fc keeps it below 2,147,483,648",
    )


def test_an_int4_accumulator_beyond_its_shift_is_refused() -> None:
    """The smallest shift that every scaled group allows, and the one below."""
    model = quantized(MQA, bits=4)
    wq = model.layers[0].wq
    assert wq.group_scale is not None
    sums = (np.abs(wq.codes.astype(int)) * np.abs(wq.group_scale.astype(int))).sum(1) * 127  # one group of 32 columns
    least = max(16, int(sums.max()).bit_length() + 1)

    def shifted(shift: int) -> bytes:
        layer = dataclasses.replace(model.layers[0], wq=dataclasses.replace(wq, shift=shift))
        return save_quantized(dataclasses.replace(model, layers=(layer,)))

    load_quantized(shifted(least))
    assert refusal(shifted(least - 1)) == (
        f"an accumulator of layers.0.wq.codes can reach {sums.max():,}",
        f"its shift keeps it below {2 ** (least - 2):,}",
    )


def test_the_accumulators_of_a_shared_classifier_are_checked() -> None:
    """Its codes are the embedding's, whose own shift has nothing to do with sums."""
    model = quantized(MQA)
    largest = int(np.abs(model.embedding.codes.astype(int)).sum(1).max()) * 127
    least = largest.bit_length() + 1
    for shift, embedding_shift in ((least, 1), (32, 62)):
        load_quantized(save_quantized(with_shifts(model, shift, embedding_shift)))
    assert refusal(save_quantized(with_shifts(model, least - 1, 20))) == (
        f"an accumulator of embedding.codes can reach {largest:,}",
        f"its shift keeps it below {2 ** (least - 2):,}",
    )


def with_shifts(model: QuantizedModel, classifier: int, embedding: int) -> QuantizedModel:
    return dataclasses.replace(
        model,
        classifier=dataclasses.replace(model.classifier, shift=classifier),
        embedding=dataclasses.replace(model.embedding, shift=embedding),
    )


def wide_model(config: Config, w2: np.ndarray, shift: int) -> QuantizedModel:
    """A model of this shape whose arrays are zero but for w2, which has this shift, built from the fields of a real
    one."""
    model = quantized(MQA)
    sizes = {"wq": (2, 2), "wk": (2, 2), "wv": (2, 2), "wo": (2, 2), "w1": (config.hidden_dim, 2)}
    sizes |= {"w3": sizes["w1"], "w2": w2.shape}

    def linear(rows: int, cols: int, codes: np.ndarray | None = None):
        codes = np.zeros((rows, cols), np.int8) if codes is None else codes
        return dataclasses.replace(model.classifier, codes=codes, multiplier=np.zeros(rows, np.int16), shift=shift)

    norm = dataclasses.replace(model.final_norm, gain=np.zeros(2, np.int16))
    parts: dict[str, Any] = {name: linear(*shape, w2 if name == "w2" else None) for name, shape in sizes.items()}
    layer = dataclasses.replace(
        model.layers[0],
        **parts,
        att_norm=norm,
        ffn_norm=norm,
        key_zero=np.zeros(2, np.int32),
    )
    table = linear(2, 2)
    return dataclasses.replace(
        model,
        config=config,
        layers=(layer,),
        embedding=table,
        classifier=table,
        final_norm=norm,
        rope_step=np.zeros(1, np.uint32),
    )


# ---------------------------------------------------------------- damage


def read_or_refuse(content: bytes) -> tuple[QuantizedModel, Tokenizer | None] | None:
    try:
        return load_quantized(content)
    except InputError as error:
        assert error.what and error.hint
        return None


@given(st.integers(0, len(FULL) - 1), st.integers(1, 255))
def test_a_damaged_byte_is_refused_or_harmless(index: int, flip: int) -> None:
    damaged = bytearray(FULL)
    damaged[index] ^= flip
    loaded = read_or_refuse(bytes(damaged))
    if loaded is not None:
        assert same(loaded, (quantized(MQA), TOKENIZER))


@given(st.data())
def test_cut_and_spliced_files_are_refused(data: st.DataObject) -> None:
    start, end = sorted(data.draw(st.tuples(st.integers(0, len(FULL)), st.integers(0, len(FULL)))))
    content = FULL[:start] + data.draw(st.binary(max_size=40)) + FULL[end:]
    loaded = read_or_refuse(content)
    if loaded is not None:
        assert same(loaded, (quantized(MQA), TOKENIZER))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(content: bytes) -> None:
    assert read_or_refuse(content) is None
    assert read_or_refuse(struct.pack("<Q", len(content)) + content) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("0x1p+0"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def paths(value: object, at: str = "") -> list[str]:
    """Every place in the header, as put() takes it."""
    if not isinstance(value, dict):
        return []
    return [at + key for key in value] + [path for key in value for path in paths(value[key], f"{at}{key}/")]


@settings(max_examples=200)
@given(st.sampled_from([(c, path) for c in (FULL, ALL, MOE) for path in paths(header(c))]), JSON)
def test_any_value_anywhere_in_the_header_is_checked(place: tuple[bytes, str], value: object) -> None:
    content, path = place
    if path == "digest":
        return
    loaded = read_or_refuse(changed(put(path, value), content))
    if loaded is not None:  # what was let in is what the file says, and can be written again
        assert load_quantized(save_quantized(*loaded)) is not None


@given(
    st.sampled_from(sorted(stored(FULL))), st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 40), max_size=3)
)
def test_any_type_and_shape_of_a_tensor_is_checked(name: str, dtype: str, shape: list[int]) -> None:
    value = np.zeros(shape, DTYPES[dtype])
    original = stored(FULL)[name]
    loaded = read_or_refuse(changed(tensor(name, value)))
    assert loaded is None or (value.shape, value.dtype) == (original.shape, original.dtype)
