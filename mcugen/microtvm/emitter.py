"""Apache TVM in a process of its own: C out of TIR functions, and the same functions run by its LLVM backend."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcugen.cache import Cache, default_cache_dir
from mcugen.errors import McugenError, ToolError
from mcugen.microtvm import emit_worker as worker
from mcugen.microtvm.ctidy import tidy
from mcugen.microtvm.functions import Emitted, Function
from mcugen.workers import ending, last_words, worker_environment

# The second is what the first calls, and has no upper bound there: its 0.1.15 crashes in tensorize.
PINS = {"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.14.post1"}

__all__ = ["PINS", "Emitted", "TvmFault", "TvmProcess", "emit", "find_tvm"]

_WHERE = "Apache TVM"
_ENTRY = f"from {worker.__name__} import main; main()"  # not -m: what it pickles must not be __main__'s
_LOG_LINES = 3  # of what TVM said last


class TvmFault(McugenError):
    """Apache TVM refused a function, or died."""

    exit_code = 70


def find_tvm() -> str:
    """The version of Apache TVM. Raises ToolError where it, or what it rests on, is not installed as pinned.

    Nothing of it is imported: with another version of apache-tvm-ffi, that can end the process.
    """
    for package, version in PINS.items():
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise ToolError(f"the Python package {package} is not installed", where=_WHERE, hint=_hint()) from None
        if found != version:
            raise ToolError(f"the Python package {package} is {found}, not {version}", where=_WHERE, hint=_hint())
    return PINS["apache-tvm"]


def _hint() -> str:
    pins = " ".join(f"{package}=={version}" for package, version in PINS.items())
    return f"`pip install 'mcugen[microtvm]'`, which is {pins}, with Python 3.11 to 3.13"


def emit(functions: Sequence[Function], prefix: str, cache: Cache | None = None) -> Emitted:
    """C with the functions, in their order, each under its name behind the prefix. The same input, the same bytes.

    Raises ToolError where Apache TVM is not installed as pinned, TvmFault where it fails.
    """
    version = find_tvm()
    cache = cache or Cache(default_cache_dir())
    key = _key(functions, prefix)
    kept = cache.load(key)
    if kept is None:
        with TvmProcess() as process:
            texts = process.ask(worker.Emit(tuple(functions), prefix))
        kept = tidy(functions, texts, prefix, version).encode()
        cache.store(key, kept)
    return Emitted(kept.decode(), version)


def _key(functions: Sequence[Function], prefix: str) -> str:
    """Of everything that the text depends on: the functions, the versions, and the code that writes them."""
    digest = hashlib.sha256(repr((tuple(functions), prefix, sorted(PINS.items()))).encode())
    own = Path(__file__).parent
    for path in (*sorted(own.glob("*.py")), *(own.parent / f"{name}.py" for name in ("ctext", "layouts", "tables"))):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


class TvmProcess:
    """A process of its own that does jobs of emit_worker. ask(job) -> what that made of it."""

    def __init__(self) -> None:
        find_tvm()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ENTRY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=worker_environment(),
        )

    def __enter__(self) -> TvmProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, job: worker.Job) -> Any:
        """Raises TvmFault where TVM refuses the job, or dies of it; the process has ended then."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            pickle.dump(job, self._process.stdin)
            self._process.stdin.flush()
            kind, value = pickle.load(self._process.stdout)
        except (BrokenPipeError, EOFError, pickle.UnpicklingError):
            raise self._fault(f"ended: {ending(self._process.wait())}") from None
        if kind != "done":
            raise self._fault(f"refuses: {value}")
        return value

    def close(self) -> None:
        """End the process; once more does nothing."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._process.wait()
        self._log.close()

    def _fault(self, what: str) -> TvmFault:
        self._log.seek(0)
        last = last_words(self._log.read(), _LOG_LINES)
        self.close()
        return TvmFault(
            f"Apache TVM {what}{last}",
            where=_WHERE,
            hint="its versions are pinned: does PYTHONPATH put another one first? Else please report it",
        )
