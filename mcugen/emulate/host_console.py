"""Run the application of a host project: the same C as on the board, with standard input and output as its UART."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mcugen.errors import ToolError
from mcugen.ir import Firmware


def console(firmware: Firmware, typed: bytes) -> Iterator[bytes]:
    """Yield what the program prints, as it comes, until its input has ended. typed: what the user types."""
    with tempfile.TemporaryDirectory(prefix="mcugen-") as folder:
        program = Path(folder) / "application"
        program.write_bytes(firmware.image)
        program.chmod(0o700)
        script = Path(folder) / "typed"  # a file, so that no pipe can fill up in both directions
        script.write_bytes(typed)
        with script.open("rb") as stdin, subprocess.Popen([program], stdin=stdin, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            try:
                while part := os.read(process.stdout.fileno(), 4096):
                    yield part
            finally:
                process.kill()
    if process.returncode != 0:
        raise ToolError(
            f"the application ended with exit status {process.returncode}",
            where="running the host build",
            hint="run `mcugen verify --board host`, which compiles it with sanitizers",
        )
