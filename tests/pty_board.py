"""A board's application behind a pseudoterminal, as its serial port: in QEMU, or on this computer."""

from __future__ import annotations

import os
import pty
import subprocess
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools import require_program

from mcugen.emulate.qemu import MACHINES, machine_command
from mcugen.ir import Firmware


@contextmanager
def serial_port(firmware: Firmware, folder: Path) -> Iterator[str]:
    """The path of a serial port at whose other end the firmware runs, from its reset on."""
    image = folder / "application"
    image.write_bytes(firmware.image)
    command = [str(image)]
    image.chmod(0o700)
    if firmware.board.core != "host":
        machine = MACHINES[firmware.board.port, firmware.board.core]
        require_program(machine.program)
        command = [*machine_command(machine, image), *["-serial", "null"] * machine.serial, "-serial", "stdio"]
    ours, theirs = pty.openpty()
    tty.setraw(theirs)  # else it would echo the banner to the board, as something that is typed
    with subprocess.Popen(command, stdin=ours, stdout=ours, stderr=subprocess.DEVNULL) as process:
        try:
            yield os.ttyname(theirs)
        finally:
            process.kill()
            os.close(ours)
            os.close(theirs)
