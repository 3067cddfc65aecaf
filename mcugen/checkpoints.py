"""Read and write llama2.c's checkpoints, with every check on the way in.

Format: llama2.c, export.py (legacy_export, version1_export, version2_export), run.c and runq.c.
All numbers are little-endian. A version 0 file is a header of 7 int32 and float32 tensors; versions 1 and 2
open with a magic, the version, the same 7 int32 and flags, padded to 256 bytes. In version 2 each matrix is
stored as int8 codes followed by its float32 group scales (export.py since September 2023).
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mcugen.errors import InputError
from mcugen.ir import CONFIG_LIMITS, Config, Model
from mcugen.weights import check_finite

MAGIC = 0x616B3432  # "ak42"
LEGACY_HEADER_BYTES = 28
HEADER_BYTES = 256
DEFAULT_GROUP_SIZE = 64  # export.py halves it until it divides dim

Version = Literal[0, 1, 2]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Header:
    version: Version
    config: Config
    group_size: int  # weights per scale; 0 where nothing is quantised
    size: int  # bytes

    @property
    def file_size(self) -> int:
        """Bytes of the whole file; exact, however absurd the header."""
        return self.size + sum(_stored_bytes(self, name, shape) for name, shape in _layout(self))


# ---------------------------------------------------------------- read


def read_checkpoint(path: Path) -> Model:
    """Read a llama2.c checkpoint of version 0, 1 or 2; version 2 is dequantised to float32.

    The file's size is held against its header before anything of that size is read. Weights are
    read-only. The format stores neither rope_theta nor norm_eps: run.c's constants are assumed.
    Raises InputError.
    """
    where = f"checkpoint {path}"
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            start = file.read(HEADER_BYTES)
            header = _parse_header(start, where)
            _check_size(size, header, where)
            content = start + file.read()
    except OSError as error:
        raise InputError(
            f"cannot read the checkpoint: {error.strerror}",
            where=where,
            hint="give the path of a llama2.c checkpoint (.bin)",
        ) from error
    return Model(
        name=path.stem,
        config=header.config,
        weights=MappingProxyType(_read_weights(content, header, where)),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _parse_header(start: bytes, where: str) -> _Header:
    """Return what the first bytes of the file say, all of it checked."""
    if len(start) < LEGACY_HEADER_BYTES:
        raise InputError(
            f"the file has {len(start)} bytes; the smallest header takes {LEGACY_HEADER_BYTES}",
            where=where,
            hint="the file is truncated: copy or download it again",
        )
    (magic,) = struct.unpack_from("<I", start)
    if magic != MAGIC:
        return _parse_legacy_header(start, where)
    if len(start) < HEADER_BYTES:
        raise InputError(
            f"the file has {len(start)} bytes; its header takes {HEADER_BYTES}",
            where=where,
            hint="the file is truncated: copy or download it again",
        )
    version, *sizes, shared, group_size = struct.unpack_from("<8iBi", start, 4)
    if version not in (1, 2):
        raise InputError(
            f"checkpoint version {version} is unknown",
            where=f"{where}, header",
            hint="export it again with llama2.c's export.py --version 1 (0, 1 and 2 are read)",
        )
    if shared not in (0, 1):
        raise InputError(
            f"the flag of the shared classifier is {shared}, neither 0 nor 1",
            where=f"{where}, header",
            hint="the file is damaged: copy or download it again",
        )
    config = _checked_config(sizes, bool(shared), where)
    header = _Header(version, config, group_size if version == 2 else 0, HEADER_BYTES)
    if version == 2:
        _check_groups(header, where)
    return header


def _parse_legacy_header(start: bytes, where: str) -> _Header:
    """Return the header of a version 0 file, which has no magic of its own."""
    sizes = list(struct.unpack_from("<7i", start))
    if not 1 <= sizes[0] <= CONFIG_LIMITS["dim"]:
        (magic,) = struct.unpack_from("<I", start)
        raise InputError(
            f"the file starts with 0x{magic:08x}: neither llama2.c's magic 0x{MAGIC:08x} nor a dim of 1 to "
            f"{CONFIG_LIMITS['dim']:,}",
            where=f"{where}, header",
            hint="give a llama2.c checkpoint (.bin), as its export.py writes it",
        )
    shared = sizes[5] > 0
    sizes[5] = abs(sizes[5])  # a negative vocabulary means a classifier of its own
    return _Header(0, _checked_config(sizes, shared, where), 0, LEGACY_HEADER_BYTES)


def _checked_config(sizes: list[int], shared: bool, where: str) -> Config:
    """Return the Config, if its sizes make sense and go together."""
    spot = f"{where}, header"
    for (name, limit), value in zip(CONFIG_LIMITS.items(), sizes, strict=True):
        if not 1 <= value <= limit:
            raise InputError(
                f"{name} is {value:,}; 1 to {limit:,} are supported",
                where=spot,
                hint="check that this is a llama2.c checkpoint; if it is, copy or download it again",
            )
    dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len = sizes
    if dim % n_heads:
        raise InputError(
            f"dim {dim} is not divisible by n_heads {n_heads}",
            where=spot,
            hint=f"llama2.c's models have dim = n_heads * head_dim; {_nearest(dim, n_heads)} would do",
        )
    if dim // n_heads % 2:
        raise InputError(
            f"head_dim {dim // n_heads} (dim {dim} / n_heads {n_heads}) is odd; RoPE rotates pairs",
            where=spot,
            hint="train the model with an even head_dim",
        )
    if n_heads % n_kv_heads:
        raise InputError(
            f"n_heads {n_heads} is not divisible by n_kv_heads {n_kv_heads}",
            where=spot,
            hint="each KV head must serve the same number of query heads",
        )
    return Config(dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len, shared)


def _nearest(dim: int, n_heads: int) -> str:
    """Return the n_heads that divide dim, nearest below and above."""
    below = max(n for n in range(1, min(n_heads, dim) + 1) if dim % n == 0)
    above = next((n for n in range(n_heads, dim + 1) if dim % n == 0), None)
    return f"{below} or {above}" if above else f"{below}"


def _check_groups(header: _Header, where: str) -> None:
    """Refuse a group size that cuts a matrix into anything but whole groups."""
    for name, shape in _layout(header):
        numbers = math.prod(shape[-2:])
        if not _is_norm(name) and (header.group_size < 1 or numbers % header.group_size):
            raise InputError(
                f"groups of {header.group_size} weights do not divide {name}'s {numbers:,} weights",
                where=f"{where}, header",
                hint="export it again with llama2.c's export.py --version 1",
            )


def _check_size(size: int, header: _Header, where: str) -> None:
    """Refuse a file that is shorter or longer than its header says, before it is read."""
    if size == header.file_size:
        return
    hint = "the file is truncated: copy or download it again"
    if size > header.file_size:
        hint = f"{size - header.file_size:,} bytes follow the last weight: export the model again"
    raise InputError(
        f"the file has {size:,} bytes; its header (version {header.version}) asks for {header.file_size:,}",
        where=where,
        hint=hint,
    )


def _read_weights(content: bytes, header: _Header, where: str) -> dict[str, NDArray[np.float32]]:
    """Return the tensors under llama2.c's names, finite and read-only."""
    weights: dict[str, NDArray[np.float32]] = {}
    at = header.size
    for name, shape in _layout(header):
        stored = memoryview(content)[at : at + _stored_bytes(header, name, shape)]
        at += len(stored)
        if name.startswith("freq_cis"):
            continue
        if _is_quantized(header, name):
            tensor = _dequantize(stored, shape, header.group_size)
        else:
            tensor = np.frombuffer(stored, "<f4").astype(np.float32, copy=False).reshape(shape)
        check_finite(tensor, name, where)
        tensor.setflags(write=False)
        weights[name] = tensor
    if header.config.shared_classifier:
        weights["wcls"] = weights["token_embedding_table"]
    return weights


