"""The Python side of profile_hook.c: its structures, and its compilation for this computer."""

from __future__ import annotations

import ctypes
import functools
import tempfile
from pathlib import Path

from mcugen import toolchain
from mcugen.boards import load_board
from mcugen.ir import Project

SLOTS = 1 << 16

CODE_THUMB, CODE_RISCV = range(2)
STOP_NONE, STOP_PAUSED, STOP_LIMIT, STOP_MISALIGNED, STOP_TABLE, STOP_NO_CODE = range(6)
_CODES = 8


class Code(ctypes.Structure):
    """mg_code_t."""

    _fields_ = (("bytes", ctypes.c_void_p), ("origin", ctypes.c_uint32), ("size", ctypes.c_uint32))


class Block(ctypes.Structure):
    """mg_block_t."""

    _fields_ = (
        ("executions", ctypes.c_uint64),
        ("address", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("instructions", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    )


class ProfileState(ctypes.Structure):
    """mg_profile_t: what the fields mean is said there."""

    _fields_ = (
        ("stop", ctypes.c_void_p),
        ("read_register", ctypes.c_void_p),
        ("write_register", ctypes.c_void_p),
        ("instructions", ctypes.c_uint64),
        ("loads", ctypes.c_uint64),
        ("stores", ctypes.c_uint64),
        ("limit", ctypes.c_uint64),
        ("stack_low", ctypes.c_uint32),
        ("stack_high", ctypes.c_uint32),
        ("stack_lowest", ctypes.c_uint32),
        ("last_block", ctypes.c_uint32),
        ("pc_register", ctypes.c_uint32),
        ("pause", ctypes.c_uint32),
        ("stop_reason", ctypes.c_uint32),
        ("stop_address", ctypes.c_uint32),
        ("stop_size", ctypes.c_uint32),
        ("stop_pc", ctypes.c_uint32),
        ("blocks", ctypes.c_uint32),
        ("status_register", ctypes.c_uint32),
        ("code_kind", ctypes.c_uint32),
        ("has_status", ctypes.c_uint32),
        ("code_count", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("code", Code * _CODES),
        ("block", Block * SLOTS),
    )


@functools.cache
def load_profile_hook() -> ctypes.CDLL:
    """Compile profile_hook.c, or take it from the toolchain's cache, and load it.

    Raises ToolError where this computer has no C compiler.
    """
    source = (Path(__file__).parent / "profile_hook.c").read_bytes()
    host = load_board("host")
    project = Project("profile_hook", host, {"profile_hook.c": source}, ("profile_hook.c",), (".",), None)
    library = toolchain.build(project, toolchain.find_toolchain("auto", host), shared=True)
    with tempfile.TemporaryDirectory(prefix="mcugen-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "profile_hook.so"
        path.write_bytes(library.image)
        return ctypes.CDLL(str(path))  # stays loaded without its file; where it cannot be deleted, it stays
