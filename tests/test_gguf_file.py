"""GGUF files: the same models as from Hugging Face, every type as the library has it, hostile headers refused."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign import CASES, gguf_settings, gguf_tensors, write_folder, write_gguf
from hypothesis import given, settings
from hypothesis import strategies as st
from test_huggingface import read_or_refused, refusal
from tools import missing

from mcugen.errors import ToolError
from mcugen.gguf_file import KINDS, TYPES, read_gguf
from mcugen.huggingface import read_huggingface

try:
    import gguf
    from gguf import quants
except ImportError:
    missing("the Python package gguf is not installed")

SAME = {
    "llama": CASES["llama"],
    "linear": CASES["llama_relu2"] | {"hidden_act": "silu", "rope_scaling": {"type": "linear", "factor": 2.5}, "rope_parameters": None},
    "bias": CASES["llama_bias"] | {"hidden_act": "silu"},
    "experts": CASES["mixtral"] | {"rope_theta": 1e6},
    "mistral": CASES["mistral"] | {"sliding_window": None},
    "qwen2": CASES["qwen2"] | {"hidden_act": "silu", "use_sliding_window": False},
    "qwen3": CASES["qwen3"] | {"layer_types": None, "attention_bias": False, "use_sliding_window": False},
    "gemma": CASES["gemma"],
    "gemma3": CASES["gemma3_old"],
    "granite": CASES["granite"],
}  # fmt: skip


def written(path: Path, case: dict[str, Any], **changes: Any) -> Path:
    header = {name: value for name, value in (gguf_settings(case) | changes).items() if value is not None}
    return write_gguf(path, header, {name: (tensor, None) for name, tensor in gguf_tensors(case).items()})


def test_every_architecture_has_a_case():
    assert {gguf_settings(case)["general.architecture"] for case in SAME.values()} == set(KINDS)


@pytest.mark.parametrize("case", SAME)
def test_it_is_the_model_of_the_hugging_face_folder(tmp_path, case):
    """Whatever order a converter gives rows, and whatever it folds: the same Config, the same weights."""
    theirs = read_huggingface(write_folder(tmp_path / "folder", SAME[case]))
    path = written(tmp_path / "model.gguf", SAME[case])
    ours = read_gguf(path)
    assert ours.config == theirs.config
    assert (ours.name, ours.sha256) == ("model", hashlib.sha256(path.read_bytes()).hexdigest())
    assert set(ours.weights) == set(theirs.weights)
    for name, tensor in ours.weights.items():
        np.testing.assert_array_equal(tensor, theirs.weights[name])
        assert tensor.dtype == np.float32 and not tensor.flags.writeable


def test_the_order_of_rows_is_what_sets_llama_apart(tmp_path):
    """Qwen 2 keeps wq as it is stored in pairs half a head apart; Llama's has been put in pairs by the converter."""
    for case, kept in (("llama", True), ("qwen2", False)):
        model = read_gguf(written(tmp_path / f"{case}.gguf", SAME[case]))
        stored = gguf_tensors(SAME[case])["blk.0.attn_q.weight"]
        assert np.array_equal(model.weights["wq"][0], stored) == kept


def test_factors_of_llama_3(tmp_path):
    theirs = read_huggingface(write_folder(tmp_path / "folder", CASES["llama3"])).config
    found = {name: (tensor, None) for name, tensor in gguf_tensors(CASES["llama3"]).items()}
    found["rope_freqs.weight"] = (np.array(theirs.rope_factors, np.float32), None)
    path = write_gguf(tmp_path / "x.gguf", gguf_settings(CASES["llama3"]), found)
    ours = read_gguf(path).config
    assert ours.rope_factors == pytest.approx(theirs.rope_factors, rel=1e-7)
    assert dataclasses.replace(ours, rope_factors=theirs.rope_factors) == theirs
    for wrong in (np.ones(3), np.zeros(4), np.array([1, np.nan, 1, 1])):
        found["rope_freqs.weight"] = (wrong.astype(np.float32), None)
        message = refusal(read_gguf, write_gguf(path, gguf_settings(CASES["llama3"]), found))
        assert message == (
            f"the tensor rope_freqs.weight has the shape [{len(wrong)}], or a factor that is none\n"
            f"  where: GGUF file {path}\n  try:   it must have 4 positive factors, one for each pair of a head"
        )


