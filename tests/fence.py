"""Call C through ctypes with every array at the edge of a page that no one may touch.

Each call runs twice: with the forbidden page right behind each array, then right in front. A read or a write past an
end ends the process with a signal, as undefined behaviour does (native.py); a stray write on the other side is found
afterwards. Needs nothing from the compiler, so that the very code that is tested elsewhere is fenced.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

PAGE = mmap.PAGESIZE
FILLER = 0xA5
GARBAGE = 0x5A  # what an output holds before the call
LIBC = ctypes.CDLL(None)


@dataclass(frozen=True)
class Out:
    """An output that holds garbage before the call."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class InOut:
    """An output that holds this array before the call."""

    array: np.ndarray


@dataclass(frozen=True)
class Same:
    """The memory of an earlier argument: an in-place call."""

    index: int


@dataclass(frozen=True)
class Struct:
    """A const struct passed by pointer, arrays in its fields fenced like any other."""

    type: type[ctypes.Structure]
    fields: Mapping[str, np.ndarray | int]


Argument = Out | InOut | Same | Struct | np.ndarray | int | ctypes.c_int64 | ctypes._CFuncPtr


def call(function: ctypes._CFuncPtr, *arguments: Argument) -> list[np.ndarray]:
    """Return what the outputs (Out and InOut) hold after the call; everything else must be as it was."""
    behind, in_front = (_call(function, arguments, fence_behind) for fence_behind in (True, False))
    for one, other in zip(behind, in_front, strict=True):
        np.testing.assert_array_equal(one, other)  # nothing depends on where an array lies
    return behind


def _call(function: ctypes._CFuncPtr, arguments: tuple[Argument, ...], fence_behind: bool) -> list[np.ndarray]:
    yard = _Yard(fence_behind)
    passed: list[object] = []
    outputs: list[np.ndarray] = []
    for argument in arguments:
        match argument:
            case Out(dtype, shape):
                garbage = np.full(np.dtype(dtype).itemsize * int(np.prod(shape)), GARBAGE, np.uint8)
                outputs.append(yard.place(garbage.view(dtype).reshape(shape)))
                passed.append(_pointer(outputs[-1]))
            case InOut(array):
                outputs.append(yard.place(array))
                passed.append(_pointer(outputs[-1]))
            case Same(index):
                passed.append(passed[index])
            case Struct(kind, fields):
                placed = {name: _field(yard, value) for name, value in fields.items()}
                passed.append(ctypes.byref(kind(**placed)))
            case np.ndarray():
                passed.append(_pointer(yard.place(argument, constant=True)))
            case int():
                passed.append(ctypes.c_int32(argument))
            case ctypes.c_int64() | ctypes._CFuncPtr():
                passed.append(argument)
    function.restype = None
    function(*passed)
    yard.check()
    return [output.copy() for output in outputs]


def _field(yard: _Yard, value: np.ndarray | int) -> object:
    return _pointer(yard.place(value, constant=True)) if isinstance(value, np.ndarray) else value


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


class _Yard:
    """Pages for the arrays of one call."""

    def __init__(self, fence_behind: bool) -> None:
        self._behind = fence_behind
        self._placed: list[tuple[np.ndarray, int, int, bytes | None]] = []  # pages, start, end, content if constant

    def place(self, array: np.ndarray, constant: bool = False) -> np.ndarray:
        """Return a copy of the array next to a forbidden page, filler on its other side."""
        room = -(-array.nbytes // PAGE) * PAGE
        pages = mmap.mmap(-1, room + PAGE)
        forbidden = room if self._behind else 0
        address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        usable = np.frombuffer(pages, np.uint8, room, 0 if self._behind else PAGE)
        usable[:] = FILLER
        start = room - array.nbytes if self._behind else 0
        end = start + array.nbytes
        copy = usable[start:end].view(array.dtype).reshape(array.shape)
        copy[...] = array
        if LIBC.mprotect(ctypes.c_void_p(address + forbidden), ctypes.c_size_t(PAGE), 0):
            raise OSError("mprotect failed")
        self._placed.append((usable, start, end, array.tobytes() if constant else None))
        return copy

    def check(self) -> None:
        for usable, start, end, content in self._placed:
            assert (usable[:start] == FILLER).all(), "written in front of an array"
            assert (usable[end:] == FILLER).all(), "written behind an array"
            assert content is None or usable[start:end].tobytes() == content, "an input was written"
