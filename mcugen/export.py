"""Project -> the generated library in the layout that another build system expects, with an example application.

What is exported is model, kernels and runtime as the project has them; main, console, port, start-up code and linker
script stay behind. A template below templates/export/ECOSYSTEM has the path of the file that it becomes.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mcugen.errors import UsageError
from mcugen.ir import Board, Project
from mcugen.rendering import LONGEST_PROMPT, Provenance, fill
from mcugen.resources import data_dir

_MODEL_FILES = (".h", ".c", "_weights.h", "_weights.c", "_vocabulary.c")
_URL = "https://example.com/mcugen"  # formats ask for a home page, which a generated library does not have
_MAX_TOKENS = 256  # the longest answer of an example

# What a compiler says of a target that has what a kernel family needs; the portable kernels need nothing. Sources:
# Arm C Language Extensions (IHI 0053), "Target architecture and features"; RISC-V C API Specification, "Architecture
# Extension Test Macros".
CONDITIONS: Mapping[str, str] = {
    "mve": "defined(__ARM_FEATURE_MVE)",
    "dsp7": "defined(__ARM_FEATURE_DSP)",
    "dsp": "defined(__ARM_FEATURE_DSP)",
    "rv32": "defined(__riscv) && __riscv_xlen == 32 && defined(__riscv_mul)",
    "v7m": "defined(__ARM_ARCH_ISA_THUMB) && __ARM_ARCH_ISA_THUMB >= 2",
    "v6m": "defined(__ARM_ARCH_ISA_THUMB)",
    "portable": "",
}

_ESP_TARGETS = ("esp32c2", "esp32c3", "esp32c6", "esp32h2")  # cores with RV32IMC; C6 and H2 have atomics, too
_PICO_CORES = ("cortex-m0plus", "cortex-m33", "rv32imc")  # RP2040; RP2350 has one kind or the other

Files = dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Library:
    """What is exported, whatever the layout. files: at their paths in the project. family: of the kernels."""

    prefix: str
    board: Board
    family: str
    arena_bytes: int
    files: Mapping[str, bytes]
    sources: tuple[str, ...]
    provenance: Provenance

    @property
    def name(self) -> str:
        """Of the target, module, package or component."""
        return f"mcugen_{self.prefix}"


@dataclass(frozen=True, slots=True)
class Ecosystem:
    """title: what an export is in its words. longest: letters that its format leaves to a model's name. cores: what
    the names of those begin with that it compiles for; portable kernels always serve. render: all files of it but
    those that every export has."""

    title: str
    longest: int
    cores: tuple[str, ...]
    render: Callable[[Library], Files]


def check_export(name: str, board: Board, ecosystem: str) -> None:
    """Raise UsageError where the ecosystem does not compile for the board's core, or its format has no room for
    `name`, the prefix of the generated C."""
    chosen = ECOSYSTEMS[ecosystem]
    if board.core != "host" and not board.core.startswith(chosen.cores):
        raise UsageError(
            f"{ecosystem} does not compile for {board.name}, a {board.core}",
            where="--as",
            hint=f"choose a board with {' or '.join(chosen.cores)}, or --board host for portable C",
        )
    if len(name) > chosen.longest:
        raise UsageError(
            f"the model's name {name} has {len(name)} letters; {ecosystem} leaves room for {chosen.longest}",
            where="--as",
            hint="give the model's file or folder a shorter name",
        )


def library_of(project: Project, family: str, arena_bytes: int, provenance: Provenance) -> Library:
    """What of a project is the library, with a source that stops a compiler for another core."""
    own = {f"{project.name}{end}" for end in _MODEL_FILES}
    files = {p: c for p, c in project.files.items() if p in own or p.startswith(("kernels/", "runtime/"))}
    sources = tuple(path for path in project.sources if path in files)
    if CONDITIONS[family]:
        guard = f"{project.name}_core.c"
        variables = {
            "prefix": project.name,
            "name": f"mcugen_{project.name}",
            "board_name": project.board.name,
            "core": project.board.core,
            "condition": CONDITIONS[family],
            "provenance": provenance,
        }
        files |= fill({"export/core.c.j2": guard}, variables)
        sources = (*sources, guard)
    return Library(project.name, project.board, family, arena_bytes, files, sources, provenance)


def export_library(library: Library, ecosystem: str, verified: bool) -> Files:
    """The library in the layout of ECOSYSTEMS[ecosystem], as path -> content.

    verified: whether the caller puts verification.txt beside it. Raises UsageError where two files would share a
    path.
    """
    files = ECOSYSTEMS[ecosystem].render(library)
    variables = {**_variables(library), "verified": verified, "title": ECOSYSTEMS[ecosystem].title}
    flags = {name.replace("-", "_"): name == ecosystem for name in ECOSYSTEMS}
    files |= fill({"export/README.md.j2": "README.md"}, {**variables, **flags})
    files["LICENSE"] = data_dir("LICENSE").read_bytes()
    if ecosystem == "cmsis-pack":
        files[f"mcugen.{library.prefix}.{library.provenance.version}.pack"] = _zipped(files)
    return files


# ---------------------------------------------------------------- what they share


def _variables(library: Library) -> dict[str, object]:
    """What the templates of all ecosystems place."""
    condition = CONDITIONS[library.family]
    return {
        "prefix": library.prefix,
        "name": library.name,
        "NAME": library.name.upper(),
        "version": library.provenance.version,
        "provenance": library.provenance,
        "board_name": library.board.name,
        "core": library.board.core,
        "condition": condition,
        "arena_bytes": library.arena_bytes,
        "longest_prompt": LONGEST_PROMPT,
        "max_tokens": _MAX_TOKENS,
        "has_assembly": any(source.endswith(".S") for source in library.sources),
        "url": _URL,
        "target": _ESP_TARGETS[1],
    }


def _rendered(ecosystem: str, variables: Mapping[str, object]) -> Files:
    """The files that an ecosystem's own templates become."""
    root = data_dir("templates")
    paths = sorted(path.relative_to(root).as_posix() for path in (root / "export" / ecosystem).rglob("*.j2"))
    return fill({path: path.removeprefix(f"export/{ecosystem}/").removesuffix(".j2") for path in paths}, variables)


