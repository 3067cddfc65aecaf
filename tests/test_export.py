"""Exports: the same library in each build system's layout, checked by that system's own tool where there is one.

What the examples call of an ecosystem that is not here stands in tests/ecosystems/, so that they run on this computer.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from test_render import rendered, tiny
from tools import missing, require_program

from mcugen import families
from mcugen.boards import load_board
from mcugen.cores import CORES, GCC_PREFIXES
from mcugen.errors import UsageError
from mcugen.export import CONDITIONS, ECOSYSTEMS, Library, check_export, export_library, library_of
from mcugen.flags import compile_flags
from mcugen.generate import generate, prompt_tokens
from mcugen.ir import Placement
from mcugen.layout import Layout, provenance
from mcugen.resources import data_dir
from mcugen.sampler import make_sampler
from mcugen.tokenizer import decode

STAND_INS = Path(__file__).resolve().parent / "ecosystems"
PROMPTS = ("e", "a tea", "ta")
PRAGMA = b'#pragma GCC optimize ("no-strict-aliasing")'
ALL = pytest.mark.parametrize("ecosystem", ECOSYSTEMS)


@functools.cache
def library(board: str = "nucleo") -> Library:
    layout = on_one_core(board)
    made = provenance(layout, "mcugen export")
    return library_of(rendered(layout), layout.graph.family, layout.plan.arena_bytes, made)


def on_one_core(board: str) -> Layout:
    layout = tiny(board=board)
    plan = dataclasses.replace(layout.plan, placement=Placement())
    return dataclasses.replace(layout, board=dataclasses.replace(layout.board, cores=1), plan=plan)


def board_of(ecosystem: str) -> str:
    return {"esp-idf": "esp32-c3-devkit", "pico-sdk": "pico"}.get(ecosystem, "nucleo")


@functools.cache
def exported(ecosystem: str, board: str) -> dict[str, bytes]:
    return export_library(library(board), ecosystem, verified=True)


def written(ecosystem: str, board: str, folder: Path) -> Path:
    for path, content in exported(ecosystem, board).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def flat(ecosystem: str) -> bool:
    return ecosystem in ("arduino", "platformio")


def place(ecosystem: str, path: str) -> str:
    """Where a file of the library lies in an export."""
    return f"src/{re.sub('^(kernels|runtime)/', '', path) if flat(ecosystem) else path}"


# ---------------------------------------------------------------- what is in it


@ALL
@pytest.mark.parametrize("board", ["nucleo", "host"])
def test_an_export_has_the_library_as_the_project_has_it_and_nothing_else_of_it(ecosystem: str, board: str) -> None:
    board = board_of(ecosystem) if board == "nucleo" else board
    project, files = rendered(on_one_core(board)), exported(ecosystem, board)
    left_out = {"Makefile", "README.md", "main.c", "build_id.h", "linker.ld"}
    expected = {
        place(ecosystem, path): content
        for path, content in project.files.items()
        if path not in left_out and not path.startswith(("app/", "ports/"))
    }
    found = {path: content for path, content in files.items() if path.startswith("src/")}
    if ecosystem == "arduino":
        assert all(content.startswith(PRAGMA) == path.endswith(".c") for path, content in found.items())
        found = {p: c.split(b"\n", 1)[1] if p.endswith(".c") else c for p, c in found.items()}
    guard = found.pop("src/tiny_core.c", None)
    assert found == expected
    assert (guard is None) == (board == "host")
    assert files["LICENSE"] == (data_dir("LICENSE")).read_bytes()


def sources_of(ecosystem: str, files: dict[str, bytes]) -> list[str]:
    """The files that an ecosystem compiles, as its own description of the library lists them."""
    if flat(ecosystem):
        return sorted(path for path in files if path.startswith("src/") and path.endswith((".c", ".S")))
    described = {"zephyr": "zephyr/CMakeLists.txt", "cmsis-pack": "mcugen.tiny.pdsc"}
    text = files[described.get(ecosystem, "CMakeLists.txt")].decode()
    return sorted(re.findall(r"(?<![\w.])src/[\w/]+\.[cS]\b", text))


@ALL
def test_every_source_is_listed_once(ecosystem: str) -> None:
    files = exported(ecosystem, board_of(ecosystem))
    assert sources_of(ecosystem, files) == sorted(
        place(ecosystem, path) for path in library(board_of(ecosystem)).sources
    )


@ALL
def test_two_exports_are_the_same_and_name_no_machine(ecosystem: str) -> None:
    board = board_of(ecosystem)
    files = exported(ecosystem, board)
    assert export_library(library(board), ecosystem, verified=True) == files
    for path, content in files.items():
        assert os.getcwd().encode() not in content and b"/tmp" not in content, path


# ---------------------------------------------------------------- it compiles for the board


def compiler(board: str) -> str:
    return require_program(f"{GCC_PREFIXES[CORES[load_board(board).core].family]}gcc")


def run(command: Iterable[object], cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]  # fmt: skip


def include_flags(ecosystem: str) -> list[str]:
    return [f"-I{folder}" for folder in (["src"] if flat(ecosystem) else ["src", "src/runtime", "src/kernels"])]


def compiled(ecosystem: str, board: str, folder: Path) -> Path:
    """All objects of an export as one, each compiled without a warning."""
    written(ecosystem, board, folder)
    sources = sources_of(ecosystem, exported(ecosystem, board))
    flags = [*compile_flags(load_board(board), "gcc"), "-O2", *include_flags(ecosystem)]
    done = run([compiler(board), *flags, "-r", "-nostdlib", *sources, "-o", "all.o"], folder)
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "all.o"


@ALL
def test_it_compiles_without_a_warning_and_owns_nothing_but_the_model(ecosystem: str, tmp_path: Path) -> None:
    board = board_of(ecosystem)
    whole = compiled(ecosystem, board, tmp_path)
    done = run([compiler(board).replace("gcc", "nm"), whole], tmp_path)
    symbols = [line.split() for line in done.stdout.splitlines()]
    defined = {words[-1] for words in symbols if words[-2] in "TDBRVWC"}
    undefined = {words[-1] for words in symbols if words[-2] == "U"}
    assert defined and all(name.startswith(("mg_", "tiny_")) for name in defined)
    # the compiler's own library, and what GCC asks of every freestanding environment
    assert all(name.startswith("__") or name in ("memcpy", "memset", "memmove") for name in undefined)


@pytest.mark.slow
@pytest.mark.parametrize("board", ["mps2-an383", "mps2-an385", "mps2-an500", "mps2-an505", "mps3-an547"])
def test_every_family_of_kernels_compiles_where_includes_have_one_folder(board: str, tmp_path: Path) -> None:
    assert compiled("arduino", board, tmp_path).stat().st_size > 10_000


def test_the_pragma_of_an_arduino_library_is_the_option(tmp_path: Path) -> None:
    """With GCC, at -O2: the same instructions."""
    written("arduino", "nucleo", tmp_path)
    flags = ["-mcpu=cortex-m4", "-mthumb", "-std=gnu11", "-O2", "-Isrc", "-S", "-o", "-"]
    differs = 0
    for path in ("src/rope.c", "src/tokenizer.c", "src/dsp/attention.c", "src/dsp/linear.c"):
        plain = tmp_path / path.replace(".c", "_plain.c")
        plain.write_bytes(b"\n" + (tmp_path / path).read_bytes().split(b"\n", 1)[1])

        def made(source: Path, *more: str) -> str:
            text = run([compiler("nucleo"), *flags, *more, source], tmp_path).stdout
            return re.sub(r"\.file.*", "", text)

        assert made(tmp_path / path) == made(plain, "-fno-strict-aliasing") != ""
        differs += made(tmp_path / path) != made(plain)
    assert differs


# ---------------------------------------------------------------- the core


def test_every_family_says_what_its_core_must_have() -> None:
    assert set(CONDITIONS) == {family.name for family in families.FAMILIES}


@pytest.mark.parametrize(
    ("exported_for", "compiled_for"),
    [
        ("nucleo", "mps2-an385"),
        ("mps2-an500", "mps2-an383"),
        ("mps2-an385", "mps2-an383"),
        ("mps3-an547", "nucleo"),
        ("qemu-virt-rv32", "nucleo"),
        ("nucleo", "qemu-virt-rv32"),
        ("mps2-an383", "qemu-virt-rv32"),
    ],
)
def test_another_core_stops_at_a_sentence(exported_for: str, compiled_for: str, tmp_path: Path) -> None:
    written("cmake", exported_for, tmp_path)
    for board, fails in ((compiled_for, True), (exported_for, False)):
        flags = [*compile_flags(load_board(board), "gcc"), *include_flags("cmake"), "-fsyntax-only"]
        done = run([compiler(board), *flags, "src/tiny_core.c"], tmp_path)
        core = load_board(exported_for).core
        said = f"mcugen_tiny is for a {core}: run mcugen export again with the --board of this core"
        assert (done.returncode != 0, said in done.stderr) == (fails, fails), done.stderr


@pytest.mark.parametrize(
    ("ecosystem", "board", "name", "message"),
    [
        (
            "esp-idf",
            "nucleo",
            "tiny",
            "esp-idf does not compile for nucleo-f446re, a cortex-m4\n  where: --as\n"
            "  try:   choose a board with rv32imc, or --board host for portable C",
        ),
        (
            "pico-sdk",
            "nucleo",
            "tiny",
            "pico-sdk does not compile for nucleo-f446re, a cortex-m4\n  where: --as\n"
            "  try:   choose a board with cortex-m0plus or cortex-m33 or rv32imc, or --board host for portable C",
        ),
        (
            "cmsis-pack",
            "qemu-virt-rv32",
            "tiny",
            "cmsis-pack does not compile for qemu-virt-rv32, a rv32imc\n  where: --as\n"
            "  try:   choose a board with cortex-m, or --board host for portable C",
        ),
        (
            "platformio",
            "nucleo",
            "a" * 44,
            f"the model's name {'a' * 44} has 44 letters; platformio leaves room for 43\n  where: --as\n"
            "  try:   give the model's file or folder a shorter name",
        ),
    ],
)
def test_what_an_ecosystem_cannot_take_is_refused(ecosystem: str, board: str, name: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        check_export(name, load_board(board), ecosystem)
    assert str(raised.value) == message


def test_a_model_named_like_a_kernel_is_refused_where_folders_are_one() -> None:
    layout = tiny("linear", board="host")
    made = library_of(rendered(layout), layout.graph.family, layout.plan.arena_bytes, provenance(layout, "mcugen"))
    export_library(made, "cmake", verified=False)
    with pytest.raises(UsageError) as raised:
        export_library(made, "arduino", verified=False)
    assert str(raised.value) == (
        "the model's name linear is that of another file of the library\n  where: --as\n"
        "  try:   give the model's file or folder another name"
    )


# ---------------------------------------------------------------- the examples, on this computer


def expected() -> str:
    """What the simulator says to PROMPTS."""
    layout = tiny(board="host")
    answers = []
    for prompt in PROMPTS:
        tokens = list(generate(layout.graph, layout.tokenizer, prompt, make_sampler(0.0, 0, 1.0, 1), 256))
        answers.append(decode(layout.tokenizer, tokens, prompt_tokens(layout.tokenizer, prompt)[-1]) + b"\n")
    return b"".join(answers).decode()


def answers(command: Iterable[object], folder: Path) -> str:
    done = run(command, folder, input="".join(f"{prompt}\n" for prompt in PROMPTS))
    assert done.returncode == 0, done.stderr
    return done.stdout


def cmake() -> str:
    beside = Path(sys.executable).parent / "cmake"
    return str(beside) if beside.exists() else require_program("cmake")


@pytest.mark.parametrize(
    ("ecosystem", "folder", "more"),
    [
        ("cmake", "example", []),
        ("pico-sdk", "example", []),
        ("esp-idf", "examples/console", []),
        ("zephyr", "samples/console", [f"-DZephyr_DIR={STAND_INS / 'zephyr'}"]),
    ],
)
def test_cmake_builds_the_example_and_it_says_what_the_simulator_says(
    ecosystem: str, folder: str, more: list[str], tmp_path: Path
) -> None:
    written(ecosystem, "host", tmp_path / "export")
    flags = "-O1 -Wall -Wextra -Wpedantic -Werror"
    environment = {**os.environ, "PICO_SDK_PATH": str(STAND_INS / "pico"), "IDF_PATH": str(STAND_INS / "idf")}
    works = ["-DCMAKE_C_COMPILER_WORKS=1", "-DCMAKE_CXX_COMPILER_WORKS=1"]
    configure = [cmake(), "-S", f"export/{folder}", "-B", "build", f"-DCMAKE_C_FLAGS={flags}", *works, *more]
    for command in (configure, [cmake(), "--build", "build", "--verbose"]):
        done = run(command, tmp_path, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if re.search(r" -c \S*(?<!console)/src/\S+$", line)]
    assert len(lines) == len(library("host").sources)
    assert all("-fno-strict-aliasing" in line for line in lines)
    assert answers([tmp_path / "build" / "console"], tmp_path) == expected()


@pytest.mark.parametrize(
    ("ecosystem", "sketch"),
    [("arduino", "examples/console/console.ino"), ("platformio", "examples/console/main.cpp")],
)
def test_the_sketch_says_what_the_simulator_says(ecosystem: str, sketch: str, tmp_path: Path) -> None:
    """Arduino puts its own header in front of a sketch; both know src/ as the one include path."""
    written(ecosystem, "host", tmp_path)
    gcc, gxx = require_program("gcc"), require_program("g++")
    core = STAND_INS / "arduino"
    strict = ["-O2", "-Wall", "-Wextra", "-Werror", "-Isrc"]
    sources = sources_of(ecosystem, exported(ecosystem, "host"))
    stated = (
        json.loads((tmp_path / "library.json").read_text())["build"]["flags"] if ecosystem == "platformio" else []
    )
    for command in (
        [gcc, *strict, *stated, "-r", "-nostdlib", *sources, "-o", "library.o"],
        [gxx, *strict, f"-I{core}", *(["-include", "Arduino.h"] if ecosystem == "arduino" else []),
         "-x", "c++", sketch, core / "core.cpp", "-x", "none", "library.o", "-o", "console"],
    ):  # fmt: skip
        done = run(command, tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    assert answers([tmp_path / "console"], tmp_path) == expected()


def test_the_template_of_a_pack_says_what_the_simulator_says(tmp_path: Path) -> None:
    written("cmsis-pack", "host", tmp_path)
    sources = sources_of("cmsis-pack", exported("cmsis-pack", "host"))
    flags = ["-O1", "-std=c99", "-Wall", "-Wextra", "-Werror", "-fno-strict-aliasing", *include_flags("cmsis-pack")]
    done = run([require_program("gcc"), *flags, *sources, "example/main.c", "-o", "console"], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert answers([tmp_path / "console"], tmp_path) == expected()


# ---------------------------------------------------------------- what each format asks for


def test_zephyr_finds_the_module() -> None:
    """scripts/zephyr_module.py of Zephyr 3.7: the keys and their types, and what the paths must name."""
    files = exported("zephyr", "nucleo")
    module = yaml.safe_load(files["zephyr/module.yml"])
    assert set(module) <= {"name", "build", "tests", "samples", "boards", "blobs"}
    assert set(module["build"]) <= {"cmake", "kconfig", "cmake-ext", "kconfig-ext", "depends", "settings"}
    assert module["name"] == "mcugen_tiny"
    assert f"{module['build']['cmake']}/CMakeLists.txt" in files
    assert module["build"]["kconfig"] in files
    (samples,) = module["samples"]
    sample = yaml.safe_load(files[f"{samples}/console/sample.yaml"])
    assert sample["tests"]["sample.mcugen_tiny.console"]["build_only"] is True
    kconfig, option = files["zephyr/Kconfig"].decode(), "MCUGEN_TINY"
    assert f"\nconfig {option}\n" in kconfig and "    depends on CPU_CORTEX_M4\n" in kconfig
    assert files[f"{samples}/console/prj.conf"].decode().startswith(f"CONFIG_{option}=y\n")
    assert f"if(CONFIG_{option})" in files["zephyr/CMakeLists.txt"].decode()


@pytest.mark.parametrize(
    ("board", "line"),
    [
        ("mps2-an383", "    depends on CPU_CORTEX_M0PLUS\n"),
        ("qemu-virt-rv32", "    depends on RISCV && !64BIT && RISCV_ISA_EXT_M\n"),
        ("host", "    help\n"),
    ],
)
def test_zephyr_offers_the_option_where_the_kernels_run(board: str, line: str) -> None:
    kconfig = exported("zephyr", board)["zephyr/Kconfig"].decode()
    assert kconfig.splitlines(keepends=True)[3] == line


def test_arduino_takes_the_library() -> None:
    """Arduino library specification, rev. 2.2, and the strict schema of arduino-lint."""
    files = exported("arduino", "nucleo")
    lines = files["library.properties"].decode().splitlines()
    fields = dict(line.split("=", 1) for line in lines)
    assert list(fields) == [
        "name", "version", "author", "maintainer", "sentence", "paragraph", "category", "url", "architectures", "includes",
    ]  # fmt: skip
    assert all(value and value == value.strip() for value in fields.values())
    assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.\-]{0,62}", fields["name"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", fields["version"])
    assert "arduino" not in (fields["name"] + fields["maintainer"]).lower() and "library" not in fields["name"]
    assert fields["category"] == "Data Processing" and fields["url"].startswith("https://")
    assert f"src/{fields['includes']}" in files
    top = {path.split("/")[0] for path in files if "/" in path}
    assert top == {"src", "examples"}  # no utility/, which is for flat libraries only
    sketches = [path.split("/") for path in files if path.endswith(".ino")]
    assert (
        [(parts[0], f"{parts[1]}.ino") for parts in sketches] == [("examples", parts[2]) for parts in sketches] != []
    )


@pytest.mark.parametrize(
    ("model", "name"), [("tiny", "mcugen-tiny"), ("_my__model_", "mcugen-my-model"), ("a.b", "mcugen-a-b")]
)
def test_a_name_for_platformio_has_single_dashes(model: str, name: str) -> None:
    layout = tiny(model)
    made = library_of(rendered(layout), layout.graph.family, layout.plan.arena_bytes, provenance(layout, "mcugen"))
    assert json.loads(export_library(made, "platformio", verified=False)["library.json"])["name"] == name


PIO_CHECK = """
import sys, platformio.package.manifest.schema as schema
from platformio.package.manifest.parser import ManifestParserFactory
# the list of licences is on the net
schema.ManifestSchema.load_spdx_licenses = staticmethod(lambda: {"licenses": [{"licenseId": "MIT"}]})
print(schema.ManifestSchema().load_manifest(ManifestParserFactory.new_from_dir(sys.argv[1]).as_dict())["name"])
"""


def test_platformio_takes_the_manifest(tmp_path: Path) -> None:
    """By PlatformIO's own parser and schema."""
    written("platformio", "nucleo", tmp_path / "export")
    environment = {**os.environ, "PLATFORMIO_CORE_DIR": str(tmp_path / "core")}

    def checked() -> subprocess.CompletedProcess[str]:
        return run([sys.executable, "-c", PIO_CHECK, tmp_path / "export"], tmp_path, env=environment)

    done = checked()
    if "No module named 'platformio'" in done.stderr:
        missing("platformio is not installed")
    assert (done.returncode, done.stdout) == (0, "mcugen-tiny\n"), done.stderr
    manifest = tmp_path / "export" / "library.json"
    said = json.loads(manifest.read_text())
    for example in said["examples"]:
        assert all((tmp_path / "export" / example["base"] / name).is_file() for name in example["files"])
    assert (tmp_path / "export" / "src" / said["headers"]).is_file()
    manifest.write_text(json.dumps({**said, "name": "mcugen/tiny"}))
    assert checked().returncode == 1


