"""The same TIR run by TVM's LLVM backend, as a machine that verification can ask: neither C nor what generates it.

The calls are those of default_lib0.c, in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mcugen.ctext import model_prefix
from mcugen.emulate.machine import Regions
from mcugen.ir import Graph, Plan
from mcugen.microtvm import emit_worker as worker
from mcugen.microtvm.emitter import TvmProcess
from mcugen.microtvm.program import program_of

_PROMPT = 0x1000_0000  # an address beyond every arena


class JitMachine:
    """emulate.machine.Machine, as far as verification needs one. The arena begins at address 0.

    Raises ToolError where Apache TVM is not installed as pinned, TvmFault where it fails.
    """

    title = "TVM's LLVM backend"

    def __init__(self, graph: Graph, plan: Plan) -> None:
        """graph: of a family without intrinsics, which LLVM could not call."""
        assert graph.packing == "row_major"
        self._prefix = model_prefix(graph.model.name)
        self._prompt = b""
        self._count = 0
        self._process = TvmProcess()
        self._process.ask(worker.Load(program_of(graph, plan)))

    def boot(self) -> None:
        self._process.ask(worker.Reset())
        self._count = 0

    def call(self, symbol: str, *args: int) -> int:
        match symbol.removeprefix(f"{self._prefix}_"), args:
            case "init", ():
                self.boot()
            case "step", (token,):
                self.trace(symbol, [token], {}, self._count)
            case "read", (at, count) if at == _PROMPT:
                self.trace(symbol, np.frombuffer(self._prompt, "<u2")[:count].tolist(), {}, self._count)
            case _:
                raise AssertionError(f"{symbol}{args} is no function of a model")
        return 0

    def read(self, address: int, size: int) -> bytes:
        return bytes(self._process.ask(worker.Peek(address, size)))

    def write(self, address: int, data: bytes) -> None:
        assert address == _PROMPT
        self._prompt = data

    def address(self, symbol: str) -> int:
        return {f"{self._prefix}_arena": 0, f"{self._prefix}_prompt": _PROMPT}[symbol]

    def on_op(self, callback: Callable[[int], None] | None) -> None:
        assert callback is None

    def trace(self, symbol: str, tokens: Sequence[int], regions: Regions, start: int = 0) -> list[bytes]:
        places = {
            op: [(r.address, r.size, r.stride, r.modulo, r.unit) for r in found] for op, found in regions.items()
        }
        self._count = start + len(tokens)
        return list(self._process.ask(worker.Run(tuple(map(int, tokens)), places, start)))

    def close(self) -> None:
        self._process.close()
