"""The whole application in QEMU: the same ELF, another implementation of the core.

QEMU lets pass what unicorn_machine.py refuses (writes to flash, unmapped registers): run both.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcugen.emulate.machine import FirmwareFault
from mcugen.errors import ToolError
from mcugen.ir import Board, Firmware


@dataclass(frozen=True, slots=True)
class QemuMachine:
    """A machine of QEMU. serial: which of its serial ports, from 0, is the board's console."""

    name: str
    serial: int = 0
    program: str = "qemu-system-arm"
    package: str = "qemu-system-arm"  # of Debian, for the hint
    options: tuple[str, ...] = ()


# By port and core of the board: a board file of one's own has a machine, too. Memory, console and core are where the
# board's are (QEMU's documentation, "Arm System emulator"), with two exceptions that the firmware does not notice:
# netduinoplus2 has an STM32F405 instead of an F446, and no clock registers, so that the port's bounded waits run out;
# an385 has a Cortex-M3, which executes what a Cortex-M0+ does (QEMU has no an383).
MACHINES: Mapping[tuple[str, str], QemuMachine] = {
    ("stm32f4", "cortex-m4"): QemuMachine("netduinoplus2", serial=1),
    ("mps2", "cortex-m0plus"): QemuMachine("mps2-an385"),
    ("mps2", "cortex-m3"): QemuMachine("mps2-an385"),
    ("mps2", "cortex-m4"): QemuMachine("mps2-an386"),
    ("mps2", "cortex-m7"): QemuMachine("mps2-an500"),
    ("mps2", "cortex-m33"): QemuMachine("mps2-an505"),
    ("mps2", "cortex-m55"): QemuMachine("mps3-an547"),
    ("nrf5", "cortex-m0"): QemuMachine("microbit"),
    ("virt", "rv32imc"): QemuMachine(
        "virt",
        program="qemu-system-riscv32",
        package="qemu-system-misc",
        options=("-cpu", "rv32,a=false,f=false,d=false", "-bios", "none"),
    ),
}

_END = b"\x04"  # EOT: the application says that it has ended
_CHUNK = 4096


def run_console(
    firmware: Firmware, typed: bytes, timeout: float, prompt: bytes = b"> ", options: Sequence[str] = ()
) -> bytes:
    """Run an application from reset and return everything that its console prints.

    typed: lines; each is sent when the output ends with `prompt`. The run ends when the application prompts again
    after the last line or, where EOT is not itself the prompt, prints EOT, which is not returned.
    timeout: seconds. options: more of QEMU's own, e.g. to log what it executes.
    Raises FirmwareFault when the time has passed, or when QEMU stops by itself; ToolError where QEMU is missing,
    or has no such board.
    """
    machine = find_machine(firmware.board)
    with tempfile.TemporaryDirectory(prefix="mcugen-") as folder:
        image = Path(folder) / "firmware.elf"
        image.write_bytes(firmware.image)
        command = [*machine_command(machine, image), *options, *["-serial", "null"] * machine.serial]
        return _converse(machine.name, [*command, "-serial", "stdio"], typed, timeout, prompt)


def has_machine(board: Board) -> bool:
    """Whether QEMU knows such a board at all."""
    return (board.port, board.core) in MACHINES


def find_machine(board: Board) -> QemuMachine:
    """Return the machine that runs the firmware of `board`. Raises ToolError where there is none, or no QEMU."""
    machine = MACHINES.get((board.port, board.core))
    if machine is None:
        raise ToolError(
            f"QEMU has no machine for port {board.port} on {board.core}",
            where=f"running {board.name} in QEMU",
            hint=f"choose a board with port {' or '.join(sorted({port for port, _ in MACHINES}))}",
        )
    if shutil.which(machine.program) is None:
        raise ToolError(
            f"{machine.program} is not installed",
            where=f"running {board.name} in QEMU",
            hint=f"apt-get install {machine.package}",
        )
    return machine


def machine_command(machine: QemuMachine, image: Path) -> list[str]:
    """The command that starts `machine` with the ELF `image`, without a display; serial ports follow."""
    command = [machine.program, "-M", machine.name, *machine.options, "-kernel", str(image)]
    return [*command, "-display", "none", "-monitor", "none"]


def _converse(name: str, command: list[str], typed: bytes, timeout: float, prompt: bytes) -> bytes:
    lines = typed.splitlines(keepends=True)
    output = bytearray()
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0) as qemu:
        assert qemu.stdin is not None and qemu.stdout is not None and qemu.stderr is not None
        expired = threading.Event()
        timer = threading.Timer(timeout, _expire, (expired, qemu))
        timer.start()
        try:
            while chunk := os.read(qemu.stdout.fileno(), _CHUNK):
                output += chunk
                if prompt != _END and _END in output:
                    return bytes(output[: output.index(_END)])
                if output.endswith(prompt):
                    if not lines:
                        return bytes(output)
                    qemu.stdin.write(lines.pop(0))
        finally:
            timer.cancel()
            qemu.kill()
        said = qemu.stderr.read().decode(errors="replace").strip()
    raise _early_end(name, expired.is_set(), timeout, bytes(output), said)


def _expire(expired: threading.Event, qemu: subprocess.Popen[bytes]) -> None:
    expired.set()
    qemu.kill()


def _early_end(name: str, expired: bool, timeout: float, output: bytes, said: str) -> FirmwareFault:
    tail = repr(output[-40:].decode(errors="replace"))
    what = f"is still running after {timeout:g} s" if expired else f"ends QEMU ({said or 'no message'})"
    return FirmwareFault(
        "endless-loop" if expired else "crash",
        f"the application {what}; its output ends with {tail}",
        function="main",
        address=None,
        where=f"{name} in QEMU",
    )
