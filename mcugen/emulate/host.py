"""The host build of a firmware as a Machine: a shared library in a process of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mcugen.emulate.elf import Elf, parse_elf
from mcugen.emulate.machine import FirmwareFault, Regions
from mcugen.errors import InternalError, ToolError
from mcugen.ir import Firmware
from mcugen.workers import ending, worker_environment

_WHERE = "host library"
_REPORT_LINES = 2  # of a dead worker's last words where no sanitizer speaks


class HostMachine:
    """The Machine of a host library. Free it with close().

    sanitize: the library was built with -fsanitize=address,undefined -fno-sanitize-recover=all by the
        compiler `cc`, whose run-time library is loaded first. Raises ToolError where it is missing.
    timeout: seconds for one request; a longer one is taken for an endless loop.
    """

    def __init__(self, firmware: Firmware, *, sanitize: bool = False, timeout: float = 300.0) -> None:
        self._image = firmware.image
        self._environment = _environment(sanitize)
        self._timeout = timeout
        self._elf: Elf | None = None
        self._observer: Callable[[int], None] | None = None
        self._worker: _Process | None = None

    # ------------------------------------------------------------ Machine

    def boot(self) -> None:
        self.close()
        self._worker = _Process(self._image, self._environment)
        if self._observer is not None:
            self.on_op(self._observer)

    def call(self, symbol: str, *args: int) -> int:
        return int(self._request(symbol, "call", symbol, args))

    def read(self, address: int, size: int) -> bytes:
        return bytes(self._request("read", "read", address, size))

    def write(self, address: int, data: bytes) -> None:
        self._request("write", "write", address, data)

    def address(self, symbol: str) -> int:
        exported = self._request(symbol, "address", symbol)
        return self._static_address(symbol) if exported is None else int(exported)

    def on_op(self, callback: Callable[[int], None] | None) -> None:
        self._observer = callback
        if self._worker is not None and not self._request("on_op", "observe", callback is not None):
            raise _not_observable()

    def trace(self, symbol: str, tokens: Sequence[int], regions: Regions, start: int = 0) -> list[bytes]:
        plain = {op: [dataclasses.astuple(region) for region in found] for op, found in regions.items()}
        results: list[bytes] | None = self._request(symbol, "trace", symbol, list(tokens), plain, start)
        if results is None:
            raise _not_observable()
        return results

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    # ------------------------------------------------------------ requests

    def _request(self, symbol: str, *request: object) -> Any:
        """Send a request, serve the ops that it reports, return its result.

        symbol: what a fault is blamed on when nothing better is known.
        """
        worker = self._worker
        if worker is None:
            raise InternalError(f"{symbol} before boot, or after a fault", where=_WHERE)
        error: BaseException | None = None
        with worker.time_limit(self._timeout):
            try:
                kind, value = worker.exchange(*request)
                while kind == "op":
                    if self._observer is not None and error is None:
                        error = _error_of(self._observer, value)
                    kind, value = worker.exchange("continue")
            except (EOFError, OSError, pickle.UnpicklingError):
                self._worker = None
                raise worker.fault(symbol, self._timeout) from None
        if error is not None:
            raise error
        if kind == "missing":
            raise _missing(value)
        return value

    def _static_address(self, symbol: str) -> int:
        """Place a symbol that is not exported relative to one that is."""
        self._elf = self._elf or parse_elf(self._image)
        wanted = self._elf.symbol(symbol)
        for anchor in self._elf.symbols:
            if anchor.is_global and anchor.size:
                there = self._request(anchor.name, "address", anchor.name)
                if there is not None:
                    return int(there) - anchor.address + wanted.address
        raise ToolError(f"cannot place {symbol}", where=_WHERE, hint="export at least one function or object")


def _error_of(observer: Callable[[int], None], op: int) -> BaseException | None:
    """Call the observer; its error must wait until the firmware's call has come to its end."""
    try:
        observer(op)
    except BaseException as error:
        return error
    return None


def _missing(symbol: str) -> ToolError:
    return ToolError(
        f"the library does not export {symbol}",
        where=_WHERE,
        hint="check the name, and that the function is not static",
    )


def _not_observable() -> ToolError:
    return ToolError(
        "the library has no mg_set_op_observer",
        where=_WHERE,
        hint="link firmware/runtime/op_done_host.c instead of op_done.c",
    )


