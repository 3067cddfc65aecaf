"""Project -> Firmware: find a C compiler, compile and link in a temporary folder, measure the result.

An image depends on the compiler's version, the flags and the bytes of the inputs, and on nothing else: the same
project gives the same image in any folder. So objects and images can be cached under a hash of exactly those.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import os
import platform
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile

from mcugen.cache import Cache, default_cache_dir
from mcugen.cores import CORES, GCC_PACKAGES, GCC_PREFIXES
from mcugen.errors import DoesNotFitError, ToolError, UsageError
from mcugen.flags import (
    KERNEL_OPTIMISATION,
    assemble_flags,
    compile_cxx_flags,
    compile_flags,
    link_flags,
    optimisation,
)
from mcugen.images import to_bin
from mcugen.ir import Board, Firmware, Project

TOOLCHAINS = ("auto", "zig", "gcc")
_JOBS = 2  # compilers at a time
_TIMEOUT_S = 600  # one compiler run; the first zig link of a target also compiles its runtime library
_DIAGNOSTIC_LINES = 6

# Variables that make a compiler search or emit something that no input states.
_AMBIENT = ("CPATH", "C_INCLUDE_PATH", "COMPILER_PATH", "GCC_EXEC_PREFIX", "LIBRARY_PATH", "CCC_OVERRIDE_OPTIONS")


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A C compiler that was found.

    kind: "zig" or "gcc" (any driver that takes GCC's flags). command: how it is called.
    title: for people, e.g. "zig 0.17.1 (clang 22)". version: everything that it says of itself, for the cache.
    """

    kind: str
    command: tuple[str, ...]
    title: str
    version: str


# ---------------------------------------------------------------- finding a compiler


def find_toolchain(name: str, board: Board) -> Toolchain:
    """Find the C compiler `name` ("auto", "zig" or "gcc") for `board`.

    "auto" prefers zig for microcontrollers, because its version is pinned, and the system's compiler for the host.
    Raises UsageError for another name, ToolError when the compiler is not installed.
    """
    if name not in TOOLCHAINS:
        raise UsageError(
            f"there is no toolchain {name!r}", where="--toolchain", hint=f"choose one of {', '.join(TOOLCHAINS)}"
        )
    on_host = board.core == "host"
    family = CORES[board.core].family
    programs = ("cc", "gcc", "clang") if on_host else (f"{GCC_PREFIXES[family]}gcc",)
    gcc = next(filter(None, map(shutil.which, programs)), None)
    has_zig = importlib.util.find_spec("ziglang") is not None
    if gcc is not None and (name == "gcc" or (name == "auto" and (on_host or not has_zig))):
        return _gcc(gcc)
    if has_zig and name != "gcc":
        return _zig()
    wanted = {"auto": ("zig", *programs), "zig": ("zig",), "gcc": programs}[name]
    by_pip = "`pip install 'mcugen[zig]'`"
    by_apt = f"`apt-get install {'gcc' if on_host else GCC_PACKAGES[family]}`"
    raise ToolError(
        f"no C compiler for {board.core}: found no {' or '.join(wanted)}",
        where=f"toolchain {name}, board {board.name}",
        hint={"auto": f"{by_pip}, or {by_apt}", "zig": by_pip, "gcc": by_apt}[name],
    )


@functools.cache
def _zig() -> Toolchain:
    zig = (sys.executable, "-m", "ziglang")
    release = _output_of((*zig, "version")).strip()
    version = _output_of((*zig, "cc", "--version"))
    clang = re.search(r"clang version (\d+)", version)
    title = f"zig {release} (clang {clang.group(1)})" if clang else f"zig {release}"
    return Toolchain("zig", (*zig, "cc"), title, f"{title}\n{version}")


@functools.cache
def _gcc(path: str) -> Toolchain:
    version = _output_of((path, "--version"))
    number = re.search(r"\d+\.\d+(\.\d+)?", re.sub(r"\(.*?\)", "", version))
    title = f"{Path(path).name} {number.group(0)}" if number else Path(path).name
    return Toolchain("gcc", (path,), title, version)


def _output_of(command: Sequence[str]) -> str:
    done = _run(command, cwd=None)
    if done.returncode != 0:
        raise ToolError(
            f"{Path(command[0]).name} {' '.join(command[1:])} exited with {done.returncode}:\n"
            f"{_diagnostics(done.stderr)}",
            where="asking the C compiler for its version",
            hint="install the compiler again, or choose another with --toolchain",
        )
    return done.stdout


def _run(command: Sequence[str], cwd: Path | None) -> subprocess.CompletedProcess[str]:
    """Run a compiler without letting the caller's language or search paths change what it does."""
    environment = {key: value for key, value in os.environ.items() if key not in _AMBIENT}
    environment["LC_ALL"] = "C"
    if cwd is not None:
        environment["ZIG_LOCAL_CACHE_DIR"] = str(cwd)  # else zig would keep every object a second time
    try:
        return subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolError(
            f"{command[0]} could not be run: {error}",
            where="calling the C compiler",
            hint="install the compiler again, or choose another with --toolchain",
        ) from error


