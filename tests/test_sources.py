"""What MODEL may be: folder or file, told apart by content; and the samples that a vocabulary's bos opens."""

from __future__ import annotations

import dataclasses
import struct

import pytest
import zoo
from foreign import CASES, gguf_settings, gguf_tensors, write_folder, write_gguf
from tools import missing

from mcugen import quantize, sources
from mcugen.checkpoints import write_checkpoint
from mcugen.errors import InputError, UsageError
from mcugen.ir import Config
from mcugen.sources import Source, open_source, quantize_source
from mcugen.tokenizer import write_tokenizer

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


def test_a_gguf_file_under_any_name(tmp_path, tokenizer):
    try:
        import gguf  # noqa: F401
    except ImportError:
        missing("the Python package gguf is not installed")
    stored = {name: (tensor, None) for name, tensor in gguf_tensors(LLAMA).items()}
    found = open_source(write_gguf(tmp_path / "some.bin", gguf_settings(LLAMA), stored), tokenizer)
    assert (found.name, found.model.config) == ("some", SHAPE)


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
        sources._quantized_key(
            Source("x", model, None, dataclasses.replace(zoo.random_tokenizer(50), bos=bos)), None, 8
        )
        for bos in (1, 7)
    }
    assert len(keys) == 2