# ---------------------------------------------------------------- types

WIDE = CASES["llama"] | {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1, "vocab_size": 7}


def blocks(kind: Any, rows: int, cols: int, seed: int) -> np.ndarray:
    """Random bytes of a type's blocks that stand for finite numbers: uint8[rows, bytes]."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    drawn = np.random.default_rng(seed).integers(0, 256, (2 * rows * cols // block + 8, size), np.uint8)
    with np.errstate(all="ignore"):
        finite = drawn[np.isfinite(quants.dequantize(drawn, kind)).all(1)]
    return finite[: rows * cols // block].reshape(rows, -1)


def test_the_table_of_types_is_the_librarys():
    for number, (name, block, size) in TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, gguf.GGML_QUANT_SIZES[kind]) == (name, (block, size))


@pytest.mark.parametrize("number", TYPES, ids=lambda number: TYPES[number][0])
def test_values_of_a_type_are_the_librarys(tmp_path, number):
    kind = gguf.GGMLQuantizationType(number)
    found, expected = {}, {}
    for seed, (name, tensor) in enumerate(gguf_tensors(WIDE).items()):
        if tensor.ndim == 1:
            found[name] = (tensor, None)
            continue
        raw = blocks(kind, *tensor.shape, seed)
        expected[name] = quants.dequantize(raw, kind)
        plain = {0: np.float32, 1: np.float16}.get(number)
        found[name] = (raw.view(plain), None) if plain else (raw, kind)
    weights = read_gguf(write_gguf(tmp_path / "x.gguf", gguf_settings(WIDE), found)).weights
    for weight, name in (("wq", "blk.0.attn_q"), ("w2", "blk.0.ffn_down"), ("wcls", "output")):
        tensor = weights[weight] if weight == "wcls" else weights[weight][0]
        assert np.array_equal(tensor.view(np.uint32), expected[f"{name}.weight"].view(np.uint32))  # zeros' signs, too


@pytest.mark.parametrize("scale", [np.nan, np.inf])
def test_a_scale_that_is_no_number_is_named(tmp_path, scale):
    """Infinity times a code of 0 is NaN."""
    found = {name: (tensor, None) for name, tensor in gguf_tensors(WIDE).items()}
    kind = gguf.GGMLQuantizationType.Q8_0
    raw = blocks(kind, 256, 256, 0).copy()
    raw[3, 34:37] = *np.frombuffer(np.float16(scale).tobytes(), np.uint8), 0
    found["blk.0.ffn_up.weight"] = (raw, kind)
    path = write_gguf(tmp_path / "x.gguf", gguf_settings(WIDE), found)
    assert refusal(read_gguf, path) == (
        "the weight blk.0.ffn_up.weight[3, 32] is nan; 32 of 65,536 are not finite\n"
        f"  where: GGUF file {path}\n  try:   the training diverged or the file is damaged: export the model again"
    )


# ---------------------------------------------------------------- refusals

LEFT_OUT = "it must be left out: what it changes is not supported"
REFUSED = [
    ("llama", {"general.architecture": "mamba"}, "general.architecture is 'mamba'", "it must be one of gemma, gemma3, granite, llama, qwen2, qwen3"),
    ("llama", {"split.count": 3}, "split.count is 3", "it must be 1: merge the parts with llama-gguf-split --merge"),
    ("llama", {"llama.embedding_length": None}, "llama.embedding_length is missing", "it must be an integer in [1, 65,536]"),
    ("llama", {"llama.embedding_length": 24.0}, "llama.embedding_length is 24.0", "it must be an integer in [1, 65,536]"),
    ("llama", {"llama.block_count": 4096}, "llama.block_count is 4096", "it must be an integer in [1, 1,024]"),
    ("llama", {"llama.attention.layer_norm_rms_epsilon": float("nan")}, "llama.attention.layer_norm_rms_epsilon is nan", "it must be a number between 0 and 1"),
    ("llama", {"llama.attention.value_length": 8}, "llama.attention.value_length is 8", "it must be 6: nothing else is supported"),
    ("llama", {"llama.rope.dimension_count": 4}, "llama.rope.dimension_count is 4", "it must be 6: nothing else is supported"),
    ("llama", {"llama.rope.scaling.type": "yarn"}, "llama.rope.scaling.type is 'yarn'", "it must be one of linear, none"),
    ("llama", {"llama.attention.sliding_window": 8}, "llama.attention.sliding_window is 8", LEFT_OUT),
    ("llama", {"llama.logit_scale": 8.0}, "llama.logit_scale is 8.0", LEFT_OUT),
    ("gemma3", {"gemma3.final_logit_softcapping": 30.0}, "gemma3.final_logit_softcapping is 30.0", "it must be 0.0: nothing else is supported"),
    ("experts", {"llama.expert_shared_count": 1}, "llama.expert_shared_count is 1", "it must be 0: nothing else is supported"),
    ("experts", {"llama.expert_gating_func": 2}, "llama.expert_gating_func is 2", "it must be 0 or 1: nothing else is supported"),
    ("experts", {"llama.expert_used_count": 7}, "7 of 3 experts per token", "1 or more of at most 256 are supported"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "changes", "what", "hint"), REFUSED)
def test_settings_that_are_refused(tmp_path, case, changes, what, hint):
    path = written(tmp_path / "x.gguf", SAME[case], **changes)
    assert refusal(read_gguf, path) == f"{what}\n  where: GGUF file {path}, header\n  try:   {hint}"


def test_a_file_that_cannot_be_read(tmp_path):
    path = tmp_path / "x.gguf"
    assert refusal(read_gguf, path) == (
        "cannot read the GGUF file: No such file or directory\n"
        f"  where: GGUF file {path}\n  try:   give the path of a .gguf file"
    )


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    path = written(tmp_path / "x.gguf", SAME["llama"])
    for name in ("gguf", "gguf.constants", "gguf.quants"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(ToolError) as caught:
        read_gguf(path)
    assert str(caught.value) == (
        "reading GGUF files needs the Python package gguf\n"
        f"  where: GGUF file {path}, header\n  try:   pip install 'mcugen[formats]'"
    )


# A header by hand: what the library's writer would never write.
DAMAGED = "the file is damaged: copy or download it again"


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def setting(name: bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: bytes, dims: tuple[int, ...] = (8,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def file(*parts: bytes, tensors: int = 0, settings: int = 0, version: int = 3) -> bytes:
    content = b"GGUF" + struct.pack("<IQQ", version, tensors, settings) + b"".join(parts)
    return content + bytes(-len(content) % 32 + 64)


ALIGNMENT = b"general.alignment"
HOSTILE = [
    (b"", "the magic takes 4 bytes, 0 are left at byte 0", DAMAGED),
    (b"GGML" + bytes(40), "the file starts with b'GGML', not with b'GGUF'", "give a .gguf file"),
    (file(version=1), "GGUF version 1 is not read", "convert the model again: 2 and 3 are read"),
    (file(version=3 << 24), "GGUF version 50,331,648 is not read (a big-endian file)", "convert the model again: 2 and 3 are read"),
    (file(settings=2**60), "1,152,921,504,606,846,976 settings in the 72 bytes that are left at byte 24", DAMAGED),
    (file(tensors=2**60), "1,152,921,504,606,846,976 tensors in the 72 bytes that are left at byte 24", DAMAGED),
    (file(struct.pack("<Q", 2**60), settings=1), "the name of a setting takes 1,152,921,504,606,846,976 bytes, 64 are left at byte 32", DAMAGED),
    (file(text(b"\xff"), settings=1), "the name of a setting, b'\\xff', is not UTF-8", DAMAGED),
    (file(text(b"n" * 70_000), settings=1), "the name of a setting has 70,000 bytes", DAMAGED),
    (file(setting(b"a", 13, b""), settings=1), "the setting 'a' is of type 13, which is unknown", DAMAGED),
    (file(setting(b"a", 4, bytes(4)) * 2, settings=2), "the setting 'a' stands there twice", DAMAGED),
    (file(setting(b"a", 8, struct.pack("<Q", 2**60)), settings=1), "'a' takes 1,152,921,504,606,846,976 bytes, 83 are left at byte 45", DAMAGED),
    (file(setting(b"a", 9, struct.pack("<IQ", 4, 2**60)), settings=1), "1,152,921,504,606,846,976 elements of 'a' in the 79 bytes that are left at byte 49", DAMAGED),
    (file(setting(b"a", 9, struct.pack("<IQ", 8, 2**60)), settings=1), "1,152,921,504,606,846,976 elements of 'a' in the 79 bytes that are left at byte 49", DAMAGED),
    (file(setting(b"a", 9, struct.pack("<IQ", 9, 1)), settings=1), "the setting 'a' is an array of type 9: only plain numbers and strings are read", DAMAGED),
    (file(setting(ALIGNMENT, 4, struct.pack("<I", 48)), settings=1), "general.alignment is 48", "it must be a power of two"),
    (file(setting(ALIGNMENT, 4, bytes(4)), settings=1), "general.alignment is 0", "it must be an integer in [1, 65,536]"),
    (file(tensor(b"t") * 2, tensors=2), "the tensor 't' stands there twice", DAMAGED),
    (file(tensor(b"t", ()), tensors=1), "the tensor 't' has 0 dimensions; 1 to 4 are supported", DAMAGED),
    (file(tensor(b"t", (1,) * 5), tensors=1), "the tensor 't' has 5 dimensions; 1 to 4 are supported", DAMAGED),
    (file(tensor(b"t", (0,)), tensors=1), "the tensor 't' has the shape [0]; F32 has blocks of 1", DAMAGED),
    (file(tensor(b"t", (40,), 8), tensors=1), "the tensor 't' has the shape [40]; Q8_0 has blocks of 32", DAMAGED),
    (file(tensor(b"t", (2**63, 2**63)), tensors=1), f"the tensor 't' ends at byte {2**128:,} of the 64 behind the header", DAMAGED),
    (file(tensor(b"t", offset=2**63), tensors=1), f"the tensor 't' ends at byte {2**63 + 32:,} of the 64 behind the header", DAMAGED),
    (file(tensor(b"t", offset=4), tensors=1), "the tensor 't' begins at 4, no multiple of 32", DAMAGED),
    (file(tensor(b"t", (12,)), tensor(b"u", offset=32), tensors=2), "the tensors 't' and 'u' overlap", DAMAGED),
    (file(tensor(b"t", kind=99), tensors=1), "the tensor 't' is of type 99", "convert the model with one of F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, BF16"),
    (file(), "general.architecture is missing", "it must be one of gemma, gemma3, granite, llama, qwen2, qwen3"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "what", "hint"), HOSTILE)
def test_hostile_headers(tmp_path, content, what, hint):
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    assert refusal(read_gguf, path) == f"{what}\n  where: GGUF file {path}, header\n  try:   {hint}"
    read_or_refused(read_gguf, path)


TINY = CASES["llama"] | {"hidden_size": 4, "intermediate_size": 2, "num_hidden_layers": 1, "num_attention_heads": 2}
TINY |= {"vocab_size": 5, "num_key_value_heads": 1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    return written(tmp_path_factory.mktemp("gguf") / "x.gguf", TINY).read_bytes()


@settings(max_examples=300)
@given(st.data())
def test_any_file_is_read_or_refused(tmp_path_factory, whole, data):
    """Bytes changed, numbers of the header replaced, the end cut off or grown, a stretch copied to another place."""
    content = bytearray(whole)
    header = whole.index(b"output_norm") + 400
    for at, value in data.draw(
        st.lists(st.tuples(st.integers(4, header), st.binary(min_size=1, max_size=8)), max_size=3)
    ):
        content[at : at + len(value)] = value
    if data.draw(st.booleans()):
        start, end, at = data.draw(st.tuples(*[st.integers(4, len(whole))] * 3))
        content[at : at + end - start] = content[start:end]
    growth = data.draw(st.integers(-40, 40) | st.integers(-len(whole), 0))
    content = content[: len(content) + min(growth, 0)] + b"\x55" * max(growth, 0)
    path = tmp_path_factory.getbasetemp() / "any.gguf"
    path.write_bytes(content)
    read_or_refused(read_gguf, path)
