"""How a buffer's values lie in memory: what a kernel family keeps its codes and rings in, and how to read them back.

Vectors may be padded and re-coded; rings may hold several slots interleaved, as a unit. The simulator knows none of
this: verification decodes what a machine holds and compares values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class BufferLayout:
    """A way to store an array whose last axis is a vector.

    dtype: of what is stored; "" is the buffer's own. columns, unit: a vector's length and a ring's slots are padded
    to a multiple of these; a ring's slots lie unit by unit. decode: stored array [units, unit * columns] -> values
    [units * unit, columns], both padded; None where they are the same.
    """

    dtype: str = ""
    columns: int = 1
    unit: int = 1
    decode: Callable[[Ints, int], Ints] | None = None

    @property
    def begins_plain(self) -> bool:
        """Whether a vector's values lie in front as they are, whatever follows."""
        return not self.dtype and self.unit == 1 and self.decode is None


def _unsigned(stored: Ints, _unit: int) -> Ints:
    """uint8 code + 128."""
    return stored.astype(np.int16) - 128


def _value_pairs(stored: Ints, _unit: int) -> Ints:
    """Words of two slots by two channels: v[t][d], v[t][d+1], v[t+1][d], v[t+1][d+1]."""
    words = stored.reshape(len(stored), -1, 2, 2)  # unit, channel pair, slot, channel
    return words.transpose(0, 2, 1, 3).reshape(2 * len(stored), -1)


def _quads(stored: Ints) -> Ints:
    """Words of four codes, all but the last with the top bit turned over: [.., words, 4]."""
    words = stored.reshape(len(stored), -1, 4).view(np.uint8)
    return (words ^ np.array([128, 128, 128, 0], np.uint8)).view(np.int8)


def _key_quads(stored: Ints, _unit: int) -> Ints:
    """Words of one channel in four slots."""
    return _quads(stored).transpose(0, 2, 1).reshape(4 * len(stored), -1)


def _value_quads(stored: Ints, _unit: int) -> Ints:
    """Words of four channels in one slot."""
    return _quads(stored).reshape(len(stored), -1)


def _key_octets(stored: Ints, unit: int) -> Ints:
    """[octet of channels][slot][channel] within a unit of slots."""
    octets = stored.reshape(len(stored), -1, unit, 8)
    return octets.transpose(0, 2, 1, 3).reshape(unit * len(stored), -1)


def _value_columns(stored: Ints, unit: int) -> Ints:
    """[channel][slot] within a unit of slots."""
    return stored.reshape(len(stored), -1, unit).transpose(0, 2, 1).reshape(unit * len(stored), -1)


def _factors(stored: Ints, _unit: int) -> Ints:
    """16 bytes per four codes: four 16-bit factors whose low bytes are the codes, and 8 bytes made of them."""
    codes = np.ascontiguousarray(stored).view(np.int8).reshape(len(stored), -1, 16)[..., 0:8:2]
    return codes.reshape(len(stored), -1)


LAYOUTS: Mapping[str, BufferLayout] = {
    "plain": BufferLayout(),
    "words16": BufferLayout("int16", columns=8),  # int8 codes as int16
    "factors": BufferLayout("int32", columns=4, decode=_factors),
    "unsigned8": BufferLayout("uint8", columns=8, decode=_unsigned),
    "padded8": BufferLayout(columns=8),
    "padded16": BufferLayout(columns=16),
    "value_pairs": BufferLayout(columns=2, unit=2, decode=_value_pairs),
    "key_quads": BufferLayout(unit=4, decode=_key_quads),
    "value_quads": BufferLayout(columns=4, decode=_value_quads),
    "key_octets": BufferLayout(columns=8, unit=16, decode=_key_octets),
    "value_columns": BufferLayout(unit=16, decode=_value_columns),
}


def stored_bytes(layout: str, dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of an array [..., columns], or of a ring [slots, columns]."""
    kind = LAYOUTS[layout]
    rows = int(np.prod(shape[:-1]))
    return _padded(rows, kind.unit) * _padded(shape[-1], kind.columns) * np.dtype(kind.dtype or dtype).itemsize


def decode(content: bytes, layout: str, dtype: str, shape: tuple[int, ...]) -> Ints:
    """The values of an array, from the bytes that it is stored in (little-endian)."""
    kind = LAYOUTS[layout]
    stored_type = np.dtype(kind.dtype or dtype)
    stored: Ints = np.frombuffer(content, stored_type.newbyteorder("<")).astype(stored_type)
    columns = _padded(shape[-1], kind.columns)
    values = stored.reshape(-1, columns)
    if kind.decode is not None:
        values = kind.decode(stored.reshape(-1, kind.unit * columns), kind.unit)
    rows = int(np.prod(shape[:-1]))
    return values[:rows, : shape[-1]].reshape(shape)


def _padded(count: int, step: int) -> int:
    return -(-count // step) * step
