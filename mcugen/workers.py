"""What processes of mcugen's own need, that hold what may crash: a host library, TFLite Micro, Apache TVM."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import mcugen


def worker_environment() -> dict[str, str]:
    """This process's environment, in which `import mcugen` finds this mcugen: a checkout need not be installed."""
    parent = str(Path(mcugen.__file__).parent.parent)
    path = os.pathsep.join(filter(None, (parent, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


def ending(status: int) -> str:
    """How a process ended, by its exit status: "SIGSEGV", "exit status 1"."""
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"exit status {status}"


def last_words(log: bytes, count: int) -> str:
    """The last lines of what a process said, in brackets and behind a space; nothing where it said nothing."""
    said = [line.strip() for line in log.decode(errors="replace").splitlines() if line.strip()]
    return f" ({'; '.join(said[-count:])})" if said else ""
