"""llama2.c's checkpoints: every version read and written, every damage refused."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcugen.checkpoints import read_checkpoint, write_checkpoint
from mcugen.errors import InputError
from mcugen.ir import Config, Model

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
GQA = Config(48, 172, 2, 6, 2, 300, 16, False)  # odd on purpose; 6 query heads over 2 KV heads, own classifier
MQA = Config(32, 20, 1, 4, 1, 11, 8, True)  # multi-query, shared classifier
TINY = Config(4, 6, 1, 2, 1, 5, 3, True)
CONFIGS = [GQA, MQA, TINY, dataclasses.replace(MQA, shared_classifier=False)]


def make_model(config: Config, seed: int = 0) -> Model:
    """Random weights under llama2.c's names; shapes written down here once more."""
    rng = np.random.default_rng(seed)
    layers, dim, hidden, kv_dim = config.n_layers, config.dim, config.hidden_dim, config.kv_dim
    shapes = {
        "token_embedding_table": (config.vocab_size, dim),
        "rms_att_weight": (layers, dim),
        "wq": (layers, dim, dim),
        "wk": (layers, kv_dim, dim),
        "wv": (layers, kv_dim, dim),
        "wo": (layers, dim, dim),
        "rms_ffn_weight": (layers, dim),
        "w1": (layers, hidden, dim),
        "w2": (layers, dim, hidden),
        "w3": (layers, hidden, dim),
        "rms_final_weight": (dim,),
        "wcls": (config.vocab_size, dim),
    }
    weights = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    if config.shared_classifier:
        weights["wcls"] = weights["token_embedding_table"]
    return Model("model", config, weights, "")


def written(folder: Path, content: bytes) -> Path:
    path = folder / "model.bin"
    path.write_bytes(content)
    return path


# ---------------------------------------------------------------- read what was written


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("config", CONFIGS)
def test_float_versions_come_back(tmp_path, config, version):
    model = make_model(config)
    content = write_checkpoint(model, version)
    back = read_checkpoint(written(tmp_path, content))
    assert (back.name, back.config, back.sha256) == ("model", config, hashlib.sha256(content).hexdigest())
    assert set(back.weights) == set(model.weights)
    for name, tensor in back.weights.items():
        np.testing.assert_array_equal(tensor, model.weights[name])
        assert tensor.dtype == np.float32
        assert not tensor.flags.writeable
    assert (back.weights["wcls"] is back.weights["token_embedding_table"]) == config.shared_classifier


@pytest.mark.parametrize("config", CONFIGS)
def test_int8_version_comes_back_to_half_a_step(tmp_path, config):
    model = make_model(config)
    back = read_checkpoint(written(tmp_path, write_checkpoint(model, 2)))
    assert back.config == config
    for name, tensor in back.weights.items():
        original = model.weights[name]
        step = 0.0 if name.startswith("rms_") else float(np.abs(original).max()) / 127
        assert np.abs(tensor - original).max() <= step / 2 * 1.0001
        assert tensor.dtype == np.float32
        assert not tensor.flags.writeable


# The tensors in the order of llama2.c's export.py, with their sizes for dim 4, hidden 6, 2 layers of 2 heads over
# 1 KV head, 5 tokens, context 3 and a classifier of its own.
LEGACY_ORDER = {
    "token_embedding_table": 20,
    "rms_att_weight": 8,
    "wq": 32,
    "wk": 16,
    "wv": 16,
    "wo": 32,
    "rms_ffn_weight": 8,
    "w1": 48,
    "w2": 48,
    "w3": 48,
    "rms_final_weight": 4,
    "freq_cis_real": 3,
    "freq_cis_imag": 3,
    "wcls": 20,
}
VERSION1_ORDER = [
    *("rms_att_weight", "rms_ffn_weight", "rms_final_weight", "token_embedding_table"),
    *("wq", "wk", "wv", "wo", "w1", "w2", "w3", "wcls"),
]


