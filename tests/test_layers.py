"""Imports point down, passes do not know each other, and every outside library has one door."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mcugen

PACKAGE = Path(mcugen.__file__).resolve().parent

# A module imports only modules of lower ranks, with its own package's submodules alike.
RANKS = {
    0: ("", "errors", "resources", "tables", "layouts", "packing.stream", "sheet", "statistics", "tflm", "microtvm", "unicode_ranges"),
    1: ("packing.row_major", "packing.dsp", "packing.mve", "packing.rv32", "packing.row_digits", "ir", "cores", "cache", "ctext", "sweep", "emulate.registers", "emulate.gdb", "emulate.instructions",
        "tflm.model", "microtvm.mlf", "workers", "recipes", "rounding", "split"),
    # what one thing is or how it is stored: numerics, files, boards, vocabularies, one machine's memory
    2: ("reference", "kernels", "plain", "cycles", "sampler", "packing", "families", "tokenizer", "weights", "boards", "ports", "flags", "images", "project",
        "emulate", "emulate.second_core", "emulate.machine", "emulate.elf", "emulate.cortex_m_registers", "emulate.host_console",
        "emulate.host_worker", "tflm.arena", "tflm.flatbuffer", "tflm.interpreter_worker"),
    3: ("board_file", "console", "lora", "checkpoints", "huggingface", "gguf_file", "gptq", "mixed", "quantized_file", "lower", "simulate", "plan", "placement", "fit", "rendering", "toolchain", "emulate.host", "tokenizer_json", "vocabulary", "flashing",
        "emulate.qemu", "emulate.stm32", "emulate.mps2", "emulate.rp2", "emulate.nrf5", "emulate.imxrt1062", "emulate.esp32c3", "emulate.virt", "tflm.lowering", "tflm.interpreter", "microtvm.functions", "microtvm.intrinsics"),
    4: ("render", "export", "serial_console", "quantize", "evaluate", "layer_errors", "generate", "verify", "plan_report", "emulate.profile_hook", "emulate.count_plugin",
        "emulate.stm32f4", "emulate.stm32g4", "emulate.stm32h5", "emulate.stm32h7", "emulate.stm32l4", "emulate.stm32u5",
        "tflm.render", "microtvm.builder", "microtvm.ctidy", "microtvm.program", "microtvm.render"),
    5: ("emulate.unicorn_machine", "emulate.qemu_core", "fc8", "prune", "distill", "cases", "stream", "microtvm.tir_linear"),
    6: ("emulate.cortex_m", "emulate.riscv", "emulate.qemu_machine", "sources", "microtvm.tir"),
    7: ("emulate.machines", "integers", "layout", "microtvm.emit_worker"),
    8: ("ladder", "bench", "gemv", "tflm.layout", "microtvm.emitter"),
    9: ("pipeline", "bench_report", "costs", "tflm.rungs", "microtvm.jit", "microtvm.layout"),
    10: ("tflm.report", "microtvm.rungs", "trials", "matrix"),
    11: ("tflm.target", "microtvm.target", "eval_report"),
    12: ("sweep_plot",),
    13: ("cli.terminal", "cli.options"),
    14: ("cli.choice",),
    15: ("cli.boards", "cli.firmware", "cli.quality"),
    16: ("cli",),
    17: ("__main__",),
}  # fmt: skip
RANK = {module: rank for rank, modules in RANKS.items() for module in modules}

# What turns a value of ir.py into the next one. reference and simulate, the two interpreters of a model, are not
# among them: whoever measures or compares runs them.
PASSES = {
    "checkpoints",
    "huggingface",
    "gguf_file",
    "quantize",
    "lower",
    "plan",
    "placement",
    "render",
    "toolchain",
    "verify",
    "evaluate",
}

COMMANDS = {name for names in RANKS.values() for name in names if name.split(".")[0] == "cli"}
DOORS = {
    "click": COMMANDS,
    "rich": {"cli.terminal", "cli.boards", "cli.firmware"},
    "jinja2": {"rendering"},
    "subprocess": {
        "toolchain",
        "flashing",
        "emulate.host",
        "emulate.host_console",
        "emulate.qemu",
        "emulate.qemu_core",
        "tflm.interpreter",
        "microtvm.emitter",
    },
    "tvm": {"microtvm.builder", "microtvm.emit_worker", "microtvm.tir", "microtvm.tir_linear"},
    "tflite_micro": {"tflm.interpreter_worker"},
    "tomllib": {"boards", "recipes"},
    "unicorn": {"emulate.unicorn_machine", "emulate.cortex_m", "emulate.riscv"},
    "elftools": {"toolchain", "images", "emulate.elf"},
    "flatbuffers": {"tflm.flatbuffer"},
    "intelhex": {"images"},
    "gguf": {"gguf_file"},
    "matplotlib": {"sweep_plot"},
    "serial": {"serial_console"},
    "safetensors": {"quantized_file", "huggingface", "lora"},
    "torch": {"distill", "models.training", "models.home.train", "models.tales.train"},
}
ANYWHERE = {"numpy", *sys.stdlib_module_names} - set(DOORS)
WRITERS = {"project", "cache", "toolchain", "emulate.host", "emulate.host_console", "emulate.profile_hook",
           "emulate.qemu", "emulate.qemu_core", "emulate.count_plugin", "tflm.interpreter"}  # fmt: skip
PRINTERS = {*COMMANDS, "emulate.host_worker"}  # and the scripts of mcugen/models


def module_name(path: Path) -> str:
    """mcugen/emulate/host.py -> "emulate.host"; the package itself is ""."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
