"""Toolchains: the same bytes everywhere, exact sizes, and what is said when something is missing or wrong."""

from __future__ import annotations

import ctypes
import dataclasses
import io
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st
from intelhex import IntelHex
from projects import project, require, template
from tools import require_program

from mcugen import flags, toolchain
from mcugen.boards import list_boards, load_board
from mcugen.cache import default_cache_dir
from mcugen.cores import CORES, GCC_PREFIXES
from mcugen.errors import DoesNotFitError, McugenError, ToolError, UsageError
from mcugen.flags import (
    KERNEL_FOLDERS,
    KERNEL_OPTIMISATION,
    OPTIMISATION,
    assemble_flags,
    compile_cxx_flags,
    compile_flags,
    link_flags,
)
from mcugen.images import to_bin, to_hex
from mcugen.ir import Board, MemoryRegion, Project
from mcugen.resources import data_dir
from mcugen.toolchain import Toolchain, build, find_toolchain

NUCLEO = load_board("nucleo")
HOST = load_board("host")

MAIN = b"""#include "port.h"

int main(void);

int main(void)
{
    mg_port_init();
    mg_port_write("ok\\n", 3u);
    return 0;
}
"""

# Constants, initialised and zeroed bytes that the linker must keep; two of the sizes are no multiple of a word.
DATA = b"""#include <stdint.h>

__attribute__((used)) const uint8_t mg_constants[5] = {1, 2, 3, 4, 5};
__attribute__((used)) uint8_t mg_initialised[5] = {6, 7, 8, 9, 10};
__attribute__((used)) uint8_t mg_zeroed[12];
volatile const uint8_t *mg_reach(int32_t which);
volatile const uint8_t *mg_reach(int32_t which)
{
    if (which == 0) {
        return mg_constants;
    }
    return (which == 1) ? mg_initialised : mg_zeroed;
}
"""
DATA_MAIN = b"""#include <stdint.h>

int main(void);
volatile const uint8_t *mg_reach(int32_t which);

int main(void)
{
    return *mg_reach(0) + *mg_reach(1) + *mg_reach(2);
}
"""


@pytest.fixture(params=["zig", "gcc"])
def compiler(request: pytest.FixtureRequest) -> Toolchain:
    return require(request.param, NUCLEO)


@pytest.fixture
def host_compiler() -> Toolchain:
    return require("auto", HOST)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def symbols(image: bytes) -> dict[str, tuple[int, int, str]]:
    """Name -> (address, size, type)."""
    table = ELFFile(io.BytesIO(image)).get_section_by_name(".symtab")
    return {s.name: (s["st_value"], s["st_size"], s["st_info"]["type"]) for s in table.iter_symbols()}


# ---------------------------------------------------------------- the image


def test_the_nucleo_port_builds_and_the_sizes_add_up(compiler: Toolchain, cache: Path) -> None:
    firmware = build(project(NUCLEO, main=MAIN), compiler, cache_dir=cache)
    assert firmware.toolchain == compiler.title
    assert firmware.sections[".vectors"] == 16 * 4
    assert firmware.sections[".stack"] == firmware.stack_bytes == NUCLEO.stack_bytes
    assert firmware.flash_bytes == len(to_bin(firmware.image))
    assert 500 < firmware.flash_bytes < 4096
    assert not {".debug_info", ".symtab", ".comment"} & set(firmware.sections)


def test_static_bytes_are_data_and_bss(compiler: Toolchain, cache: Path) -> None:
    firmware = build(project(NUCLEO, data=DATA, main=DATA_MAIN), compiler, cache_dir=cache)
    assert firmware.sections[".data"] == 8  # five bytes, filled up to words
    assert firmware.sections[".bss"] == 12
    assert firmware.static_bytes == 8 + 12


def test_initial_values_lie_aligned_in_flash_right_behind_the_constants(compiler: Toolchain, cache: Path) -> None:
    firmware = build(project(NUCLEO, data=DATA, main=DATA_MAIN), compiler, cache_dir=cache)
    found = symbols(firmware.image)
    image = to_bin(firmware.image)
    source = found["_sidata"][0]
    offset = source - NUCLEO.flash.origin + found["mg_initialised"][0] - found["_sdata"][0]
    assert source % 4 == 0
    assert image[offset : offset + 5] == bytes([6, 7, 8, 9, 10])
    assert len(image) == source - NUCLEO.flash.origin + 8  # nothing follows, nothing between


