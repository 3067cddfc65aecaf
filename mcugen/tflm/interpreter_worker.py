"""The process that holds TFLite Micro's own interpreter: a crash there ends it, and not its parent.

main() reads one pickled Job from standard input and writes one pickled answer to standard output: ("done", a list of
Sequences) or ("refused", what the interpreter raised). What TFLM logs goes to standard error.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.integer]

REGISTERER = "mcugen_register"  # the op library's entry point (templates/tflm/register.cc.j2)
_OBSERVER = ctypes.CFUNCTYPE(None, ctypes.c_uint32)


@dataclass(frozen=True, slots=True)
class Job:
    """tflite: the model. library: path of the op library, or "" for none. sequences: tokens, with a reset between two
    of them. keep: tensors to look at after every token, which need memory of their own: the model must have no
    memory plan then. rings: which of `keep` are KV rings of `context` slots, of which only the written slot is kept;
    rebased: op number -> the tensor to look at when that op is announced. state: tensors to look at in the end.
    """

    tflite: bytes
    library: str
    arena_bytes: int
    sequences: tuple[tuple[int, ...], ...]
    keep: tuple[int, ...] = ()
    rings: frozenset[int] = frozenset()
    context: int = 1
    rebased: dict[int, int] = field(default_factory=dict)
    state: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Sequence:
    """What one sequence of T tokens gave. logits: int32[T, vocab]; next_token: int32[T]; kept: per tensor of
    Job.keep, [T, n]; rebased: token index -> tensors of Job.rebased in the order they were announced; state: per
    tensor of Job.state."""

    logits: IntArray
    next_token: IntArray
    kept: tuple[IntArray, ...]
    rebased: dict[int, list[IntArray]]
    state: tuple[IntArray, ...]


def run(job: Job) -> list[Sequence]:
    """Let the interpreter read the sequences, one after the other."""
    from tflite_micro import runtime

    ctypes.CDLL(runtime._runtime.__file__, mode=ctypes.RTLD_GLOBAL)  # the op library needs its symbols
    library = ctypes.CDLL(job.library, mode=ctypes.RTLD_GLOBAL) if job.library else None
    config = runtime.InterpreterConfig
    interpreter = runtime.Interpreter.from_bytes(
        job.tflite,
        custom_op_registerers=[REGISTERER] if library else [],
        arena_size=job.arena_bytes,
        intrepreter_config=config.kPreserveAllTensors if job.keep else config.kAllocationRecording,
    )

    def tensor(index: int) -> IntArray:
        return np.array(interpreter.GetTensor(index, 0)["tensor_data"])

    turned: list[IntArray] = []

    def announce(op: int) -> None:
        if op in job.rebased:
            turned.append(tensor(job.rebased[op]))

    observer = _OBSERVER(announce)
    if library is not None and job.rebased:
        library.mg_set_op_observer(observer)
    found = []
    for tokens in job.sequences:
        interpreter.reset()
        found.append(_read(job, interpreter, tokens, tensor, turned))
    if not job.keep:
        interpreter.print_allocations()
    return found


def _read(job: Job, interpreter: Any, tokens: tuple[int, ...], tensor: Any, turned: list[IntArray]) -> Sequence:
    logits, following, rebased = [], [], {}
    kept: list[list[IntArray]] = [[] for _ in job.keep]
    for count, token in enumerate(tokens):
        interpreter.set_input(np.array([token], np.int32), 0)
        interpreter.invoke()
        logits.append(np.array(interpreter.get_output(0)).ravel())
        following.append(int(interpreter.get_output(1)[0]))
        for values, index in zip(kept, job.keep, strict=True):
            value = tensor(index)
            values.append(value[count % job.context] if index in job.rings else value.ravel())
        if turned:
            rebased[count] = turned[:]
            turned.clear()
    return Sequence(
        np.array(logits),
        np.array(following, np.int32),
        tuple(np.array(values) for values in kept),
        rebased,
        tuple(tensor(index) for index in job.state),
    )


def main() -> None:
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what TFLM prints must not mix with the answer
        job = pickle.load(sys.stdin.buffer)
        try:
            answer: tuple[str, object] = ("done", run(job))
        except Exception as error:  # TFLM's own come as RuntimeError; a file cut off fails in many ways
            answer = ("refused", f"{type(error).__name__}: {error}")
        pickle.dump(answer, answers)
