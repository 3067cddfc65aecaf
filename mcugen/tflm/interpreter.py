"""TFLite Micro's own interpreter, of the PyPI package tflite-micro, in a process of its own."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import pickle
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from mcugen.errors import McugenError, ToolError
from mcugen.ir import Firmware
from mcugen.tflm import interpreter_worker as worker
from mcugen.tflm.interpreter_worker import Job, Sequence
from mcugen.workers import ending, last_words, worker_environment

PACKAGE = "tflite-micro"
__all__ = ["InterpreterFault", "Job", "Run", "Sequence", "find_interpreter", "run_interpreter"]

_WHERE = "TFLite Micro's interpreter"
_LOG_LINES = 4  # of what TFLM said last
_ENTRY = f"from {worker.__name__} import main; main()"  # not -m: what it pickles must not be __main__'s


class InterpreterFault(McugenError):
    """The interpreter refused a model, failed while it ran, or died."""

    exit_code = 6


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What a job gave. arena: what TFLM says it used, in bytes, as "total", "head", "tail"; empty where all tensors
    were kept."""

    sequences: tuple[Sequence, ...]
    arena: dict[str, int]


def find_interpreter() -> str:
    """The version of the package. Raises ToolError where it is not installed."""
    if importlib.util.find_spec("tflite_micro") is None:
        raise ToolError(
            f"the Python package {PACKAGE} is not installed",
            where=_WHERE,
            hint="`pip install 'mcugen[tflm]'`, on Linux with x86-64 and Python 3.11 to 3.13",
        )
    return importlib.metadata.version(PACKAGE)


def run_interpreter(job: Job, library: Firmware | None, timeout: float = 600.0) -> Run:
    """Run a job in a process of its own. library: the op library (mcugen.tflm.render.render_op_library); its path
    in the job is set here.

    Raises InterpreterFault where the interpreter refuses the model or dies, ToolError where it is not installed.
    """
    find_interpreter()
    with tempfile.TemporaryDirectory(prefix="mcugen-") as folder:
        path = ""
        if library is not None:
            path = f"{folder}/ops.so"
            Path(path).write_bytes(library.image)
        try:
            done = subprocess.run(
                [sys.executable, "-c", _ENTRY],
                input=pickle.dumps(replace(job, library=path)),
                capture_output=True,
                timeout=timeout,
                env=worker_environment(),
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise _fault(f"is still running after {timeout:g} s", error.stderr or b"") from error
    if done.returncode != 0:
        raise _fault(f"ended: {ending(done.returncode)}", done.stderr)
    kind, value = pickle.loads(done.stdout)
    if kind != "done":
        raise _fault(f"refuses the model: {value}", done.stderr)
    return Run(tuple(value), _arena(done.stderr.decode(errors="replace")))


def _fault(what: str, log: bytes) -> InterpreterFault:
    return InterpreterFault(
        f"the interpreter {what}{last_words(log, _LOG_LINES)}",
        where=_WHERE,
        hint="its words say which: an arena too small, an op that is missing, a file that is cut off",
    )


def _arena(log: str) -> dict[str, int]:
    """The lines "[RecordingMicroAllocator] Arena allocation head 2176 bytes"."""
    return {name: int(size) for name, size in re.findall(r"Arena allocation (\w+) (\d+) bytes", log)}