def test_the_stack_lies_at_the_bottom_of_ram(compiler: Toolchain, cache: Path) -> None:
    found = symbols(build(project(NUCLEO, data=DATA, main=DATA_MAIN), compiler, cache_dir=cache).image)
    assert found["_sstack"][0] == NUCLEO.ram.origin
    assert found["_estack"][0] == NUCLEO.ram.origin + NUCLEO.stack_bytes
    assert found["_sdata"][0] >= found["_estack"][0]
    assert found["_sbss"][0] >= found["_edata"][0]
    assert found["_sdata"][0] % 8 == found["_sbss"][0] % 8 == 0


def test_the_vector_table_starts_the_core(compiler: Toolchain, cache: Path) -> None:
    image = build(project(NUCLEO, main=MAIN), compiler, cache_dir=cache).image
    found = symbols(image)
    stack, reset, *handlers = struct.unpack_from("<16I", to_bin(image))
    assert stack == found["_estack"][0]
    assert reset == found["Reset_Handler"][0] == ELFFile(io.BytesIO(image))["e_entry"]
    assert handlers[1] == found["mg_fault_hard"][0]
    for name in ("Reset_Handler", "main", "mg_fault_hard"):
        address, size, kind = found[name]
        assert (kind, address & 1) == ("STT_FUNC", 1)  # bit 0: Thumb
        assert size > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("core", "features"),
    [
        ("cortex-m0", ()),
        ("cortex-m0plus", ()),
        ("cortex-m3", ()),
        ("cortex-m4", ("dsp",)),
        ("cortex-m7", ("dsp", "fpu")),
        ("cortex-m33", ()),
        ("cortex-m33", ("dsp", "fpu")),
    ],
)
def test_the_port_compiles_clean_for_every_core(
    core: str, features: tuple[str, ...], compiler: Toolchain, cache: Path
) -> None:
    board = dataclasses.replace(NUCLEO, core=core, features=frozenset(features))
    assert build(project(board, main=MAIN), compiler, cache_dir=cache).flash_bytes > 0


# ---------------------------------------------------------------- reproducible, cached


