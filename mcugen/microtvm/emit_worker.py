"""The process that holds Apache TVM: a crash there ends it, and not its parent.

main() reads pickled jobs from standard input until that ends, and writes one pickled answer for each to standard
output: ("done", the result), or ("refused", what TVM raised).
"""

from __future__ import annotations

import ctypes
import os
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mcugen.microtvm.functions import TABLES, Argument, Buffer, Constant, Counter, Function, Integer, Table
from mcugen.microtvm.program import Call, Program

# These make of a function one that TVM's runtime calls, with packed arguments; without them it is plain C.
_RUNTIME_PASSES = (".MakePackedAPI", ".LowerTVMBuiltin", ".AnnotateEntryFunc", ".SplitHostDevice")
_PREFIX = "jit_"


@dataclass(frozen=True, slots=True)
class Emit:
    """Compile functions to C. prefix: of their names. Answer: their texts, as TVM writes them."""

    functions: tuple[Function, ...]
    prefix: str


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """Compile a program for this computer by TVM's LLVM backend, and start it from an empty ring. Answer: nothing."""

    program: Program


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Let the loaded program read tokens; `start` were read before. regions: call number, counted on from calls into
    rebase -> (offset, size, stride, modulo, unit) as emulate.machine.Region has them.

    Answer: per token the bytes of the regions, in the order in which the calls were done.
    """

    tokens: tuple[int, ...]
    regions: Mapping[int, Sequence[tuple[int, int, int, int, int]]]
    start: int = 0


@dataclass(frozen=True, slots=True)
class Reset:
    """Forget every token. Answer: nothing."""


@dataclass(frozen=True, slots=True)
class Peek:
    """Look into the arena. Answer: bytes."""

    offset: int
    size: int


Job = Emit | Load | Run | Reset | Peek


def emit(job: Emit) -> list[str]:
    import tvm
    from tvm.target import Target

    from mcugen.microtvm.tir import module_of

    class PlainC:
        def should_run(self, _module: object, info: Any) -> bool:
            return not str(info.name).endswith(_RUNTIME_PASSES)

    plain = tvm.instrument.pass_instrument(PlainC)()
    texts = []
    for function in job.functions:  # one by one, so that no function's text depends on another's
        config = {"tirx.disable_vectorize": True}
        with tvm.transform.PassContext(opt_level=3, instruments=[plain], config=config):
            built = tvm.compile(module_of((function,), job.prefix), target=Target("c", host="c"))
        texts.append(getattr(built, "mod", built).inspect_source())
    return texts


class Runner:
    """A program compiled by LLVM, its arena, and the counters of firmware/runtime/ring.h."""

    def __init__(self, program: Program) -> None:
        import tvm

        from mcugen.microtvm.tir import module_of

        module = tvm.compile(module_of(program.functions, _PREFIX), "llvm")
        self._functions = [module[f"{_PREFIX}{function.name}"] for function in program.functions]
        self._program = program
        self._keep: list[object] = []  # arrays that calls point to
        self._arena = np.zeros(program.arena_bytes + 16, np.uint8)
        self._base = -(-self._arena.ctypes.data // 16) * 16
        self._steps = [self._bound(call) for call in program.calls]
        self._rebase = [self._bound(call) for call in program.rebase]
        self.reset()

    def reset(self) -> None:
        ctypes.memset(self._base, 0, self._program.arena_bytes)
        self._counters = {"position": -1, "slot": -1, "length": 0, "token": 0}

    def peek(self, offset: int, size: int) -> bytes:
        return ctypes.string_at(self._base + offset, size)

    def run(self, job: Run) -> list[bytes]:
        return [self._step(token, job.start + i, job) for i, token in enumerate(job.tokens)]

    def _step(self, token: int, place: int, job: Run) -> bytes:
        """What default_lib0.c does for one token."""
        left: list[bytes] = []

        def call(number: int, function: Callable[[], None]) -> None:
            function()
            for offset, size, stride, modulo, unit in job.regions.get(number, ()):
                left.append(self.peek(offset + stride * (place % modulo // unit), size))

        counters, context = self._counters, self._program.context
        if counters["position"] + 1 == self._program.max_position:
            for number, function in enumerate(self._rebase, len(self._steps)):
                call(number, function)
            counters["position"] = context - 1
        counters["position"] += 1
        counters["slot"] = (counters["slot"] + 1) % context
        counters["length"] = min(counters["length"] + 1, context)
        counters["token"] = token
        for number, function in enumerate(self._steps):
            call(number, function)
        return b"".join(left)

    def _bound(self, call: Call) -> Callable[[], None]:
        function = self._functions[call.function]
        passed = [self._argument(argument) for argument in call.arguments]
        return lambda: function(*(argument() for argument in passed))

    def _argument(self, argument: Argument) -> Callable[[], object]:
        match argument:
            case Buffer(name):
                value: object = ctypes.c_void_p(self._base + self._program.offsets[name])
            case Constant(values=values):
                value = self._pointer(np.ascontiguousarray(values))
            case Table(name):
                value = self._pointer(TABLES[name])
            case Integer(number):
                value = number
            case Counter(name):
                return lambda: self._counters[name]
        return lambda: value

    def _pointer(self, array: Any) -> ctypes.c_void_p:
        self._keep.append(array)
        return ctypes.c_void_p(array.ctypes.data)


class _Worker:
    """Does one job after the other."""

    runner: Runner | None = None

    def do(self, job: Job) -> object:
        match job:
            case Emit():
                return emit(job)
            case Load(program):
                self.runner = Runner(program)
                return None
        assert self.runner is not None
        match job:
            case Run():
                return self.runner.run(job)
            case Peek(offset, size):
                return self.runner.peek(offset, size)
            case Reset():
                self.runner.reset()
                return None


def main() -> None:
    worker = _Worker()
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what TVM prints must not mix with the answers
        while True:
            try:
                job = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            try:
                answer: tuple[str, object] = ("done", worker.do(job))
            except Exception as error:  # TVM's own errors have no common base
                answer = ("refused", f"{type(error).__name__}: {error}")
            pickle.dump(answer, answers)
            answers.flush()