# ---------------------------------------------------------------- building


def build(
    project: Project,
    toolchain: Toolchain,
    *,
    opt: str | None = None,
    extra_flags: Sequence[str] = (),
    shared: bool = False,
    cache_dir: Path | None = None,
) -> Firmware:
    """Compile and link `project`.

    opt: optimisation level of all sources; None for flags.optimisation's. extra_flags: further flags for compiling
    and linking, e.g. sanitizers.
    shared: for the host, make a shared library instead of a program.
    cache_dir: where objects and images are kept; $MCUGEN_CACHE or the user's cache folder where None.
    Raises ToolError where the compiler or linker rejects the project, DoesNotFitError where the image is too large.
    """
    cache = Cache(default_cache_dir() if cache_dir is None else cache_dir)
    job = _Job(project, toolchain, opt, tuple(extra_flags), ("-shared",) if shared else (), cache)
    image = cache.load(job.image_key())
    if image is None:
        with tempfile.TemporaryDirectory(prefix="mcugen-") as folder:
            image = _compile_and_link(job, Path(folder))
        cache.store(job.image_key(), image)
    return _measure(project.board, image, toolchain.title, job.flags_by_use())


@dataclass(frozen=True, slots=True)
class _Job:
    """One build: what is compiled, by what, with which flags."""

    project: Project
    toolchain: Toolchain
    opt: str | None
    flags: tuple[str, ...]
    output_flags: tuple[str, ...]
    cache: Cache

    def compile_flags(self, source: str) -> list[str]:
        """Flags for a source: C, C++ (.cc), or assembly that the C preprocessor reads first (.S)."""
        includes = [f"-I{folder}" for folder in self.project.include_dirs]
        flags = {".S": assemble_flags, ".cc": compile_cxx_flags}.get(posixpath.splitext(source)[1], compile_flags)
        opt = self.opt or optimisation(source)
        return [*flags(self.project.board, self.toolchain.kind), opt, *self.flags, *includes]

    def link_flags(self) -> list[str]:
        """Flags that follow the objects: libraries must come after what needs them."""
        script = self.project.linker_script
        return [
            self.opt or KERNEL_OPTIMISATION,  # at -Os, zig leaves the symbols out
            *self.flags,
            *self.output_flags,
            *([] if script is None else ["-T", script]),
            *link_flags(self.project.board, self.toolchain.kind),
        ]

    def flags_by_use(self) -> dict[str, tuple[str, ...]]:
        """As Firmware.flags has them."""
        used = {
            f"{posixpath.splitext(source)[1][1:]} {self.opt or optimisation(source)}": tuple(
                self.compile_flags(source)
            )
            for source in self.project.sources
        }
        return {**used, "link": tuple(self.link_flags())}

    def object_key(self, source: str) -> str:
        """Hash of the compiler, its flags, this source and every file that it includes."""
        inputs = {path: self.project.files[path] for path in _included(self.project, source)}
        return _digest("object", self.toolchain.version, _machine(), source, self.compile_flags(source), inputs)

    def image_key(self) -> str:
        """Hash of the linker's flags, the objects in order and the linker script."""
        script = self.project.linker_script
        inputs = {} if script is None else {script: self.project.files[script]}
        objects = [self.object_key(source) for source in self.project.sources]
        return _digest("image", self.toolchain.version, _machine(), *objects, self.link_flags(), inputs)


_INCLUDE = re.compile(rb'#[ \t]*include[ \t]*["<]([^">\n]+)[">]')
_UNCLEAR = re.compile(
    rb'#[ \t]*(include(?![ \t]*["<])|include_next|import|embed|/\*)|%:|\?\?=|__has_include|\.include|incbin'
)


def _included(project: Project, source: str) -> set[str]:
    """The project's files that compiling `source` reads, itself included, whatever its #ifs say.

    A name is looked for as the preprocessor does: beside the file that names it, then in include_dirs. All files,
    where a file includes by other means than a plain #include of a name.
    """
    found: set[str] = set()
    waiting = [source]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        content = project.files[path].replace(b"\\\n", b"")
        if _UNCLEAR.search(content):
            return set(project.files)
        for name in _INCLUDE.findall(content):
            places = (posixpath.dirname(path), *project.include_dirs)
            candidates = (posixpath.normpath(posixpath.join(place, name.decode())) for place in places)
            waiting += [candidate for candidate in candidates if candidate in project.files][:1]
    return found


def _machine() -> str:
    return f"{sys.platform} {platform.machine()}"