def test_the_same_bytes_from_any_folder(compiler: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = []
    for name in ("a", "a-much-longer-name"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
        images.append(build(project(NUCLEO, main=MAIN), compiler, cache_dir=tmp_path / f"cache-{name}").image)
        assert list((tmp_path / name).iterdir()) == []  # nothing is left behind
    assert images[0] == images[1]
    assert os.fsencode(tmp_path) not in images[0]
    assert os.fsencode(Path(sys.prefix)) not in images[0]


class Runs:
    """Counts compiler runs: the sources that were compiled, and "link"."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        self._run = toolchain._run
        monkeypatch.setattr(toolchain, "_run", self._record)

    def _record(self, command: Sequence[str], cwd: Path | None) -> subprocess.CompletedProcess[str]:
        self.seen.append(command[command.index("-c") + 1] if "-c" in command else "link")
        return self._run(command, cwd)

    def take(self) -> list[str]:
        """Return what was seen since the last call, sorted."""
        seen, self.seen = sorted(self.seen), []
        return seen


def test_only_what_changed_is_compiled_again(
    compiler: Toolchain, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(monkeypatch)
    first = project(NUCLEO, main=MAIN)
    image = build(first, compiler, cache_dir=cache).image
    assert runs.take() == sorted([*first.sources, "link"])

    assert build(first, compiler, cache_dir=cache).image == image
    assert runs.take() == []

    build(project(NUCLEO, main=MAIN.replace(b"ok", b"no")), compiler, cache_dir=cache)
    assert runs.take() == ["link", "main.c"]

    header = dataclasses.replace(first, files={**first.files, "ports/port.h": first.files["ports/port.h"] + b"\n"})
    build(header, compiler, cache_dir=cache)
    readers = [source for source in first.sources if b'"port.h"' in first.files[source]]
    assert runs.take() == sorted([*readers, "link"])
    assert readers != list(first.sources)  # memcpy and the like have no header

    stack = dataclasses.replace(NUCLEO, stack_bytes=2048)
    assert build(project(stack, main=MAIN), compiler, cache_dir=cache).stack_bytes == 2048
    assert runs.take() == ["link"]

    build(first, compiler, opt="-O1", cache_dir=cache)
    assert runs.take() == sorted([*first.sources, "link"])


@pytest.mark.parametrize(
    ("files", "read"),
    [
        ({"main.c": b'#include "a.h"\n', "a.h": b"", "b.h": b""}, ["a.h", "main.c"]),
        ({"main.c": b"  # include <a.h>\n", "a.h": b'#include "b.h"', "b.h": b'#include "a.h"'}, ["a.h", "b.h", "main.c"]),
        ({"main.c": b'#include "a.h"', "x/a.h": b'#include "b.h"', "x/b.h": b"", "b.h": b""}, ["main.c", "x/a.h", "x/b.h"]),
        ({"main.c": b'#include "a.h"', "x/a.h": b"", "y/a.h": b""}, ["main.c", "x/a.h"]),
        ({"main.c": b'#include "x/../a.h"', "a.h": b"", "x/a.h": b""}, ["a.h", "main.c"]),
        ({"main.c": b'#inc\\\nlude \\\n"a.h"', "a.h": b"", "b.h": b""}, ["a.h", "main.c"]),
        ({"main.c": b"#include <stdint.h>\n", "a.h": b""}, ["main.c"]),
        ({"main.c": b'#define NAME "a.h"\n#include NAME\n', "a.h": b"", "b.h": b""}, ["a.h", "b.h", "main.c"]),
        ({"main.c": b'#include "a.h"', "a.h": b'#if __has_include("b.h")\n#endif\n', "b.h": b""}, ["a.h", "b.h", "main.c"]),
    ],
    ids=["one", "cycle", "beside", "order", "dots", "continued", "system", "macro", "has_include"],
)  # fmt: skip
def test_an_object_depends_on_what_its_source_includes(files: dict[str, bytes], read: list[str]) -> None:
    assert (
        sorted(toolchain._included(Project("demo", HOST, files, ("main.c",), (".", "x", "y"), None), "main.c"))
        == read
    )


def test_the_includes_found_are_those_the_compiler_reads(host_compiler: Toolchain, tmp_path: Path) -> None:
    made = project(HOST, main=MAIN)
    for path, content in made.files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    for source in made.sources:
        command = [*host_compiler.command, "-MM", *(f"-I{folder}" for folder in made.include_dirs), source]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        named = done.stdout.split(":", 1)[1].replace("\\\n", " ").split()
        assert {os.path.normpath(name) for name in named} == toolchain._included(made, source)


def test_a_cache_that_cannot_be_written_is_only_slower(compiler: Toolchain, tmp_path: Path) -> None:
    blocked = tmp_path / "a-file"
    blocked.write_text("not a folder", encoding="utf-8")
    assert build(project(NUCLEO, main=MAIN), compiler, cache_dir=blocked).flash_bytes > 0


def test_the_cache_lies_where_the_environment_says(
    host_compiler: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MCUGEN_CACHE", str(tmp_path / "mine"))
    build(project(HOST, main=MAIN), host_compiler)
    entries = [path for path in (tmp_path / "mine").rglob("*") if path.is_file()]
    assert len(entries) == 3  # two objects and the image
    assert all(len(path.name) == 64 and path.parent.name == path.name[:2] for path in entries)
    monkeypatch.delenv("MCUGEN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    if sys.platform == "linux":
        assert default_cache_dir() == tmp_path / "xdg" / "mcugen"


def test_variables_of_the_caller_do_not_reach_the_compiler(
    compiler: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ambient.h").write_text("", encoding="utf-8")
    monkeypatch.setenv("C_INCLUDE_PATH", str(tmp_path))
    with pytest.raises(ToolError, match=r"ambient\.h"):
        build(project(NUCLEO, main=b'#include "ambient.h"\n' + MAIN), compiler, cache_dir=tmp_path / "cache")


# ---------------------------------------------------------------- assembly

# A macro of a header, a comment that only the preprocessor removes, and a define of the board.
TWICE_H = b"#define ADDED 5 /* what mg_twice adds */\n"
TWICE = b"""#include "twice.h"
    .syntax unified
    .section .text.mg_twice, "ax", %progbits
    .global mg_twice
    .type mg_twice, %function
    .thumb_func
mg_twice: // r0 = 2 * r0 + ADDED + MG_HAS_FPU
    adds r0, r0, r0
    adds r0, r0, #ADDED + MG_HAS_FPU
    bx lr
    .size mg_twice, . - mg_twice
"""
TWICE_MAIN = b"""#include <stdint.h>

int main(void);
int32_t mg_twice(int32_t x);
int main(void)
{
    return (int)mg_twice(7);
}
"""


def with_assembly(assembly: bytes = TWICE) -> Project:
    """A project of C and a .S file of the same name, whose header lies in an include directory."""
    made = project(NUCLEO, main=TWICE_MAIN, twice=b"extern int mg_no_object_is_overwritten;\n")
    files = {**made.files, "twice.S": assembly, "asm/twice.h": TWICE_H}
    return dataclasses.replace(
        made, files=files, sources=(*made.sources, "twice.S"), include_dirs=(*made.include_dirs, "asm")
    )


def test_assembly_is_built_beside_c(compiler: Toolchain, cache: Path) -> None:
    image = build(with_assembly(), compiler, cache_dir=cache).image
    address, size, kind = symbols(image)["mg_twice"]
    assert (size, kind, address & 1) == (6, "STT_FUNC", 1)
    at = (address & ~1) - NUCLEO.flash.origin
    code = struct.unpack_from("<3H", to_bin(image), at)
    assert code[0] == 0x1800  # adds r0, r0, r0
    assert code[1] in (0x3006, 0x1D80)  # adds r0, #6: two encodings, and each assembler takes another
    assert code[2] == 0x4770  # bx lr


def test_an_object_of_assembly_depends_on_what_it_includes(
    compiler: Toolchain, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(monkeypatch)
    made = with_assembly()
    build(made, compiler, cache_dir=cache)
    assert runs.take() == sorted([*made.sources, "link"])
    build(
        dataclasses.replace(made, files={**made.files, "asm/twice.h": b"#define ADDED 6\n"}),
        compiler,
        cache_dir=cache,
    )
    assert runs.take() == ["link", "twice.S"]
    assert toolchain._included(made, "twice.S") == {"twice.S", "asm/twice.h"}
    included = dataclasses.replace(made, files={**made.files, "twice.S": b'    .include "macros.s"\n'})
    assert toolchain._included(included, "twice.S") == set(included.files)  # the assembler's own way: not followed


def test_flags_of_c_do_not_reach_the_assembler() -> None:
    for kind in ("zig", "gcc"):
        flags = assemble_flags(NUCLEO, kind)
        assert not {"-std=c99", "-Wconversion", "-ffreestanding"} & set(flags)
        assert {"-DMG_HAS_FPU=1", f"-DMG_CLOCK_HZ={NUCLEO.clock_hz}"} <= set(flags) & set(compile_flags(NUCLEO, kind))


def test_what_the_assembler_warns_of_is_an_error(compiler: Toolchain, cache: Path) -> None:
    warning = TWICE + b'    .warning "planted"\n'
    text = text_of(ToolError, with_assembly(warning), compiler, cache)
    assert text.startswith(f"{compiler.title} rejects twice.S:\n")
    assert "planted" in text


# ---------------------------------------------------------------- C++

# A template, virtual functions, a static object that is made on its first use: what tempts a compiler to call a C++
# library.
SHAPE_H = b"""#include <stddef.h>
#include <stdint.h>

struct Shape {
    virtual int32_t area() const { return 0; }
};
template <size_t n> struct Row : Shape {
    explicit Row(int32_t first) : cells{first} {}
    int32_t area() const override { return cells[0] * static_cast<int32_t>(n); }
    int32_t cells[n];
};
"""
SHAPE = b"""#include "shape.h"

extern "C" int32_t mg_area(int32_t first);
static const Shape &shape(int32_t first)
{
    static Row<6> row(first);
    return row;
}
int32_t mg_area(int32_t first)
{
    return shape(first).area();
}
"""
SHAPE_MAIN = b"""#include <stdint.h>

int main(void);
int32_t mg_area(int32_t first);
int main(void)
{
    return (int)(mg_area(7) + mg_area(1));
}
"""


def with_cxx(board: Board, cxx: bytes = SHAPE) -> Project:
    """A project of C and a .cc file of the same name, whose header lies in an include directory."""
    made = project(board, main=SHAPE_MAIN, shape=b"extern int mg_no_object_is_overwritten;\n")
    files = {**made.files, "shape.cc": cxx, "cxx/shape.h": SHAPE_H}
    return dataclasses.replace(
        made, files=files, sources=(*made.sources, "shape.cc"), include_dirs=(*made.include_dirs, "cxx")
    )


@pytest.mark.parametrize("kind", ["zig", "gcc"])
@pytest.mark.parametrize("name", [board.name for board in list_boards()])
@pytest.mark.parametrize("opt", ["-O0", "-O2"])
def test_cxx_is_built_beside_c_and_needs_no_library(name: str, kind: str, opt: str, tmp_path: Path) -> None:
    board = load_board(name)
    image = build(with_cxx(board), require(kind, board), opt=opt, cache_dir=tmp_path / "cache").image
    if board.core != "host":
        assert {"mg_area", "main"} <= symbols(image).keys()
        return
    program = tmp_path / "demo"
    program.write_bytes(image)
    program.chmod(0o755)
    assert subprocess.run([program], check=False).returncode == 2 * 6 * 7


def test_an_object_of_cxx_depends_on_what_it_includes(
    compiler: Toolchain, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(monkeypatch)
    made = with_cxx(NUCLEO)
    build(made, compiler, cache_dir=cache)
    assert runs.take() == sorted([*made.sources, "link"])
    other = {**made.files, "cxx/shape.h": SHAPE_H.replace(b"cells[0]", b"cells[1]")}
    build(dataclasses.replace(made, files=other), compiler, cache_dir=cache)
    assert runs.take() == ["link", "shape.cc"]
    monkeypatch.setattr(flags, "_CXX", (*flags._CXX, "-DOTHER"))
    build(made, compiler, cache_dir=cache)
    assert runs.take() == ["link", "shape.cc"]


@pytest.mark.parametrize("board", [NUCLEO, HOST], ids=["nucleo", "host"])
@pytest.mark.parametrize("kind", ["zig", "gcc"])
def test_cxx_has_the_flags_of_c_but_for_the_language(board: Board, kind: str) -> None:
    c, cxx = compile_flags(board, kind), compile_cxx_flags(board, kind)
    assert [flag for flag in c if flag not in cxx] == ["-std=c99"]
    assert [flag for flag in cxx if flag not in c] == [
        "-std=c++17", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics",
    ]  # fmt: skip


def test_what_the_cxx_compiler_warns_of_is_an_error(compiler: Toolchain, cache: Path) -> None:
    narrowed = SHAPE.replace(b"    static Row<6>", b"    const int16_t narrow = first;\n    static Row<6>")
    text = text_of(ToolError, with_cxx(NUCLEO, narrowed.replace(b"row(first)", b"row(narrow)")), compiler, cache)
    assert text.startswith(f"{compiler.title} rejects shape.cc:\n    shape.cc:6:")
    assert "conversion" in text


@pytest.mark.parametrize(("board", "package"), [(HOST, "g++"), (NUCLEO, "gcc-arm-none-eabi")], ids=["host", "nucleo"])
def test_a_missing_cxx_compiler_is_answered_with_what_to_install(
    board: Board, package: str, tmp_path: Path, cache: Path
) -> None:
    driver = tmp_path / "cc"
    lacking = "cc: fatal error: cannot execute 'cc1plus': execvp: No such file or directory"  # what GCC 12 says
    driver.write_text(f'#!/bin/sh\nfor a; do last=$a; done\ncase "$*" in *.cc*) echo "{lacking}" >&2; exit 1;; esac\n'
                      'echo > "$last"\n', encoding="utf-8")  # fmt: skip
    driver.chmod(0o755)
    assert text_of(ToolError, with_cxx(board), Toolchain("gcc", (str(driver),), "gcc 12.2.0", ""), cache) == (
        "gcc 12.2.0 has no C++ compiler to call\n"
        f"  where: compiling shape.cc of demo for {board.name}\n"
        f"  try:   `apt-get install {package}`"
    )


# ---------------------------------------------------------------- bin, hex, make


def test_bin_and_hex_hold_the_same_bytes(compiler: Toolchain, cache: Path) -> None:
    image = build(project(NUCLEO, data=DATA, main=DATA_MAIN), compiler, cache_dir=cache).image
    memory = IntelHex(io.StringIO(to_hex(image).decode("ascii")))
    assert memory.minaddr() == NUCLEO.flash.origin
    assert memory.tobinstr() == to_bin(image)


def test_gaps_in_a_bin_read_as_erased_flash(compiler: Toolchain, cache: Path) -> None:
    first = project(NUCLEO, data=DATA, main=DATA_MAIN)
    script = first.files["linker.ld"].replace(b".text :", b".text ORIGIN(FLASH) + 0x40000 :")
    image = build(
        dataclasses.replace(first, files={**first.files, "linker.ld": script}), compiler, cache_dir=cache
    ).image
    entry = symbols(image)["main"][0] & ~1
    content = to_bin(image)
    assert entry - NUCLEO.flash.origin >= 0x40000
    assert content[0x3FFF0:0x40000] == b"\xff" * 16
    assert content[:64] == to_bin(build(first, compiler, cache_dir=cache).image)[:4] + content[4:64]


def makefile(board: Board, made: Project) -> bytes:
    script = [] if made.linker_script is None else ["-T", made.linker_script]
    return template(
        "Makefile.j2",
        name=made.name,
        sources=made.sources,
        include_dirs=made.include_dirs,
        gcc_prefix=GCC_PREFIXES.get(CORES[board.core].family, ""),
        has_assembly=any(source.endswith(".S") for source in made.sources),
        asflags=" ".join(assemble_flags(board, "gcc")),
        zig_asflags=" ".join(assemble_flags(board, "zig")),
        cflags=" ".join(compile_flags(board, "gcc")),
        ldflags=" ".join([*script, *link_flags(board, "gcc")]),
        zig_cflags=" ".join(compile_flags(board, "zig")),
        zig_ldflags=" ".join([*script, *link_flags(board, "zig")]),
        linker_script=made.linker_script,
        is_host=board.core == "host",
        opt=OPTIMISATION,
        kernel_opt=KERNEL_OPTIMISATION,
        kernel_folders=KERNEL_FOLDERS,
    )


def make(folder: Path, made: Project, *arguments: str) -> None:
    require_program("make")
    for path, content in {**made.files, "Makefile": makefile(made.board, made)}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    done = subprocess.run(["make", "-s", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_makefile_builds_the_same_image(compiler: Toolchain, tmp_path: Path, cache: Path) -> None:
    made = project(NUCLEO, data=DATA, main=DATA_MAIN)
    expected = to_bin(build(made, compiler, cache_dir=cache).image)
    zig = ["TOOLCHAIN=zig", f"CC={sys.executable} -m ziglang cc"]
    make(tmp_path, made, *(zig if compiler.kind == "zig" else []))
    assert to_bin((tmp_path / "build" / "demo.elf").read_bytes()) == expected
    if compiler.kind == "gcc":
        assert (tmp_path / "build" / "demo.bin").read_bytes() == expected


def test_the_makefile_builds_assembly_to_the_same_image(compiler: Toolchain, tmp_path: Path, cache: Path) -> None:
    made = with_assembly()
    expected = to_bin(build(made, compiler, cache_dir=cache).image)
    zig = ["TOOLCHAIN=zig", f"CC={sys.executable} -m ziglang cc"]
    make(tmp_path, made, *(zig if compiler.kind == "zig" else []))
    assert to_bin((tmp_path / "build" / "demo.elf").read_bytes()) == expected
    depends = (tmp_path / "build" / "twice.S.d").read_text(encoding="utf-8")
    assert "twice.h" in depends  # so that make assembles again where the header changes


def test_the_makefile_builds_for_the_host(host_compiler: Toolchain, tmp_path: Path) -> None:
    make(tmp_path, project(HOST, main=MAIN), f"CC={' '.join(host_compiler.command)}")
    done = subprocess.run([tmp_path / "build" / "demo"], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"ok\n")


# ---------------------------------------------------------------- the host


def test_a_host_program_runs(host_compiler: Toolchain, tmp_path: Path, cache: Path) -> None:
    echo = MAIN.replace(
        b'mg_port_write("ok\\n", 3u);',
        b"for (int32_t c = mg_port_read(); c >= 0; c = mg_port_read()) {\n"
        b"        const char byte = (char)c;\n        mg_port_write(&byte, 1u);\n    }",
    )
    program = tmp_path / "demo"
    program.write_bytes(build(project(HOST, main=echo), host_compiler, cache_dir=cache).image)
    program.chmod(0o755)
    done = subprocess.run([program], input=b"a\xff\n", capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"a\xff\n")


def host_library(compiler: Toolchain, folder: Path, source: bytes, *flags: str) -> ctypes.CDLL:
    made = Project("library", HOST, {"library.c": source}, ("library.c",), (), None)
    path = folder / "library.so"
    path.write_bytes(build(made, compiler, shared=True, extra_flags=flags, cache_dir=folder / "cache").image)
    return ctypes.CDLL(str(path))


def test_a_host_library_loads(host_compiler: Toolchain, tmp_path: Path) -> None:
    library = host_library(
        host_compiler, tmp_path, b"int add(int a, int b);\nint add(int a, int b) { return a + b; }\n"
    )
    assert library.add(2, 40) == 42


@pytest.fixture(scope="module")
def mem(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """ports/freestanding/mem.c on this computer, under other names; an unaligned word access ends the process."""
    compiler = require("auto", HOST)
    trap = {
        "gcc": ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"],
        "zig": ["-fsanitize-trap=undefined"],
    }
    renamed = [f"-D{name}=own_{name}" for name in ("memcpy", "memmove", "memset", "memcmp")]
    source = (data_dir("firmware") / "ports/freestanding/mem.c").read_bytes()
    return host_library(compiler, tmp_path_factory.mktemp("mem"), source, *trap[compiler.kind], *renamed)


offsets = st.integers(0, 11)
lengths = st.integers(0, 40)


def in_memory(call: Callable[[int], object]) -> bytes:
    """Run `call` with the address of 64 numbered bytes, aligned to 16; return what it left there."""
    room = ctypes.create_string_buffer(64 + 16)
    address = -(-ctypes.addressof(room) // 16) * 16
    ctypes.memmove(address, bytes(range(64)), 64)
    call(address)
    return ctypes.string_at(address, 64)


def pointer_and_size(function: Callable[..., object], *arguments: int | ctypes.c_void_p) -> object:
    return function(*(ctypes.c_size_t(a) if isinstance(a, int) else a for a in arguments))


@given(to=offsets, source=offsets, length=lengths)
def test_memmove_copies_as_if_through_a_second_buffer(mem: ctypes.CDLL, to: int, source: int, length: int) -> None:
    found = in_memory(lambda base: pointer_and_size(mem.own_memmove, base + to, base + source, length))
    before = bytes(range(64))
    assert found == before[:to] + before[source : source + length] + before[to + length :]


@given(to=offsets, source=offsets, length=st.integers(0, 20))
def test_memcpy_copies(mem: ctypes.CDLL, to: int, source: int, length: int) -> None:
    found = in_memory(lambda base: pointer_and_size(mem.own_memcpy, base + to, base + 32 + source, length))
    before = bytes(range(64))
    assert found == before[:to] + before[32 + source : 32 + source + length] + before[to + length :]


@given(to=offsets, value=st.integers(-300, 300), length=lengths)
def test_memset_writes_the_low_byte(mem: ctypes.CDLL, to: int, value: int, length: int) -> None:
    found = in_memory(lambda base: mem.own_memset(ctypes.c_void_p(base + to), value, ctypes.c_size_t(length)))
    before = bytes(range(64))
    assert found == before[:to] + bytes([value & 0xFF]) * length + before[to + length :]


@given(a=st.binary(max_size=12), b=st.binary(max_size=12))
def test_memcmp_orders_as_unsigned_bytes(mem: ctypes.CDLL, a: bytes, b: bytes) -> None:
    length = min(len(a), len(b))
    found = mem.own_memcmp(a, b, ctypes.c_size_t(length))
    assert (found > 0) - (found < 0) == (a[:length] > b[:length]) - (a[:length] < b[:length])


# ---------------------------------------------------------------- finding a compiler


def test_auto_prefers_the_pinned_compiler_for_a_chip_and_the_system_s_for_the_host() -> None:
    require("zig", NUCLEO)
    assert find_toolchain("auto", NUCLEO).kind == "zig"
    require("gcc", HOST)
    assert find_toolchain("auto", HOST).kind == "gcc"


def test_titles_name_the_version(compiler: Toolchain) -> None:
    assert compiler.title.split()[0] in {"zig", "arm-none-eabi-gcc"}
    assert compiler.title.split()[1][0].isdigit()


NOTHING_FOUND = [
    (
        "auto",
        NUCLEO,
        "no C compiler for cortex-m4: found no zig or arm-none-eabi-gcc\n"
        "  where: toolchain auto, board nucleo-f446re\n"
        "  try:   `pip install 'mcugen[zig]'`, or `apt-get install gcc-arm-none-eabi`",
    ),
    (
        "zig",
        NUCLEO,
        "no C compiler for cortex-m4: found no zig\n"
        "  where: toolchain zig, board nucleo-f446re\n"
        "  try:   `pip install 'mcugen[zig]'`",
    ),
    (
        "gcc",
        NUCLEO,
        "no C compiler for cortex-m4: found no arm-none-eabi-gcc\n"
        "  where: toolchain gcc, board nucleo-f446re\n"
        "  try:   `apt-get install gcc-arm-none-eabi`",
    ),
    (
        "auto",
        HOST,
        "no C compiler for host: found no zig or cc or gcc or clang\n"
        "  where: toolchain auto, board host\n"
        "  try:   `pip install 'mcugen[zig]'`, or `apt-get install gcc`",
    ),
]


@pytest.mark.parametrize(("name", "board", "text"), NOTHING_FOUND, ids=[f"{n}-{b.name}" for n, b, _ in NOTHING_FOUND])
def test_a_missing_compiler_is_answered_with_what_to_install(
    name: str, board: Board, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(ToolError) as caught:
        find_toolchain(name, board)
    assert str(caught.value) == text


def test_an_unknown_toolchain_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        find_toolchain("llvm", NUCLEO)
    assert str(caught.value) == (
        "there is no toolchain 'llvm'\n  where: --toolchain\n  try:   choose one of auto, zig, gcc"
    )


# ---------------------------------------------------------------- what a compiler rejects


def text_of(error: type[McugenError], made: Project, compiler: Toolchain, cache: Path) -> str:
    with pytest.raises(error) as caught:
        build(made, compiler, cache_dir=cache)
    return str(caught.value)


def test_a_compile_error_shows_the_first_diagnostic(compiler: Toolchain, cache: Path) -> None:
    text = text_of(
        ToolError, project(NUCLEO, main=b"int main(void);\nint main(void) { return x; }\n"), compiler, cache
    )
    first, diagnostic, *rest = text.splitlines()
    undeclared = {
        "zig": "    main.c:2:25: error: use of undeclared identifier 'x'",
        "gcc": "    main.c:2:25: error: 'x' undeclared (first use in this function)",
    }
    assert first == f"{compiler.title} rejects main.c:"
    assert diagnostic == undeclared[compiler.kind]
    assert len(rest) <= 5 + 2
    assert rest[-2:] == [
        "  where: compiling main.c of demo for nucleo-f446re",
        "  try:   correct that line; where mcugen generated it, report it with the command line",
    ]


def test_a_warning_is_an_error(compiler: Toolchain, cache: Path) -> None:
    text = text_of(
        ToolError, project(NUCLEO, main=b"int main(void);\nint main(void) { int x = 1; }\n"), compiler, cache
    )
    assert "unused-variable]" in text


def test_a_missing_function_is_a_link_error(compiler: Toolchain, cache: Path) -> None:
    missing = b"int absent(void);\nint main(void);\nint main(void) { return absent(); }\n"
    text = text_of(ToolError, project(NUCLEO, main=missing), compiler, cache)
    assert text.startswith(f"{compiler.title} cannot link demo:\n    ")
    assert {"zig": "undefined symbol: absent", "gcc": "undefined reference to `absent'"}[compiler.kind] in text
    assert "mcugen-objects/main.c.o" in text
    assert "/ld: " not in text  # no absolute path
    assert text.endswith(
        "\n  where: linking demo for nucleo-f446re"
        "\n  try:   a function is missing from the sources, or the linker script and the board disagree"
    )


WEIGHTS = b"""#include <stdint.h>

__attribute__((used)) const uint8_t mg_constants[3000] = {1};
static volatile uint8_t arena[3000];
int main(void);

int main(void)
{
    arena[mg_constants[1]] = 1;
    return arena[mg_constants[0]] + mg_constants[arena[3]];
}
"""


@pytest.mark.parametrize("name", ["flash", "RAM"])
def test_an_image_that_is_too_large_says_by_how_much(name: str, compiler: Toolchain, cache: Path) -> None:
    small = {
        "flash": dataclasses.replace(NUCLEO, flash=MemoryRegion(NUCLEO.flash.origin, 2048)),
        "RAM": dataclasses.replace(NUCLEO, ram=MemoryRegion(NUCLEO.ram.origin, 2048)),
    }[name]
    fitting = build(project(NUCLEO, main=WEIGHTS), compiler, cache_dir=cache)
    needed = fitting.flash_bytes if name == "flash" else fitting.stack_bytes + fitting.static_bytes
    text = text_of(DoesNotFitError, project(small, main=WEIGHTS), compiler, cache)
    what = {"flash": "weights or code", "RAM": "context, activations or stack"}[name]
    assert text == (
        f"the firmware needs {needed:,} B of {name}; nucleo-f446re has 2,048 B\n"
        f"  where: linking demo for nucleo-f446re\n"
        f"  try:   save {needed - 2048:,} B of {what}, or choose a board with more {name}"
    )


def test_a_compiler_that_cannot_be_run_is_named(cache: Path) -> None:
    absent = Toolchain("gcc", ("/no/such/cc",), "no such cc", "")
    assert text_of(ToolError, project(NUCLEO, main=MAIN), absent, cache) == (
        "/no/such/cc could not be run: [Errno 2] No such file or directory: '/no/such/cc'\n"
        "  where: calling the C compiler\n"
        "  try:   install the compiler again, or choose another with --toolchain"
    )


def test_a_compiler_that_does_not_tell_its_version_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken-cc"
    broken.write_text("#!/bin/sh\necho 'error: damaged' >&2\nexit 3\n", encoding="utf-8")
    broken.chmod(0o755)
    with pytest.raises(ToolError) as caught:
        toolchain._gcc(str(broken))
    assert str(caught.value) == (
        "broken-cc --version exited with 3:\n"
        "    error: damaged\n"
        "  where: asking the C compiler for its version\n"
        "  try:   install the compiler again, or choose another with --toolchain"
    )


def test_a_failed_build_leaves_nothing_in_the_cache_that_is_used(compiler: Toolchain, cache: Path) -> None:
    broken = project(NUCLEO, main=b"#error planted\n")
    text_of(ToolError, broken, compiler, cache)
    assert "planted" in text_of(ToolError, broken, compiler, cache)
