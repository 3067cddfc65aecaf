"""How a compiler is called for a board: what the toolchain runs, and what the generated Makefile prints."""

from __future__ import annotations

from mcugen.cores import gcc_core_flags, gcc_link_core_flags, zig_core_flags
from mcugen.ir import Board

_WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror")

_C = ("-std=c99",)
# No exceptions, no run-time types, no locks around static objects: nothing that calls a C++ library.
_CXX = ("-std=c++17", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics")

# For size; for speed where a token's time goes: the kernels, those that Apache TVM makes included.
OPTIMISATION, KERNEL_OPTIMISATION = "-Os", "-O2"
KERNEL_FOLDERS = ("kernels/", "codegen/")

# -fno-strict-aliasing: the arena is one array of bytes that kernels view as int8, int16 or int32.
# -g0 and -fomit-frame-pointer are GCC's defaults at -O2; zig's are -g, with absolute paths, and a frame pointer.
_CODE = (
    "-fno-strict-aliasing",
    "-fomit-frame-pointer",
    "-ffunction-sections",
    "-fdata-sections",
    "-g0",
)

# -ffreestanding implies -fno-builtin; unwinding tables and stack guards need a runtime that is not there.
_FREESTANDING = (
    "-ffreestanding",
    "-fno-stack-protector",
    "-fno-unwind-tables",
    "-fno-asynchronous-unwind-tables",
)


# For .S files. The language and its warnings are C's alone; what the assembler warns of is an error, too.
_ASSEMBLY = ("-g0", "-Werror", "-Wa,--fatal-warnings")


def compile_flags(board: Board, toolchain_name: str) -> list[str]:
    """Return what `toolchain_name` ("zig" or "gcc") needs to compile C for `board`, without -O and -I.

    The generated Makefile prints the same flags.
    """
    return _compile_flags(_C, board, toolchain_name)


def compile_cxx_flags(board: Board, toolchain_name: str) -> list[str]:
    """Return the same for C++, which the C compiler's driver knows by the name of a source: .cc."""
    return _compile_flags(_CXX, board, toolchain_name)


def _compile_flags(language: tuple[str, ...], board: Board, toolchain_name: str) -> list[str]:
    flags = [*language, *_CODE, *_WARNINGS]
    if toolchain_name == "zig":
        flags.append("-fno-sanitize=undefined")  # zig adds it at -O0
        flags.append("-fno-unroll-loops")  # clang unrolls four-row loops beyond the registers of a Cortex-M
    if board.core == "host":
        return [*flags, "-fPIC", *_defines(board)]
    return [*_core_flags(board, toolchain_name), *flags, *_FREESTANDING, *_defines(board)]


def optimisation(source: str) -> str:
    """The optimisation level of a source."""
    return KERNEL_OPTIMISATION if source.startswith(KERNEL_FOLDERS) else OPTIMISATION


def assemble_flags(board: Board, toolchain_name: str) -> list[str]:
    """Return what `toolchain_name` needs to assemble a .S file, which the C preprocessor reads first; without -I."""
    return [*_core_flags(board, toolchain_name), *_ASSEMBLY, *_defines(board)]


def _core_flags(board: Board, toolchain_name: str) -> list[str]:
    core_flags = zig_core_flags if toolchain_name == "zig" else gcc_core_flags
    return core_flags(board.core, board.features)


def _defines(board: Board) -> list[str]:
    """What the board file states, for the C of ports."""
    # The vector unit is switched on like the FPU, as coprocessors 10 and 11.
    has_fpu = [] if board.core == "host" else [f"-DMG_HAS_FPU={int(not board.features.isdisjoint({'fpu', 'mve'}))}"]
    return [*has_fpu, *(f"-D{name}={value}" for name, value in board.port_defines)]


def link_flags(board: Board, toolchain_name: str) -> list[str]:
    """Return what `toolchain_name` needs to link for `board`, without the linker script; they follow the objects."""
    if board.core == "host":
        return []
    common = ["-nostdlib", "-Wl,--gc-sections", "-Wl,--build-id=none"]
    if toolchain_name == "zig":
        # zig ignores the script's ENTRY, and -nostdlib alone drops the compiler's own runtime library.
        target = zig_core_flags(board.core, board.features)
        return [*target, *common, "-rtlib=compiler-rt", "-Wl,-e,Reset_Handler"]
    return [*gcc_link_core_flags(board.core, board.features), *common, "-lgcc"]
