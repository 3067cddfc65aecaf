"""A core in QEMU under control: stopped, looked into, run from breakpoint to breakpoint, its instructions counted.

QEMU is driven through its GDB server over a pair of connected sockets, which leaves nothing in the file system, and
count_plugin.c counts. No process outlives its owner: QEMU ends with close(), with the object, or with Python.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

from mcugen.emulate.count_plugin import Counts
from mcugen.emulate.gdb import Disconnected, GdbClient
from mcugen.emulate.qemu import QemuMachine, machine_command
from mcugen.errors import InternalError, ToolError
from mcugen.ir import MemoryRegion

START_TIMEOUT_S = 60.0  # until QEMU answers; a second on an idle PC
SP, LR, PC = 13, 14, 15  # register numbers
_REGISTERS = 16  # r0 to pc, 32 bits each, come first in GDB's order
_DESCRIBE = "qXfer:features:read:target.xml:0,ff"  # QEMU takes P, one register, only from who has asked for this
_BREAKPOINT_STOP, _INTERRUPT_STOP = "T05", "T02"  # signals of GDB: SIGTRAP, SIGINT


class QemuEnded(Exception):
    """QEMU has gone; the text is what it said."""


class QemuCore:
    """A core that stands still after reset, with an image in its memory.

    counts: of the instructions in `code`, exact whenever the core stands still.
    Every method raises QemuEnded where QEMU has gone.
    """

    def __init__(self, machine: QemuMachine, image: bytes, code: MemoryRegion, *, where: str) -> None:
        """where: for errors. Raises ToolError where QEMU does not start, or this computer has no C compiler."""
        if os.name != "posix":
            raise ToolError("QEMU is controlled on POSIX systems only", where=where, hint="use Linux, macOS or WSL")
        with tempfile.TemporaryDirectory(prefix="mcugen-", ignore_cleanup_errors=True) as folder:
            elf = Path(folder) / "firmware.elf"
            elf.write_bytes(image)
            self.counts = Counts(Path(folder), code)
            self._process, connection, self._lifeline = _start(machine_command(machine, elf), self.counts)
            self._gdb = GdbClient(connection, START_TIMEOUT_S)
            self._end = weakref.finalize(self, _end, self._process, connection, self._lifeline)
            try:
                self._gdb.request("?", _DESCRIBE)
            except Disconnected as error:
                said = str(self._ended(error)).replace("\n", "\n    ")
                hint = "mcugen needs QEMU 7 or 8, built with TCG plugins (--enable-plugins), as Debian's is"
                raise ToolError(f"{machine.program} does not start:\n    {said}", where=where, hint=hint) from error

    def close(self) -> None:
        """End QEMU."""
        self._end()

    # ------------------------------------------------------------ registers and memory

    def registers(self) -> list[int]:
        """Return r0 to r15."""
        try:
            return self._gdb.registers(_REGISTERS)
        except Disconnected as error:
            raise self._ended(error) from error

    def set_registers(self, values: dict[int, int]) -> None:
        """Set registers by number, 0 to 15."""
        requests = (f"P{number:x}={value.to_bytes(4, 'little').hex()}" for number, value in values.items())
        self._request(*requests)

    def read(self, *pieces: tuple[int, int]) -> list[bytes]:
        """Return the memory of each piece (address, bytes)."""
        try:
            return self._gdb.read(*pieces)
        except Disconnected as error:
            raise self._ended(error) from error
        except ValueError as error:
            shown = ", ".join(f"{size} B at {address:#010x}" for address, size in pieces)
            raise InternalError(f"QEMU cannot read {shown}", where="GDB server of QEMU") from error

    def write(self, address: int, content: bytes) -> None:
        try:
            self._gdb.write(address, content)
        except Disconnected as error:
            raise self._ended(error) from error
        except ValueError as error:
            what = f"QEMU cannot write {len(content)} B at {address:#010x}"
            raise InternalError(what, where="GDB server of QEMU") from error

    # ------------------------------------------------------------ running

    def add_breakpoints(self, addresses: Sequence[int]) -> None:
        """Stop in front of these instructions; whatever shares a page of 1 KiB with one runs slowly."""
        self._request(*(f"Z0,{address:x},2" for address in addresses))

    def remove_breakpoints(self, addresses: Sequence[int]) -> None:
        self._request(*(f"z0,{address:x},2" for address in addresses))

    def run(self, timeout: float) -> bool:
        """Run to the next breakpoint. Returns False when there was none within `timeout` seconds; it is stopped then.

        A breakpoint at the program counter stops the core at once: step() over it first.
        """
        return self._resume("c", timeout)

    def step(self) -> None:
        """Execute one instruction, whether there is a breakpoint or not."""
        self._resume("s", START_TIMEOUT_S)

    def _resume(self, request: str, timeout: float) -> bool:
        try:
            reason = self._gdb.resume(request, timeout)
            if reason is None:
                reason = self._gdb.interrupt()
        except Disconnected as error:
            raise self._ended(error) from error
        if not reason.startswith((_BREAKPOINT_STOP, _INTERRUPT_STOP)):
            self.close()
            raise QemuEnded(f"it stops with {reason}")
        return reason.startswith(_BREAKPOINT_STOP)

    def _request(self, *requests: str) -> None:
        try:
            replies = self._gdb.request(*requests)
        except Disconnected as error:
            raise self._ended(error) from error
        for request, reply in zip(requests, replies, strict=True):
            if reply != "OK":
                raise InternalError(f"QEMU answers {request} with {reply!r}", where="GDB server of QEMU")

    def _ended(self, error: Disconnected) -> QemuEnded:
        """End what is left of QEMU and return its last words."""
        assert self._process.stderr is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)  # when it ends by itself, its own message is the reason
        self._process.kill()
        said = self._process.stderr.read().decode(errors="replace").strip()
        self.close()
        return QemuEnded(said or str(error))


def _start(command: list[str], counts: Counts) -> tuple[subprocess.Popen[bytes], socket.socket, int]:
    """Start QEMU stopped; returns the process, the connection to its GDB server and the write end of its lifeline."""
    ours, theirs = socket.socketpair()
    watched, lifeline = os.pipe()
    options = ["-S", "-serial", "null", "-chardev", f"socket,id=gdb,fd={theirs.fileno()}", "-gdb", "chardev:gdb"]
    try:
        process = subprocess.Popen(
            [*command, *options, *counts.options(watched)],
            pass_fds=(theirs.fileno(), watched),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    except BaseException:
        ours.close()
        os.close(lifeline)
        raise
    finally:
        theirs.close()
        os.close(watched)
    return process, ours, lifeline


def _end(process: subprocess.Popen[bytes], connection: socket.socket, lifeline: int) -> None:
    process.kill()
    process.wait()
    if process.stderr is not None:
        process.stderr.close()
    connection.close()
    os.close(lifeline)