SCRIPTS = {name for name in SOURCES if name.startswith("models.")}  # projects of their own, above the passes


def imports(source: str, modules: set[str], package: str = "") -> Iterator[str]:
    """Modules that a source in `package` imports, "mcugen.lower" as "lower"; `from mcugen import lower` is lower, too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level < 2, "an import from a package above"
            start = ".".join(filter(None, ("mcugen", package, node.module))) if node.level else str(node.module)
            below = [f"{start}.{alias.name}" for alias in node.names]
            names = [name if _own(name) in modules else start for name in below]
        else:
            continue
        yield from (_own(name) if name.split(".")[0] == "mcugen" else name.split(".")[0] for name in names)


def _own(name: str) -> str:
    return name.removeprefix("mcugen").removeprefix(".")


def of(module: str) -> set[str]:
    path = SOURCES[module]
    return set(imports(path.read_text(encoding="utf-8"), set(SOURCES), module_name(path.parent / "__init__.py")))


def test_every_module_has_one_rank() -> None:
    assert set(RANK) == set(SOURCES) - SCRIPTS
    assert sum(map(len, RANKS.values())) == len(RANK)


@pytest.mark.parametrize("module", sorted(RANK))
def test_imports_point_down(module: str) -> None:
    above = {name for name in of(module) & set(SOURCES) if RANK.get(name, 99) >= RANK[module]}
    assert not above, f"{module} (rank {RANK[module]}) imports {above}"


@pytest.mark.parametrize("module", sorted(PASSES))
def test_a_pass_does_not_know_another(module: str) -> None:
    assert not of(module) & (PASSES - {module})


@pytest.mark.parametrize("module", sorted(SCRIPTS))
def test_a_bundled_model_is_made_by_the_passes_and_by_none_above_them(module: str) -> None:
    assert all(name in SCRIPTS or RANK[name] < RANK["pipeline"] for name in of(module) & set(SOURCES))


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_every_outside_library_has_its_door(module: str) -> None:
    for name in of(module) - set(SOURCES):
        assert name in ANYWHERE or module in DOORS.get(name, set()), f"{module} imports {name}"


@pytest.mark.parametrize("library", sorted(DOORS))
def test_every_door_is_used(library: str) -> None:
    assert {module for module in SOURCES if library in of(module)} == DOORS[library]


def calls(source: str) -> set[str]:
    """Names that a source calls: print, sys.exit, and methods as .write_bytes."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                found.add(node.func.id)
            elif isinstance(node.func, ast.Attribute):
                found |= {f".{node.func.attr}", ast.unparse(node.func)}
    return found


@pytest.mark.parametrize("module", sorted(set(SOURCES) - SCRIPTS))
def test_library_code_neither_prints_nor_exits_nor_writes(module: str) -> None:
    called = calls(SOURCES[module].read_text(encoding="utf-8"))
    if module not in PRINTERS:
        assert not called & {"print", "input", "exit", "sys.exit", "os._exit", "sys.stdout.write", "sys.stderr.write"}
    if module not in WRITERS:
        assert not called & {".write_bytes", ".write_text", ".mkdir", ".unlink", "os.replace", "tempfile.mkdtemp"}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import mcugen.lower", {"lower"}),
        ("from mcugen import plan, __version__", {"plan", ""}),
        ("from mcugen.emulate import qemu", {"emulate.qemu"}),
        ("from mcugen.ir import Board", {"ir"}),
        ("def f():\n    import click.testing", {"click"}),
        ("from xml.sax import handler", {"xml"}),
    ],
)
def test_imports_are_seen_wherever_they_are(source: str, found: set[str]) -> None:
    assert set(imports(source, set(SOURCES))) == found


def test_calls_are_seen_wherever_they_are() -> None:
    assert calls("def f():\n    p.write_bytes(print(1))\n    sys.exit()") >= {".write_bytes", "print", "sys.exit"}