@pytest.mark.parametrize("board", ["esp32-c3-devkit", "host"])
def test_the_component_manager_takes_the_manifest(board: str, tmp_path: Path) -> None:
    """By the IDF Component Manager's own linter."""
    compote = Path(sys.executable).parent / "compote"
    if not compote.exists():
        missing("idf-component-manager is not installed")
    written("esp-idf", board, tmp_path)
    done = run([compote, "manifest", "lint", tmp_path], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = tmp_path / "idf_component.yml"
    targets = yaml.safe_load(manifest.read_text()).get("targets")
    assert targets == (["esp32c2", "esp32c3", "esp32c6", "esp32h2"] if board != "host" else None)
    manifest.write_text(manifest.read_text().replace('"0.1.0"', '"x"'))
    assert run([compote, "manifest", "lint", tmp_path], tmp_path).returncode == 1


# Of PACK.xsd 1.7.32 (Open-CMSIS-Pack-Spec): what must be there, and the values that are used here.
PACK_REQUIRED = {"name", "vendor", "description", "url", "releases"}
PACK_KNOWN = PACK_REQUIRED | {"license", "keywords", "conditions", "components"}
PACK_ATTRIBUTES = {
    "component": ({"Cclass", "Cgroup", "Cversion"}, {"Csub", "condition"}),
    "file": ({"category", "name"}, {"scope", "language", "attr", "select"}),
    "require": (set(), {"Dcore"}),
    "condition": ({"id"}, set()),
    "release": ({"version"}, set()),
}
PACK_CATEGORIES = {"doc", "include", "header", "source"}
PACK_CORES = {"Cortex-M0", "Cortex-M0+", "Cortex-M3", "Cortex-M4", "Cortex-M7", "Cortex-M33", "Cortex-M55"}


@pytest.mark.parametrize("board", ["nucleo", "microbit", "mps2-an383", "mps3-an547", "host"])
def test_a_pack_describes_what_it_holds(board: str) -> None:
    files = exported("cmsis-pack", board)
    package = ElementTree.fromstring(files["mcugen.tiny.pdsc"])
    children = [child.tag for child in package]
    assert PACK_REQUIRED <= set(children) <= PACK_KNOWN and len(set(children)) == len(children)
    for tag, (required, optional) in PACK_ATTRIBUTES.items():
        for element in package.iter(tag):
            assert required <= set(element.attrib) <= required | optional
    assert re.fullmatch(r"[\-_A-Za-z0-9]+", package.findtext("name", ""))
    conditions = {element.get("id") for element in package.iter("condition")}
    (component,) = package.iter("component")
    assert ({component.get("condition")} if board != "host" else set()) == conditions
    assert {element.get("Dcore") for element in package.iter("require")} <= PACK_CORES
    listed = [(element.attrib["category"], element.attrib["name"]) for element in package.iter("file")]
    assert {category for category, _ in listed} <= PACK_CATEGORIES
    languages = {element.attrib["name"]: element.get("language") for element in package.iter("file")}
    assert all(languages[name] == {".c": "c", ".S": "asm"}.get(Path(name).suffix) for name in languages)
    for category, name in listed:
        assert any(path.startswith(name) for path in files) if category == "include" else name in files
    assert package.findtext("license") in files

    with zipfile.ZipFile(io.BytesIO(files["mcugen.tiny.0.1.0.pack"])) as pack:
        held = {name: pack.read(name) for name in pack.namelist()}
        assert {entry.date_time for entry in pack.infolist()} == {(1980, 1, 1, 0, 0, 0)}  # not the day's
    assert held == {path: content for path, content in files.items() if not path.endswith(".pack")}