# ---------------------------------------------------------------- the worker process


class _Process:
    """One worker, with its library in a temporary folder."""

    def __init__(self, image: bytes, environment: dict[str, str]) -> None:
        self._folder = tempfile.mkdtemp(prefix="mcugen-")
        library = Path(self._folder) / "firmware.so"
        library.write_bytes(image)
        self._errors_path = Path(self._folder) / "stderr"
        with self._errors_path.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mcugen.emulate.host_worker", str(library)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._timed_out = False
        self._close = weakref.finalize(self, _end, self._process, self._folder)

    def exchange(self, *request: object) -> tuple[str, Any]:
        """Send a request and return the next reply. Raises OSError or EOFError when the worker is gone."""
        assert self._process.stdin is not None and self._process.stdout is not None
        pickle.dump(request, self._process.stdin)
        self._process.stdin.flush()
        kind, value = pickle.load(self._process.stdout)
        return kind, value

    @contextlib.contextmanager
    def time_limit(self, seconds: float) -> Iterator[None]:
        timer = threading.Timer(seconds, self._expire)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _expire(self) -> None:
        self._timed_out = True
        self._process.kill()

    def fault(self, symbol: str, timeout: float) -> FirmwareFault:
        """Say why the worker has died."""
        status = self._process.wait()
        text = self._errors_path.read_text(errors="replace")
        self.close()
        if self._timed_out:
            what = f"{symbol} is still running after {timeout:g} s"
            return FirmwareFault("endless-loop", what, function=symbol, address=None, where=_WHERE)
        return _sanitizer_fault(text, symbol) or _crash(status, text, symbol)

    def close(self) -> None:
        self._close()


def _end(process: subprocess.Popen[bytes], folder: str) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # what was not sent yet
                pipe.close()
    shutil.rmtree(folder, ignore_errors=True)


def _crash(status: int, text: str, symbol: str) -> FirmwareFault:
    last = " ".join(text.strip().splitlines()[-_REPORT_LINES:])
    what = f"{symbol} ends the process: {ending(status)}" + (f" ({last})" if last else "")
    return FirmwareFault("crash", what, function=symbol, address=None, where=_WHERE)


def _sanitizer_fault(text: str, symbol: str) -> FirmwareFault | None:
    """Read the report of UBSan ("FILE:LINE:COLUMN: runtime error: WHAT") or ASan ("ERROR: AddressSanitizer: WHAT").

    Both print a stack, "#0 0xADDRESS in FUNCTION FILE:LINE"; the first function that has a source is to blame.
    """
    undefined = re.search(r"^(\S+): runtime error: (.*)$", text, re.MULTILINE)
    address = re.search(r"ERROR: AddressSanitizer:? (\S+)(?: on (?:unknown )?address (0x[0-9a-f]+))?", text)
    if undefined is None and address is None:
        return None
    frame = re.search(r"#\d+ 0x[0-9a-f]+ in (?!__|mem|str)(\w+) (\S*?)(?:\s|$)", text)
    function = frame[1] if frame else symbol
    if undefined is not None:
        what, line, at = undefined[2], undefined[1], None
    else:
        assert address is not None
        what, line = address[1], frame[2] if frame else ""
        at = int(address[2], 16) if address[2] else None
    where = f"{_WHERE}, {Path(line).name}" if line else _WHERE
    return FirmwareFault("sanitizer", f"{function}: {what}", function=function, address=at, where=where)


def _environment(sanitize: bool) -> dict[str, str]:
    environment = worker_environment()
    if sanitize:
        environment["LD_PRELOAD"] = find_libasan()
        environment["ASAN_OPTIONS"] = "detect_leaks=0"  # Python leaks at exit, on purpose
        environment["UBSAN_OPTIONS"] = "print_stacktrace=1"
    return environment


def find_libasan() -> str:
    """Return the path of the run-time library of cc's address sanitizer. Raises ToolError."""
    path = ""
    if cc := shutil.which("cc"):
        command = [cc, "-print-file-name=libasan.so"]
        path = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    if not Path(path).is_absolute():
        raise ToolError(
            "cc has no address sanitizer: libasan.so was not found",
            where="host library with sanitizers",
            hint="apt-get install gcc, or run without sanitizers",
        )
    return path