@pytest.mark.parametrize(
    ("header", "order"),
    [
        (struct.pack("<7i", 4, 6, 2, 2, 1, -5, 3), list(LEGACY_ORDER)),
        (struct.pack("<I8iB", 0x616B3432, 1, 4, 6, 2, 2, 1, 5, 3, 0).ljust(256, b"\0"), VERSION1_ORDER),
    ],
)
def test_float_layout_by_hand(tmp_path, header, order):
    """Each tensor is full of its own place in the file."""
    places = [np.full(LEGACY_ORDER[name], place, "<f4") for place, name in enumerate(order)]
    model = read_checkpoint(written(tmp_path, header + b"".join(place.tobytes() for place in places)))
    assert not model.config.shared_classifier
    for name, tensor in model.weights.items():
        assert tensor.size == LEGACY_ORDER[name]
        assert set(tensor.ravel().tolist()) == {order.index(name)}


def test_int8_layout_by_hand(tmp_path):
    """Version 2, dim 4, groups of 4: each matrix is its codes, then its scales, as runq.c maps them."""
    header = struct.pack("<I8iBi", 0x616B3432, 2, 4, 4, 1, 1, 1, 1, 2, 1, 4).ljust(256, b"\0")
    norms = np.arange(12, dtype="<f4").tobytes()
    table = struct.pack("<4bf", 1, -127, 0, 5, 0.5)
    square = struct.pack("<16b4f", *range(16), 1.0, 2.0, 4.0, 0.25)
    model = read_checkpoint(written(tmp_path, header + norms + table + square * 7))
    np.testing.assert_array_equal(model.weights["token_embedding_table"], [[0.5, -63.5, 0, 2.5]])
    np.testing.assert_array_equal(model.weights["rms_att_weight"], [[0, 1, 2, 3]])
    np.testing.assert_array_equal(model.weights["rms_final_weight"], [8, 9, 10, 11])
    expected = [[0, 1, 2, 3], [8, 10, 12, 14], [32, 36, 40, 44], [3, 3.25, 3.5, 3.75]]
    np.testing.assert_array_equal(model.weights["w2"], [expected])


def test_all_zero_groups_are_written_without_a_division(tmp_path):
    model = make_model(MQA)
    zeros = {name: np.zeros_like(tensor) for name, tensor in model.weights.items()}
    back = read_checkpoint(written(tmp_path, write_checkpoint(dataclasses.replace(model, weights=zeros), 2)))
    assert not back.weights["w1"].any()


def test_real_checkpoint():
    path = DATA / "stories260K.bin"
    if not path.exists():
        pytest.skip("no ../shared/data/stories260K.bin")
    model = read_checkpoint(path)
    assert model.config == Config(64, 172, 5, 8, 4, 512, 512, True)
    assert (model.name, model.sha256[:8]) == ("stories260K", "b0a507e7")
    content = write_checkpoint(model, 0)
    table = 2 * 512 * 4 * 4  # the RoPE tables at the end, the only part that is computed again
    assert content[:-table] == path.read_bytes()[:-table]
    np.testing.assert_allclose(
        np.frombuffer(content[-table:], "<f4"), np.frombuffer(path.read_bytes()[-table:], "<f4"), atol=4e-5
    )


def test_unknown_version_is_not_written():
    with pytest.raises(ValueError, match=r"llama2\.c has no checkpoint version 3"):
        write_checkpoint(make_model(TINY), 3)


@pytest.mark.parametrize(
    "change",
    [{"rope_theta": 5e5}, {"norm_eps": 1e-6}, {"qk_norm": True}, {"head_size": 8}, {"layer_windows": (4,)}],
)
def test_what_the_format_has_no_place_for_is_not_written(change):
    model = dataclasses.replace(make_model(TINY), config=dataclasses.replace(TINY, **change))
    ((name, value),) = change.items()
    for version in (0, 1, 2):
        with pytest.raises(InputError) as caught:
            write_checkpoint(model, version)
        assert str(caught.value) == (
            f"llama2.c's format has no place for {name} = {value}\n"
            "  where: model model\n  try:   mcugen quantize writes a file that has"
        )


# ---------------------------------------------------------------- errors

