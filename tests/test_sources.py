"""What MODEL may be: folder or file, told apart by content; and the samples that a vocabulary's bos opens."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import zoo
from click.testing import CliRunner
from foreign import CASES, gguf_settings, gguf_tensors, write_folder, write_gguf
from tools import missing, require_program

from mcugen import integers, quantize, sources
from mcugen.checkpoints import write_checkpoint
from mcugen.cli import mcugen
from mcugen.errors import InputError, UsageError
from mcugen.gguf_file import gguf_tokenizer
from mcugen.integers import quantize_source
from mcugen.ir import Config
from mcugen.recipes import W8
from mcugen.sources import Source, open_source
from mcugen.tokenizer import encode, write_tokenizer

LLAMA = CASES["llama"]
SHAPE = Config(24, 20, 2, 4, 2, 19, 32, False)


@pytest.fixture
def tokenizer(tmp_path):
    path = tmp_path / "t.bin"
    path.write_bytes(write_tokenizer(zoo.random_tokenizer(19)))
    return path


def test_a_folder(tmp_path, tokenizer):
    found = open_source(write_folder(tmp_path / "Some Model", LLAMA), tokenizer)
    assert (found.name, found.model.config, len(found.tokenizer.pieces)) == ("Some Model", SHAPE, 19)


def need_gguf() -> None:
    try:
        import gguf  # noqa: F401
    except ImportError:
        missing("the Python package gguf is not installed")


def test_a_gguf_file_under_any_name(tmp_path, tokenizer):
    need_gguf()
    stored = {name: (tensor, None) for name, tensor in gguf_tensors(LLAMA).items()}
    found = open_source(write_gguf(tmp_path / "some.bin", gguf_settings(LLAMA), stored), tokenizer)
    assert (found.name, found.model.config) == ("some", SHAPE)


# A byte-level vocabulary of 300 tokens: 5 specials, the 256 bytes in GPT-2's alphabet, and merges.
_PLAIN = [*range(33, 127), *range(161, 173), *range(174, 256)]
ALPHABET = {byte: chr(byte) for byte in _PLAIN}
ALPHABET |= {byte: chr(256 + i) for i, byte in enumerate(b for b in range(256) if b not in _PLAIN)}
SPECIALS = ["<pad>", "<a>", "<b>", "<start>", "<stop>"]
_PAIRS = [(first, second) for first in "etaoin" for second in "shrdlu" if first + second != "th"]
MERGES = [("t", "h"), *_PAIRS, ("th", "e"), ("th", "a"), ("th", "i")]
PIECES = [*SPECIALS, *ALPHABET.values(), *("".join(pair) for pair in MERGES)]
BIG = LLAMA | {"vocab_size": 300}


def tokenizer_json() -> dict:
    return {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": text, "special": True} for i, text in enumerate(SPECIALS)],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel"},
        "model": {
            "type": "BPE",
            "vocab": {text: i for i, text in enumerate(PIECES)},
            "merges": [" ".join(pair) for pair in MERGES],
        },
    }


def write_whole_folder(tmp_path: Path) -> Path:
    """With the vocabulary of tokenizer_json."""
    folder = write_folder(tmp_path / "Some Model", BIG)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json()))
    return folder


def write_whole_gguf(tmp_path: Path) -> Path:
    """The same model and vocabulary."""
    need_gguf()
    stored = {name: (tensor, None) for name, tensor in gguf_tensors(BIG).items()}
    plain = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2"}
    plain |= {"tokenizer.ggml.bos_token_id": 3, "tokenizer.ggml.eos_token_id": 4}
    arrays = {
        "tokenizer.ggml.tokens": PIECES,
        "tokenizer.ggml.token_type": [3] * 5 + [1] * 295,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in MERGES],
    }
    return write_gguf(tmp_path / "x.gguf", gguf_settings(BIG) | plain, stored, arrays)


def test_the_vocabulary_of_a_folder_and_of_a_gguf_file(tmp_path):
    """Of the same model: bos and eos are those of config.json, and a text becomes the same tokens."""
    folder = write_whole_folder(tmp_path)
    one = open_source(folder, None).tokenizer
    assert (len(one.pieces), one.bos, one.eos) == (300, 3, 4)
    tokens = encode(one, "the tea", bos=True)
    assert [PIECES[token] for token in tokens] == ["<start>", "the", ALPHABET[32], "t", "e", "a"]
    assert open_source(folder, folder / "tokenizer.json").tokenizer.pieces == one.pieces

    other = open_source(write_whole_gguf(tmp_path), None)
    assert (other.tokenizer.pieces, other.tokenizer.bos, other.tokenizer.eos) == (one.pieces, 3, 4)
    assert encode(other.tokenizer, "the tea", bos=True) == tokens
    assert other.model.config == open_source(folder, None).model.config


@pytest.mark.parametrize(
    ("write", "named"), [(write_whole_folder, "'Some Model'"), (write_whole_gguf, "x.gguf")], ids=["folder", "gguf"]
)
def test_a_foreign_model_builds_and_its_c_equals_the_simulator(
    tmp_path: Path, write: Callable[[Path], Path], named: str
) -> None:
    require_program("cc")
    path = write(tmp_path)
    where = ["--board", "host", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(mcugen, ["build", str(path), *where, "--verify-tokens", "40", "--json"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout)["verification"]  # a difference is an exit code of 6
    facts = json.loads((tmp_path / "out" / "build-info.json").read_text())
    assert facts["command"] == f"mcugen build {named} --board host"
    assert facts["checkpoint_sha256"] == open_source(path, None).model.sha256


def test_a_vocabulary_that_is_too_large_is_read_to_be_trimmed(tmp_path):
    """Here 300 tokens are more than the firmware holds."""
    folder = write_whole_folder(tmp_path)
    with pytest.raises(InputError, match=r"^vocab_size is 300\n"):
        open_source(folder, None, 299)
    (tmp_path / "text.txt").write_text("the tea of the house")
    source, line = sources.trim_source(open_source(folder, None, 2**20), tmp_path / "text.txt")
    assert line.startswith(f"vocabulary: {source.model.config.vocab_size} of 300 tokens kept")
    assert source.model.config.vocab_size < 299


@pytest.mark.parametrize(
    ("arrays", "what", "hint"),
    [
        ({}, "tokenizer.ggml.tokens is missing", "it must be the list of the vocabulary's tokens"),
        ({"tokenizer.ggml.tokens": [1, 2]}, "tokenizer.ggml.tokens is array([1, 2], dtype=int32)", "it must be an array of strings"),
        ({"tokenizer.ggml.tokens": ["a", "b"]}, "tokenizer.ggml.bos_token_id is 3", "it must be an integer in [0, 1]"),
        ({"tokenizer.ggml.tokens": ["a"] * 9, "tokenizer.ggml.token_type": [1] * 8}, "tokenizer.ggml.token_type is array([1, 1, 1, 1, 1, 1, 1, 1], dtype=int32)", "it must be an array of 9 numbers, one for each token"),
    ],
)  # fmt: skip
def test_vocabularies_of_gguf_that_are_refused(tmp_path, arrays, what, hint):
    need_gguf()
    plain = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.bos_token_id": 3}
    path = write_gguf(tmp_path / "x.gguf", gguf_settings(LLAMA) | plain, {}, arrays)
    with pytest.raises(InputError) as caught:
        gguf_tokenizer(path)
    assert str(caught.value) == f"{what}\n  where: GGUF file {path}, header\n  try:   {hint}"


def test_a_vocabulary_of_another_size_is_refused(tmp_path):
    need_gguf()
    stored = {name: (tensor, None) for name, tensor in gguf_tensors(LLAMA).items()}
    plain = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.eos_token_id": 4}
    arrays = {"tokenizer.ggml.tokens": PIECES, "tokenizer.ggml.merges": [" ".join(pair) for pair in MERGES]}
    path = write_gguf(tmp_path / "x.gguf", gguf_settings(LLAMA) | plain, stored, arrays)
    with pytest.raises(InputError) as caught:
        open_source(path, None)
    assert str(caught.value) == (
        "the vocabulary has 300 tokens, the embedding table 19 rows\n"
        f"  where: GGUF file {path}\n  try:   convert the model again"
    )


def test_a_checkpoint_under_any_name(tmp_path, tokenizer):
    (tmp_path / "some.gguf").write_bytes(write_checkpoint(zoo.model_of(SHAPE)))
    assert open_source(tmp_path / "some.gguf", tokenizer).model.config == SHAPE
    with pytest.raises(UsageError) as caught:
        open_source(tmp_path / "some.gguf", None)
    assert str(caught.value) == (
        "some.gguf has no tokenizer\n  where: --tokenizer\n  try:   add --tokenizer FILE.bin"
    )


@pytest.mark.parametrize("name", ["model.safetensors", "some.bin"])
def test_weights_without_their_folder(tmp_path, tokenizer, name):
    folder = write_folder(tmp_path / "x", LLAMA)
    path = (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(InputError) as caught:
        open_source(path, tokenizer)
    assert str(caught.value) == (
        "the safetensors file has no mcugen entry in its metadata\n"
        f"  where: quantized model {path}\n"
        "  try:   name the folder of a Hugging Face model, or a file that mcugen quantize wrote"
    )


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc"])
def test_a_pickle(tmp_path, tokenizer, start):
    path = tmp_path / "some.bin"
    path.write_bytes(start + bytes(300))
    with pytest.raises(InputError) as caught:
        open_source(path, tokenizer)
    assert str(caught.value) == (
        "the file is a pickle, which is never read: it could run any code\n"
        f"  where: checkpoint {path}\n"
        "  try:   save the model as safetensors, where you trust it, and name its folder"
    )


def test_a_checkpoint_of_dim_640_is_no_pickle(tmp_path, tokenizer):
    """Its first bytes are 80 02, as those of a pickle."""
    path = tmp_path / "some.bin"
    path.write_bytes(struct.pack("<7i", 640, 8, 1, 2, 2, 19, 4))
    with pytest.raises(InputError, match=r"^the file has 28 bytes; its header \(version 0\) asks for"):
        open_source(path, tokenizer)


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(InputError, match=r"^cannot read config\.json: No such file or directory"):
        open_source(tmp_path, None)


def test_a_tokenizer_json_that_is_not_there(tmp_path):
    folder = write_folder(tmp_path / "x", LLAMA)
    with pytest.raises(InputError) as caught:
        open_source(folder, tmp_path / "other.json")
    assert str(caught.value) == (
        "cannot read the tokenizer: No such file or directory\n"
        f"  where: tokenizer {tmp_path / 'other.json'}\n"
        "  try:   give the path of the tokenizer that belongs to the model"
    )


def test_samples_open_with_the_vocabularys_bos(monkeypatch, tmp_path):
    """Of a model and a vocabulary whose bos is 7: each sequence that calibrates begins with it."""
    monkeypatch.setenv("MCUGEN_CACHE", str(tmp_path))
    opened = set()

    def calibrate(model, sequences, description):
        opened.update(int(sequence[0]) for sequence in sequences)
        return original(model, sequences, description)

    original = quantize.calibrate
    monkeypatch.setattr(quantize, "calibrate", calibrate)
    vocabulary = dataclasses.replace(zoo.random_tokenizer(50), bos=7, eos=9)
    quantize_source(Source("x", zoo.model_of(zoo.SHAPES["mha"]), None, vocabulary), None)
    assert opened == {7}


def test_another_bos_is_another_calibration():
    model = zoo.model_of(zoo.SHAPES["mha"])
    keys = {
        integers._quantized_key(
            Source("x", model, None, dataclasses.replace(zoo.random_tokenizer(50), bos=bos)), None, W8, None
        )
        for bos in (1, 7)
    }
    assert len(keys) == 2