def _tree(library: Library) -> tuple[Files, dict[str, object]]:
    """The files in src/ as the project has them, and what templates say of them.

    What an application includes includes src/ and src/runtime/; src/kernels/ is the library's alone.
    """
    files = {f"src/{path}": content for path, content in library.files.items()}
    return files, {
        **_variables(library),
        "sources": [f"src/{path}" for path in library.sources],
        "public_dirs": ["src", "src/runtime"],
        "private_dirs": ["src/kernels"],
    }


def _flat(library: Library) -> Files:
    """The files in src/, those of kernels/ and runtime/ directly in it: for formats whose only include path is src/.

    Raises UsageError where a model's name is that of another file.
    """
    files = {f"src/{_lifted(path)}": content for path, content in library.files.items()}
    if len(files) < len(library.files):
        raise UsageError(
            f"the model's name {library.prefix} is that of another file of the library",
            where="--as",
            hint="give the model's file or folder another name",
        )
    return files


def _lifted(path: str) -> str:
    return path.removeprefix("kernels/").removeprefix("runtime/")


def _console(library: Library, path: str, **differs: object) -> Files:
    """The example that reads lines with <stdio.h>. differs: what an ecosystem needs otherwise."""
    usual = {"headers": ["<stdio.h>"], "entry": "int main(void)", "start": (), "wait": "", "returns": True}
    return fill({"export/console.c.j2": path}, {**_variables(library), **usual, **differs})


def _sketch(library: Library, path: str, *headers: str) -> Files:
    """The example for the framework Arduino."""
    includes = [*headers, f"<{library.prefix}.h>"]
    return fill({"export/sketch.cpp.j2": path}, {**_variables(library), "headers": includes})


# ---------------------------------------------------------------- one ecosystem each


def _cmake(library: Library) -> Files:
    """A folder for add_subdirectory or FetchContent."""
    files, variables = _tree(library)
    languages = "C ASM" if variables["has_assembly"] else "C"
    return files | _rendered("cmake", {**variables, "languages": languages}) | _console(library, "example/main.c")


def _zephyr(library: Library) -> Files:
    """A module with one Kconfig option (Zephyr documentation, "Modules (External projects)")."""
    files, variables = _tree(library)
    core = library.board.core
    depends = {"host": "", "rv32imc": "RISCV && !64BIT && RISCV_ISA_EXT_M"}.get(core, f"CPU_{_upper(core)}")
    return files | _rendered("zephyr", {**variables, "depends": depends})