def _dequantize(stored: memoryview, shape: Shape, group_size: int) -> NDArray[np.float32]:
    """Return code * scale. Per matrix: int8 codes, then one float32 scale per group."""
    numbers = math.prod(shape[-2:])
    matrices = np.frombuffer(stored, np.uint8).reshape(-1, numbers + 4 * (numbers // group_size))
    codes = matrices[:, :numbers].copy().view(np.int8).reshape(-1, group_size)
    scales = matrices[:, numbers:].copy().view("<f4").reshape(-1, 1)
    with np.errstate(over="ignore", invalid="ignore"):  # check_finite names the weight
        tensor: NDArray[np.float32] = codes.astype(np.float32) * scales.astype(np.float32)
    return tensor.reshape(shape)


# ---------------------------------------------------------------- write


def write_checkpoint(model: Model, version: Version = 1) -> bytes:
    """Return the model as a llama2.c checkpoint; version 2 rounds the matrices to int8 in groups.

    Raises InputError where the model computes something that the format has no place for.
    """
    if version not in (0, 1, 2):
        raise ValueError(f"llama2.c has no checkpoint version {version}")
    config = model.config
    _check_storable(model)
    group_size = DEFAULT_GROUP_SIZE
    while config.dim % group_size:
        group_size //= 2
    sizes = [getattr(config, name) for name in CONFIG_LIMITS]
    if version == 0:
        sizes[5] *= 1 if config.shared_classifier else -1
        start = struct.pack("<7i", *sizes)
    else:
        start = struct.pack("<I8iB", MAGIC, version, *sizes, config.shared_classifier)
        start += struct.pack("<i", group_size) if version == 2 else b""
        start = start.ljust(HEADER_BYTES, b"\0")
    header = _Header(version, config, group_size if version == 2 else 0, len(start))
    tensors = {**model.weights, **_rope_tables(config)}
    parts = [start]
    for name, shape in _layout(header):
        tensor = tensors[name].reshape(shape)
        parts.append(_quantize(tensor, group_size) if _is_quantized(header, name) else tensor.astype("<f4").tobytes())
    return b"".join(parts)


def _check_storable(model: Model) -> None:
    """Refuse a Config that would be read back as another one: only sizes and the classifier have a place."""
    sizes = {name: getattr(model.config, name) for name in CONFIG_LIMITS}
    plain = Config(**sizes, shared_classifier=model.config.shared_classifier)
    for part in fields(Config):
        value = getattr(model.config, part.name)
        if value != getattr(plain, part.name):
            raise InputError(
                f"llama2.c's format has no place for {part.name} = {value}",
                where=f"model {model.name}",
                hint="mcugen quantize writes a file that has",
            )


def _quantize(tensor: NDArray[np.float32], group_size: int) -> bytes:
    """Return each matrix as int8 codes in [-127, 127], then one float32 scale per group (quantize_q80)."""
    parts = []
    for matrix in tensor.reshape(-1, *tensor.shape[-2:]):
        groups = matrix.reshape(-1, group_size)
        scales = (np.abs(groups).max(axis=1, keepdims=True) / np.float32(127)).astype("<f4")
        codes = np.rint(groups / np.where(scales > 0, scales, 1)).clip(-127, 127).astype(np.int8)
        parts += [codes.tobytes(), scales.tobytes()]
    return b"".join(parts)


def _rope_tables(config: Config) -> dict[str, NDArray[np.float32]]:
    """Return cos and sin[seq_len, head_dim / 2], which only version 0 stores and nobody reads."""
    frequencies = config.rope_theta ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
    angles = np.outer(np.arange(config.seq_len), frequencies)
    return {
        "freq_cis_real": np.cos(angles).astype(np.float32),
        "freq_cis_imag": np.sin(angles).astype(np.float32),
    }


# ---------------------------------------------------------------- layout


def _layout(header: _Header) -> list[tuple[str, Shape]]:
    """Return the tensors of the file with their shapes, in the order of the file."""
    config = header.config
    layers, dim, hidden, kv_dim = config.n_layers, config.dim, config.hidden_dim, config.kv_dim
    table = (config.vocab_size, dim)
    attention = [
        ("wq", (layers, dim, dim)),
        ("wk", (layers, kv_dim, dim)),
        ("wv", (layers, kv_dim, dim)),
        ("wo", (layers, dim, dim)),
    ]
    feed_forward = [
        ("w1", (layers, hidden, dim)),
        ("w2", (layers, dim, hidden)),
        ("w3", (layers, hidden, dim)),
    ]
    att_norm, ffn_norm, final_norm = (
        ("rms_att_weight", (layers, dim)),
        ("rms_ffn_weight", (layers, dim)),
        ("rms_final_weight", (dim,)),
    )
    embedding = ("token_embedding_table", table)
    classifier = [] if config.shared_classifier else [("wcls", table)]
    if header.version == 0:
        rope = (config.seq_len, config.head_dim // 2)
        tables = [("freq_cis_real", rope), ("freq_cis_imag", rope)]
        return [embedding, att_norm, *attention, ffn_norm, *feed_forward, final_norm, *tables, *classifier]
    return [att_norm, ffn_norm, final_norm, embedding, *attention, *feed_forward, *classifier]


def _is_norm(name: str) -> bool:
    return name.startswith("rms_")


def _is_quantized(header: _Header, name: str) -> bool:
    return header.version == 2 and not _is_norm(name)


def _stored_bytes(header: _Header, name: str, shape: Shape) -> int:
    """Return the size of a tensor in the file."""
    numbers = math.prod(shape)
    return numbers + 4 * (numbers // header.group_size) if _is_quantized(header, name) else 4 * numbers