def _digest(*parts: str | list[str] | Mapping[str, bytes]) -> str:
    """Hash parts so that no two different lists of parts read the same."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Mapping):
            shown = {path: hashlib.sha256(content).hexdigest() for path, content in sorted(part.items())}
            digest.update(repr(shown).encode())
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()


def _compile_and_link(job: _Job, folder: Path) -> bytes:
    project = job.project
    for path, content in project.files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    objects = [f"mcugen-objects/{source}.o" for source in project.sources]
    for path in objects:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max_workers=_JOBS) as pool:
        # list() waits, and raises the first source's error even when a later one fails sooner.
        list(pool.map(functools.partial(_compile, job, folder), project.sources, objects))
    command = [*job.toolchain.command, *objects, *job.link_flags(), "-o", "mcugen-image"]
    done = _run(command, cwd=folder)
    if done.returncode != 0:
        raise _link_error(job, done.stderr)
    return (folder / "mcugen-image").read_bytes()


def _compile(job: _Job, folder: Path, source: str, output: str) -> None:
    key = job.object_key(source)
    content = job.cache.load(key)
    if content is not None:
        (folder / output).write_bytes(content)
        return
    here = f"-ffile-prefix-map={folder}=."  # with -g: no trace of the temporary folder
    command = [*job.toolchain.command, *job.compile_flags(source), here, "-c", source, "-o", output]
    done = _run(command, cwd=folder)
    if done.returncode != 0:
        raise _compile_error(job, source, done.stderr)
    job.cache.store(key, (folder / output).read_bytes())


def _compile_error(job: _Job, source: str, stderr: str) -> ToolError:
    where = f"compiling {source} of {job.project.name} for {job.project.board.name}"
    if "cc1plus'" in stderr:  # GCC's C++ compiler proper: cannot execute, or error trying to exec, 'cc1plus'
        family = CORES[job.project.board.core].family
        return ToolError(
            f"{job.toolchain.title} has no C++ compiler to call",
            where=where,
            hint=f"`apt-get install {GCC_PACKAGES.get(family, 'g++')}`",
        )
    return ToolError(
        f"{job.toolchain.title} rejects {source}:\n{_diagnostics(stderr)}",
        where=where,
        hint="correct that line; where mcugen generated it, report it with the command line",
    )


def _link_error(job: _Job, stderr: str) -> ToolError | DoesNotFitError:
    board = job.project.board
    where = f"linking {job.project.name} for {board.name}"
    # GNU ld: region `FLASH' overflowed by 12 bytes; lld: will not fit in region 'FLASH': overflowed by 12 bytes
    overflows = re.findall(r"region [`'](\w+)'.*?overflowed by (\d+) bytes", stderr)
    if overflows:
        region, excess = max(overflows, key=lambda match: int(match[1]))
        size = board.ram.size
        name, what = "RAM", "context, activations or stack"
        if region in ("FLASH", "DATA"):
            size, name, what = board.flash.size, "flash", "weights or code"
        for memory in board.memories:
            if memory.name.upper() == region:
                size, name, what = memory.region.size, memory.name, "what the plan places there"
        return DoesNotFitError(
            f"the firmware needs {size + int(excess):,} B of {name}; {board.name} has {size:,} B",
            where=where,
            hint=f"save {int(excess):,} B of {what}, or choose a board with more {name}",
        )
    return ToolError(
        f"{job.toolchain.title} cannot link {job.project.name}:\n{_diagnostics(stderr)}",
        where=where,
        hint="a function is missing from the sources, or the linker script and the board disagree",
    )


def _diagnostics(stderr: str) -> str:
    """Return the first lines, indented; of a compiler's output, those from the first error on."""
    lines = [re.sub(r"^\S*/(?=(ld|ld\.\w+): )", "", line.rstrip()) for line in stderr.splitlines() if line.strip()]
    first = next((i for i, line in enumerate(lines) if re.search(r":\d+:\d+: (fatal )?error: ", line)), 0)
    return "\n".join(f"    {line}" for line in lines[first : first + _DIAGNOSTIC_LINES])


# ---------------------------------------------------------------- reading the image


_SHF_ALLOC = 0x2  # ELF specification, "Section Attribute Flags"


def _measure(board: Board, image: bytes, title: str, flags: Mapping[str, tuple[str, ...]]) -> Firmware:
    sections = _sections(image) if image.startswith(b"\x7fELF") else {}  # a host may use another format
    return Firmware(
        board=board,
        image=image,
        sections=sections,
        flash_bytes=len(to_bin(image)) if sections else 0,
        static_bytes=_static_bytes(image, board) if sections else 0,
        stack_bytes=sections.get(".stack", 0),
        toolchain=title,
        flags=flags,
    )


def _static_bytes(elf: bytes, board: Board) -> int:
    """What takes main RAM beside the stack; on the host, what an initial value or a zero is kept for."""
    if board.core == "host":
        sections = _sections(elf)
        return sections.get(".data", 0) + sections.get(".bss", 0)
    begin, end = board.ram.origin, board.ram.origin + board.ram.size
    found = (s for s in ELFFile(io.BytesIO(elf)).iter_sections() if s["sh_flags"] & _SHF_ALLOC)
    return sum(s["sh_size"] for s in found if begin <= s["sh_addr"] < end and s.name != ".stack")


def _sections(elf: bytes) -> dict[str, int]:
    """Name -> bytes of the sections that occupy memory on the target."""
    found = ELFFile(io.BytesIO(elf)).iter_sections()
    return {s.name: s["sh_size"] for s in found if s["sh_flags"] & _SHF_ALLOC and s["sh_size"] > 0}