V0 = write_checkpoint(make_model(TINY), 0)
V1 = write_checkpoint(make_model(TINY), 1)
V2 = write_checkpoint(make_model(TINY), 2)
LLAMA = "check that this is a llama2.c checkpoint; if it is, copy or download it again"
TRUNCATED = "the file is truncated: copy or download it again"


def patched(content: bytes, at: int, layout: str, *values: float) -> bytes:
    new = struct.pack(layout, *values)
    return content[:at] + new + content[at + len(new) :]


def with_sizes(**sizes: int) -> bytes:
    """A version 1 header alone, with these sizes in place of TINY's."""
    names = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len")
    return patched(V1, 8, "<7i", *(sizes.get(name, getattr(TINY, name)) for name in names))


@pytest.mark.parametrize(
    ("content", "what", "place", "hint"),
    [
        (b"", "the file has 0 bytes; the smallest header takes 28", "", TRUNCATED),
        (V1[:100], "the file has 100 bytes; its header takes 256", "", TRUNCATED),
        (V0[:-1], "the file has 659 bytes; its header (version 0) asks for 660", "", TRUNCATED),
        (V1[:-1], "the file has 863 bytes; its header (version 1) asks for 864", "", TRUNCATED),
        (V2[:-1], "the file has 583 bytes; its header (version 2) asks for 584", "", TRUNCATED),
        (
            V1 + b"\0\0",
            "the file has 866 bytes; its header (version 1) asks for 864",
            "",
            "2 bytes follow the last weight: export the model again",
        ),
        (
            b"GGUF" + V1[4:],
            "the file starts with 0x46554747: neither llama2.c's magic 0x616b3432 nor a dim of 1 to 65,536",
            ", header",
            "give a llama2.c checkpoint (.bin), as its export.py writes it",
        ),
        (
            patched(V1, 4, "<i", 3),
            "checkpoint version 3 is unknown",
            ", header",
            "export it again with llama2.c's export.py --version 1 (0, 1 and 2 are read)",
        ),
        (
            patched(V1, 36, "<B", 7),
            "the flag of the shared classifier is 7, neither 0 nor 1",
            ", header",
            "the file is damaged: copy or download it again",
        ),
        (with_sizes(dim=-4), "dim is -4; 1 to 65,536 are supported", ", header", LLAMA),
        (with_sizes(hidden_dim=10**9), "hidden_dim is 1,000,000,000; 1 to 262,144 are supported", ", header", LLAMA),
        (with_sizes(n_layers=0), "n_layers is 0; 1 to 1,024 are supported", ", header", LLAMA),
        (with_sizes(n_heads=2000), "n_heads is 2,000; 1 to 1,024 are supported", ", header", LLAMA),
        (with_sizes(n_kv_heads=0), "n_kv_heads is 0; 1 to 1,024 are supported", ", header", LLAMA),
        (with_sizes(vocab_size=128256), "vocab_size is 128,256; 1 to 65,536 are supported", ", header", LLAMA),
        (with_sizes(seq_len=-1), "seq_len is -1; 1 to 1,048,576 are supported", ", header", LLAMA),
        (
            with_sizes(dim=48, n_heads=7),
            "dim 48 is not divisible by n_heads 7",
            ", header",
            "llama2.c's models have dim = n_heads * head_dim; 6 or 8 would do",
        ),
        (
            with_sizes(dim=4, n_heads=7),
            "dim 4 is not divisible by n_heads 7",
            ", header",
            "llama2.c's models have dim = n_heads * head_dim; 4 would do",
        ),
        (
            with_sizes(dim=6, n_heads=2),
            "head_dim 3 (dim 6 / n_heads 2) is odd; RoPE rotates pairs",
            ", header",
            "train the model with an even head_dim",
        ),
        (
            with_sizes(dim=48, n_heads=6, n_kv_heads=4),
            "n_heads 6 is not divisible by n_kv_heads 4",
            ", header",
            "each KV head must serve the same number of query heads",
        ),
        (
            with_sizes(dim=65536, hidden_dim=262144, n_layers=1024),
            "the file has 864 bytes; its header (version 1) asks for 263,883,329,110,272",
            "",
            TRUNCATED,
        ),
        (
            patched(V2, 37, "<i", 3),
            "groups of 3 weights do not divide token_embedding_table's 20 weights",
            ", header",
            "export it again with llama2.c's export.py --version 1",
        ),
        (
            patched(V2, 37, "<i", 0),
            "groups of 0 weights do not divide token_embedding_table's 20 weights",
            ", header",
            "export it again with llama2.c's export.py --version 1",
        ),
        (
            patched(V0, 28 + 4 * (5 * 4 + 4 + 4 * 2 + 1), "<2f", float("nan"), float("inf")),
            "the weight wq[0, 2, 1] is nan; 2 of 16 are not finite",
            "",
            "the training diverged or the file is damaged: export the model again",
        ),
        (
            patched(patched(V2, 256 + 4 * 12 + 4, "<4b", 0, 127, 1, 0), 256 + 4 * 12 + 20 + 4, "<f", float("inf")),
            "the weight token_embedding_table[1, 0] is nan; 4 of 20 are not finite",
            "",
            "the training diverged or the file is damaged: export the model again",
        ),
        (
            patched(patched(V2, 256 + 4 * 12 + 4, "<4b", 0, -127, 1, 0), 256 + 4 * 12 + 20 + 4, "<f", 3e38),
            "the weight token_embedding_table[1, 1] is -inf; 1 of 20 are not finite",
            "",
            "the training diverged or the file is damaged: export the model again",
        ),
    ],
)
def test_damaged_checkpoint(tmp_path, content, what, place, hint):
    path = written(tmp_path, content)
    with pytest.raises(InputError) as caught:
        read_checkpoint(path)
    assert str(caught.value) == f"{what}\n  where: checkpoint {path}{place}\n  try:   {hint}"


