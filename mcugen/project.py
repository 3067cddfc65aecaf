"""Files -> a folder on disk, all or nothing: the one place that writes what a user asked for."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mcugen.errors import InputError, UsageError

MARKER = "build-info.json"  # a folder that holds it was written by mcugen and may be replaced


def check_replaceable(out: Path) -> None:
    """Raise UsageError where `out` is there and holds something that mcugen did not write."""
    try:
        replaceable = not out.exists() or (out / MARKER).is_file() or (out.is_dir() and not any(out.iterdir()))
    except OSError as error:
        raise _unwritable(out, error, "folder") from error
    if not replaceable:
        raise UsageError(
            f"{out} exists and is not a folder that mcugen wrote",
            where="--out",
            hint=f"choose another folder, or remove it: mcugen replaces only folders that hold {MARKER}",
        )


def write_folder(files: Mapping[str, bytes], out: Path, executables: Collection[str] = ()) -> None:
    """Write relative path -> content as the folder `out`, replacing an earlier result of mcugen.

    Everything is written to a temporary neighbour first and renamed into place; `executables` can be run, if they are
    among the files. Raises UsageError where `out` holds something else, InputError where it cannot be written.
    """
    check_replaceable(out)
    try:
        with _scratch(out) as scratch:
            new, old = scratch / "new", scratch / "old"
            for path, content in sorted(files.items()):
                target = new / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
                if path in executables:
                    target.chmod(0o755)
            if out.exists():
                os.replace(out, old)
            try:
                os.replace(new, out)
            except OSError:
                if old.exists():
                    os.replace(old, out)
                raise
    except OSError as error:
        raise _unwritable(out, error, "folder") from error


def write_file(content: bytes, out: Path) -> None:
    """Write one file, all or nothing. Raises InputError where it cannot be written."""
    try:
        with _scratch(out) as scratch:
            (scratch / "new").write_bytes(content)
            os.replace(scratch / "new", out)
    except OSError as error:
        raise _unwritable(out, error, "place") from error


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out`, on the same file system."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _unwritable(out: Path, error: OSError, kind: str) -> InputError:
    return InputError(
        f"{out} cannot be written: {error.strerror}", where="--out", hint=f"choose a {kind} that you may write to"
    )
