"""Compile hand-written C on this machine and load it through ctypes."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tools import missing

FLAGS = ["-std=c99", "-O1", "-ffreestanding", "-fPIC"]
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
# Undefined behaviour ends the process with a signal: no runtime library needed, nothing to overlook.
# The spelling of the trap is the compiler's.
TRAPS = {"cc": ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"], "zig": ["-fsanitize-trap=undefined"]}

Compiler = tuple[str, list[str]]


def compilers() -> list[Compiler]:
    """Return (name, command) of each host compiler that is present; skip, or fail in CI, if there is none."""
    found: list[Compiler] = []
    if shutil.which("cc"):
        found.append(("cc", ["cc"]))
    if importlib.util.find_spec("ziglang"):
        found.append(("zig", [sys.executable, "-m", "ziglang", "cc"]))
    if not found:
        missing("no C compiler: install cc or the package ziglang")
    return found


def load(sources: list[Path], include_dirs: list[Path]) -> ctypes.CDLL:
    """Return the sources as a shared library that traps on undefined behaviour; compiled once per content."""
    name, command = compilers()[0]
    options = [*FLAGS, *WARNINGS, "-g", "-shared", *TRAPS[name], *_includes(include_dirs)]
    library = _cache() / f"{_digest([*command, *options], sources, include_dirs)}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            fresh = Path(folder) / library.name
            _compile([*command, *options, "-o", str(fresh), *map(str, sources)])
            fresh.replace(library)  # atomic: another test process may do the same
    return ctypes.CDLL(str(library))


def compile_clean(sources: list[Path], include_dirs: list[Path]) -> None:
    """Fail unless every compiler here takes every source without a warning, at the firmware's optimisation."""
    for _, command in compilers():
        options = [*FLAGS, *WARNINGS, "-Os", "-c", *_includes(include_dirs)]
        passed = _cache() / f"{_digest([*command, *options], sources, include_dirs)}.clean"
        if passed.exists():
            continue
        with tempfile.TemporaryDirectory() as folder:
            for source in sources:
                _compile([*command, *options, "-o", str(Path(folder) / "object.o"), str(source)])
        passed.touch()


def _compile(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.fail(f"{' '.join(command)}\n{result.stdout}{result.stderr}", pytrace=False)


def _includes(include_dirs: list[Path]) -> list[str]:
    return [f"-I{folder}" for folder in include_dirs]


def _digest(command: list[str], sources: list[Path], include_dirs: list[Path]) -> str:
    """Return a name for what is compiled: the command, the sources, and every header in reach."""
    digest = hashlib.sha256("\0".join(command).encode())
    headers = [header for folder in include_dirs for header in sorted(folder.glob("*.h"))]
    for path in [*sources, *headers]:
        digest.update(str(path).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:32]


def _cache() -> Path:
    folder = Path(tempfile.gettempdir()) / f"mcugen-native-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