def test_missing_checkpoint(tmp_path):
    with pytest.raises(InputError) as caught:
        read_checkpoint(tmp_path / "absent.bin")
    assert str(caught.value) == (
        "cannot read the checkpoint: No such file or directory\n"
        f"  where: checkpoint {tmp_path / 'absent.bin'}\n"
        "  try:   give the path of a llama2.c checkpoint (.bin)"
    )


@given(
    st.sampled_from([V0, V1, V2]),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=4),
    st.integers(-40, 40),
)
def test_any_file_is_read_or_refused(tmp_path_factory, content, changes, growth):
    """Bytes of the header and the first weights changed, the end cut off or grown."""
    damaged = bytearray(content[: len(content) + min(growth, 0)] + b"\x55" * max(growth, 0))
    for at, value in changes:
        damaged[at] = value
    check_read_or_refused(written(tmp_path_factory.getbasetemp(), bytes(damaged)))


@given(st.sampled_from([V0, V1, V2]), st.integers(28, 582), st.binary(min_size=4, max_size=4))
def test_any_weight_is_read_or_refused(tmp_path_factory, content, at, value):
    damaged = content[:at] + value + content[at + 4 :]
    check_read_or_refused(written(tmp_path_factory.getbasetemp(), damaged[: len(content)]))


@given(st.sampled_from([V0, V1, V2]), st.tuples(*[st.integers(0, 582)] * 3), st.integers(0, 600))
def test_any_splice_is_read_or_refused(tmp_path_factory, content, splice, size):
    """A stretch copied over another, then the end cut off."""
    start, end, at = splice
    damaged = bytearray(content)
    damaged[at : at + end - start] = content[start:end]
    check_read_or_refused(written(tmp_path_factory.getbasetemp(), bytes(damaged[:size])))


def check_read_or_refused(path: Path) -> None:
    """Only InputError comes out, and a file of a few hundred bytes never takes much memory."""
    tracemalloc.start()
    try:
        model = read_checkpoint(path)
    except InputError:
        return
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**20
    config = model.config
    assert config.dim == config.n_heads * config.head_dim
    assert config.n_heads == config.n_kv_heads * config.group_size
    assert model.weights["w2"].shape == (config.n_layers, config.dim, config.hidden_dim)
    assert all(np.isfinite(tensor).all() for tensor in model.weights.values())