def _upper(core: str) -> str:
    return core.upper().replace("-", "_")


def _arduino(library: Library) -> Files:
    """A library of format 1.5 (Arduino library specification): src/ is its one include path.

    It has no way to state a compiler's option: a line at the top of each C file does.
    """
    pragma = b'#pragma GCC optimize ("no-strict-aliasing") /* the arena is one array of bytes */\n'
    files = {path: pragma + c if path.endswith(".c") else c for path, c in _flat(library).items()}
    example = _sketch(library, "examples/console/console.ino")
    return files | _rendered("arduino", _variables(library)) | example


def _platformio(library: Library) -> Files:
    """A library with a library.json (PlatformIO documentation, "library.json")."""
    manifest = {
        "name": re.sub("_+", "-", library.name).rstrip("-"),  # single dashes, and none at the end
        "version": library.provenance.version,
        "description": f"A tiny language model in integers, generated by mcugen for {library.board.name}",
        "keywords": ["language-model", "machine-learning"],
        "license": "MIT",
        "frameworks": "*",
        "platforms": "*",
        "headers": f"{library.prefix}.h",
        "examples": [{"name": "console", "base": "examples/console", "files": ["main.cpp"]}],
        # not as an archive: files of one name lie in different folders
        "build": {"flags": ["-fno-strict-aliasing"], "libArchive": False},
    }
    files = _flat(library) | _sketch(library, "examples/console/main.cpp", "<Arduino.h>")
    return files | {"library.json": (json.dumps(manifest, indent=2) + "\n").encode()}


def _esp_idf(library: Library) -> Files:
    """A component (ESP-IDF Programming Guide, "Build System"; IDF Component Manager, "idf_component.yml")."""
    files, variables = _tree(library)
    targets = _ESP_TARGETS if CONDITIONS[library.family] else ()
    console = _console(
        library,
        "examples/console/main/main.c",
        headers=["<stdio.h>", '"freertos/FreeRTOS.h"', '"freertos/task.h"'],
        entry="void app_main(void)",
        wait="vTaskDelay(1);",
        returns=False,
    )
    return files | _rendered("esp-idf", {**variables, "targets": targets}) | console


def _cmsis_pack(library: Library) -> Files:
    """The content of a pack with one component (Open-CMSIS-Pack specification 1.7)."""
    files, variables = _tree(library)
    core = library.board.core
    dcore = "" if core == "host" else core.replace("cortex-m", "Cortex-M").replace("plus", "+")
    placed = {
        **variables,
        "dcore": dcore,
        # a header's folder is an include path: those of the kernels are private
        "headers": [path for path in sorted(files) if path.endswith(".h") and "/kernels/" not in path],
        "c_sources": [f"src/{path}" for path in library.sources if path.endswith(".c")],
        "s_sources": [f"src/{path}" for path in library.sources if path.endswith(".S")],
    }
    rendered = _rendered("cmsis-pack", placed)
    rendered[f"mcugen.{library.prefix}.pdsc"] = rendered.pop("model.pdsc")
    return files | rendered | _console(library, "example/main.c")


def _zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip archive without a date of the day."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(path), content, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _pico_sdk(library: Library) -> Files:
    """A folder for add_subdirectory behind pico_sdk_init, with an INTERFACE library."""
    files, variables = _tree(library)
    console = _console(
        library, "example/main.c", headers=["<stdio.h>", '"pico/stdlib.h"'], start=["stdio_init_all();"]
    )
    return files | _rendered("pico-sdk", variables) | console


_ANY = ("",)

ECOSYSTEMS: Mapping[str, Ecosystem] = {
    "cmake": Ecosystem("static library for CMake", 100, _ANY, _cmake),
    "zephyr": Ecosystem("module for Zephyr", 100, _ANY, _zephyr),
    "arduino": Ecosystem("library for Arduino", 63 - len("mcugen_"), _ANY, _arduino),
    "platformio": Ecosystem("library for PlatformIO", 50 - len("mcugen-"), _ANY, _platformio),
    "esp-idf": Ecosystem("component for ESP-IDF", 60, ("rv32imc",), _esp_idf),
    "cmsis-pack": Ecosystem("CMSIS-Pack", 32, ("cortex-m",), _cmsis_pack),
    "pico-sdk": Ecosystem("library for the Raspberry Pi Pico SDK", 100, _PICO_CORES, _pico_sdk),
}
