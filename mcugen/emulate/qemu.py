"""The whole application in QEMU: the same ELF, another implementation of the core.

The machine netduinoplus2 has an STM32F405: flash, RAM and USART2 lie where the STM32F446's do, and USART2 is its
second serial port. Its clock registers are absent, so the firmware's bounded waits run out, and it goes on.
QEMU lets pass what cortex_m.py refuses (writes to flash, unmapped registers): run both.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from mcugen.emulate.machine import FirmwareFault
from mcugen.errors import ToolError
from mcugen.ir import Firmware

_PROGRAM = "qemu-system-arm"
_MACHINE = "netduinoplus2"
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
    program = shutil.which(_PROGRAM)
    if program is None:
        raise ToolError(
            f"{_PROGRAM} is not installed",
            where=f"running {firmware.board.name} in QEMU",
            hint="apt-get install qemu-system-arm",
        )
    if firmware.board.port != "stm32f4":
        raise ToolError(
            f"QEMU has no machine for port {firmware.board.port}",
            where=f"running {firmware.board.name} in QEMU",
            hint="choose a board with port stm32f4",
        )
    with tempfile.TemporaryDirectory(prefix="mcugen-") as folder:
        image = Path(folder) / "firmware.elf"
        image.write_bytes(firmware.image)
        command = [program, "-M", _MACHINE, "-kernel", str(image), "-display", "none", "-monitor", "none"]
        command.extend(options)
        return _converse([*command, "-serial", "null", "-serial", "stdio"], typed, timeout, prompt)


def _converse(command: list[str], typed: bytes, timeout: float, prompt: bytes) -> bytes:
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
    raise _early_end(expired.is_set(), timeout, bytes(output), said)


def _expire(expired: threading.Event, qemu: subprocess.Popen[bytes]) -> None:
    expired.set()
    qemu.kill()


def _early_end(expired: bool, timeout: float, output: bytes, said: str) -> FirmwareFault:
    tail = repr(output[-40:].decode(errors="replace"))
    what = f"is still running after {timeout:g} s" if expired else f"ends QEMU ({said or 'no message'})"
    return FirmwareFault(
        "endless-loop" if expired else "crash",
        f"the application {what}; its output ends with {tail}",
        function="main",
        address=None,
        where=f"{_MACHINE} in QEMU",
    )
