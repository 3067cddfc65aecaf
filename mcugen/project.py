"""Files -> a folder on disk, all or nothing: the one place that writes what a user asked for."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mcugen.errors import InputError, UsageError

MARKER = "build-info.json"  # a folder that holds it was written by mcugen and may be replaced


def write_folder(files: Mapping[str, bytes], out: Path) -> None:
    """Write relative path -> content as the folder `out`, replacing an earlier result of mcugen.

    Everything is written to a temporary neighbour first and renamed into place. Raises UsageError where `out` holds
    something else, InputError where it cannot be written.
    """
    if out.exists() and not (out / MARKER).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(
            f"{out} exists and is not a folder that mcugen wrote",
            where="--out",
            hint=f"choose another folder, or remove it: mcugen replaces only folders that hold {MARKER}",
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
            new, old = Path(scratch) / "new", Path(scratch) / "old"
            for path, content in sorted(files.items()):
                target = new / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            if out.exists():
                os.replace(out, old)
            os.replace(new, out)
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"{out} cannot be written: {error.strerror}", where="--out", hint="choose a folder that you may write to"
        ) from error


def write_file(content: bytes, out: Path) -> None:
    """Write one file, all or nothing. Raises InputError where it cannot be written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=out.parent, prefix=f".{out.name}-", delete=False) as file:
            file.write(content)
        os.replace(file.name, out)
    except OSError as error:
        raise InputError(
            f"{out} cannot be written: {error.strerror}", where="--out", hint="choose a place that you may write to"
        ) from error
