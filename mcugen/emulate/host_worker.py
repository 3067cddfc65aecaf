"""The process that holds a host library: a crash or a sanitizer's abort ends it, and not its parent.

`python -m mcugen.emulate.host_worker LIBRARY` answers pickled requests from standard input on standard output:

    ("call", symbol, args)                     -> ("done", result as uint32)
    ("read", address, size)                    -> ("done", bytes)
    ("write", address, data)                   -> ("done", None)
    ("address", symbol)                        -> ("done", address, or None if it is not exported)
    ("observe", True or False)                 -> ("done", True if the library can be observed)
    ("trace", symbol, tokens, regions, start)  -> ("done", list of bytes, or None if it cannot be observed)

A function that the library does not export is answered by ("missing", symbol). While a call is observed, each op
sends ("op", index) and then serves requests until ("continue",), so that the parent may look around. Only the
standard library is used: a worker starts in tens of milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

_OBSERVER = ctypes.CFUNCTYPE(None, ctypes.c_uint32)


class _Missing(Exception):
    """The library does not export that symbol."""


class _Worker:
    def __init__(self, library: ctypes.CDLL, requests: BinaryIO, replies: BinaryIO) -> None:
        self._library = library
        self._requests = requests
        self._replies = replies
        self._observer: Any = None  # the library holds its address: it must stay alive

    def serve(self, last: str) -> None:
        """Answer requests until one named `last`, or the end of the input."""
        while True:
            try:
                name, *arguments = pickle.load(self._requests)
            except EOFError:
                return
            if name == last:
                return
            try:
                self._send("done", getattr(self, name)(*arguments))
            except _Missing as error:
                self._send("missing", str(error))

    def call(self, symbol: str, args: tuple[int, ...]) -> int:
        try:
            function = self._library[symbol]  # a new object each time: its result type is ours to set
        except AttributeError as error:
            raise _Missing(symbol) from error
        function.restype = ctypes.c_uint32
        # Registers are 64 bits wide and a narrower parameter ignores the upper part of its own.
        return int(function(*(ctypes.c_uint64(value & 0xFFFFFFFFFFFFFFFF) for value in args)))

    def read(self, address: int, size: int) -> bytes:
        return ctypes.string_at(address, size)

    def write(self, address: int, data: bytes) -> None:
        ctypes.memmove(address, data, len(data))

    def address(self, symbol: str) -> int | None:
        try:
            return ctypes.addressof(ctypes.c_uint8.in_dll(self._library, symbol))
        except ValueError:
            return None

    def observe(self, wanted: bool) -> bool:
        return self._set_observer(self._report if wanted else None)

    def trace(
        self, symbol: str, tokens: list[int], regions: dict[int, list[tuple[int, ...]]], start: int
    ) -> list[bytes] | None:
        """regions: op -> (address, size, stride, modulo, unit, kept), see machine.Region."""
        found: list[bytes] = []
        position = start

        def look(op: int) -> None:
            for address, size, stride, modulo, unit, kept in regions.get(op, ()):
                slot = min(position, kept + (position - kept) % (modulo - kept))
                found.append(ctypes.string_at(address + stride * (slot // unit), size))

        results = []
        before = self._observer
        if not self._set_observer(look):
            return None
        for token in tokens:
            self.call(symbol, (token,))
            results.append(b"".join(found))
            found.clear()
            position += 1
        self._set_observer(before)
        return results

    def _set_observer(self, observer: Callable[[int], None] | None) -> bool:
        try:
            set_observer = self._library.mg_set_op_observer
        except AttributeError:
            return False
        self._observer = observer
        self._native = _OBSERVER(observer) if observer else None
        set_observer(self._native)
        return True

    def _report(self, op: int) -> None:
        self._send("op", op)
        self.serve(last="continue")

    def _send(self, kind: str, value: object) -> None:
        pickle.dump((kind, value), self._replies)
        self._replies.flush()


def main() -> None:
    with os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(2, 1)  # what the library prints must not mix with the replies
        worker = _Worker(ctypes.CDLL(sys.argv[1]), sys.stdin.buffer, replies)
        worker.serve(last="")


if __name__ == "__main__":
    main()
