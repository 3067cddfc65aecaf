"""The generated C project: one tiny model's, pinned file by file; it compiles anywhere, and names no machine.

Refresh tests/golden with `pytest tests/test_render.py --update-golden`, and read the difference.
"""

from __future__ import annotations

import dataclasses
import functools
import getpass
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import ladder
import numpy as np
import pytest
import zoo
from tools import require_program

from mcugen import __version__
from mcugen import ladder as rungs
from mcugen import layout as layouts
from mcugen.ctext import RESERVED
from mcugen.ir import Board, Config, Linear, Norm, Project, QuantizedLayer, QuantizedModel
from mcugen.layout import Layout
from mcugen.resources import data_dir
from mcugen.simulate import simulate
from mcugen.toolchain import build

GOLDEN = Path(__file__).resolve().parent / "golden"
COMMAND = "mcugen build tiny.bin --tokenizer tiny-tokenizer.bin --board nucleo-f446re"
SHAPE = Config(8, 12, 1, 2, 1, 16, 8, False)
LINE = 120


def ramp(*shape: int, step: int, low: int, high: int) -> np.ndarray:
    """Integers in [low, high] that look random and are the same everywhere: no float, no generator."""
    return (np.arange(np.prod(shape)) * step % (high - low + 1) + low).reshape(shape)


def linear(rows: int, cols: int, step: int, shift: int = 14) -> Linear:
    codes = ramp(rows, cols, step=step, low=-127, high=127).astype(np.int8)
    return Linear(codes, ramp(rows, step=331 * step, low=16384, high=32767).astype(np.int16), shift)


def norm(step: int) -> Norm:
    return Norm(ramp(SHAPE.dim, step=step, low=9000, high=23000).astype(np.int16), 0)


@functools.cache
def tiny(name: str = "tiny") -> Layout:
    """The golden model: one layer of dim 8, 16 pieces, every integer by formula."""
    dim, hidden, kv, vocab = SHAPE.dim, SHAPE.hidden_dim, SHAPE.kv_dim, SHAPE.vocab_size
    layer = QuantizedLayer(
        att_norm=norm(1009), wq=linear(dim, dim, 37), wk=linear(kv, dim, 41), wv=linear(kv, dim, 43, shift=20),
        key_zero=ramp(kv, step=1234567, low=-4000000, high=4000000).astype(np.int32), key_shift=7,
        score=np.array([20000, 24000], np.int16), score_shift=27, wo=linear(dim, dim, 47), ffn_norm=norm(2003),
        w1=linear(hidden, dim, 53), w3=linear(hidden, dim, 59), gate_frac=11, swiglu_shift=11,
        w2=linear(dim, hidden, 61),
    )  # fmt: skip
    model = QuantizedModel(
        name, SHAPE, linear(vocab, dim, 67, shift=15), (layer,), norm(3001), linear(vocab, dim, 71, shift=9), 1884,
        np.array([683565276, 6835653], np.uint32), 16, "5eed" * 16, "by formula",
    )  # fmt: skip
    return layouts.lay_out(model, zoo.random_tokenizer(vocab), ladder.NUCLEO, 6)


def rendered(layout: Layout, board: Board | None = None) -> Project:
    return layouts.make_project(layout, COMMAND, board)


def generated(project: Project) -> dict[str, str]:
    """The files that are not copied from firmware/."""
    firmware = data_dir("firmware")
    return {
        path: content.decode()
        for path, content in project.files.items()
        if not (firmware / path).is_file() or (firmware / path).read_bytes() != content
    }


# ---------------------------------------------------------------- the golden project


def test_the_golden_project_is_what_is_rendered(update_golden: bool) -> None:
    files = generated(rendered(tiny()))
    if update_golden:
        for path in GOLDEN.glob("*"):
            path.unlink()
        GOLDEN.mkdir(exist_ok=True)
        for path, content in files.items():
            (GOLDEN / path).write_text(content, encoding="utf-8", newline="\n")
    assert sorted(files) == [
        "Makefile", "README.md", "linker.ld", "main.c", "tiny.c", "tiny.h", "tiny_vocabulary.c", "tiny_weights.c",
        "tiny_weights.h",
    ]  # fmt: skip
    assert sorted(path.name for path in GOLDEN.iterdir()) == sorted(files)
    for path, content in files.items():
        assert content.splitlines() == (GOLDEN / path).read_text(encoding="utf-8").splitlines(), (
            f"{path} has changed: if it was meant to, pytest tests/test_render.py --update-golden"
        )


def golden_project() -> Project:
    """The files of tests/golden with the firmware's: what is compiled is what was read."""
    project = rendered(tiny())
    return dataclasses.replace(
        project, files={**project.files, **{path.name: path.read_bytes() for path in GOLDEN.iterdir()}}
    )


@pytest.mark.parametrize("toolchain", ["gcc", "zig"])
def test_the_golden_project_compiles_clean_for_the_board(toolchain: str) -> None:
    firmware = build(golden_project(), ladder.require(toolchain, ladder.NUCLEO))
    assert 0 < firmware.flash_bytes < 16 * 1024
    assert firmware.static_bytes + firmware.stack_bytes < 4 * 1024


@pytest.mark.parametrize("toolchain", ["gcc", "zig"])
def test_the_project_compiles_clean_for_the_host(toolchain: str) -> None:
    firmware = build(rendered(tiny(), ladder.HOST), ladder.require(toolchain, ladder.HOST))
    assert firmware.image


def written(project: Project, folder: Path) -> Path:
    for path, content in project.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def make(folder: Path, *arguments: str) -> None:
    """Run make with nothing of mcugen in reach, but for zig, which is a Python package."""
    make = require_program("make")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**{k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "PYTHON"))}, "PATH": path}
    done = subprocess.run(
        [make, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stderr


@pytest.mark.parametrize("toolchain", ["gcc", "zig"])
def test_make_builds_the_same_firmware_without_mcugen(toolchain: str, tmp_path: Path) -> None:
    found = ladder.require(toolchain, ladder.NUCLEO)
    make(written(rendered(tiny()), tmp_path), f"TOOLCHAIN={toolchain}")
    assert (tmp_path / "build" / "tiny.elf").read_bytes() == build(rendered(tiny()), found).image
    assert (tmp_path / "build" / "tiny.bin").exists() == (toolchain == "gcc")
    make(tmp_path, "clean")
    assert not (tmp_path / "build").exists()


def test_make_builds_the_application_on_the_host(tmp_path: Path) -> None:
    require_program("cc")
    layout = tiny()
    make(written(rendered(layout, ladder.HOST), tmp_path))
    done = subprocess.run(
        [tmp_path / "build" / "tiny"], input=b"#check 5\n", capture_output=True, check=True, timeout=60
    )
    tokens = rungs.verification_tokens(layout.graph, layout.tokenizer, 5)
    assert done.stdout == b"tiny on host\n\x04" + rungs.check_lines(layout.graph, tokens) + b"\x04"


def test_the_library_works_in_a_program_of_ones_own(tmp_path: Path) -> None:
    """As the project's README has it: the model's files, kernels/ and runtime/, and nothing else."""
    cc = require_program("cc")
    layout = tiny()
    project = rendered(layout, ladder.HOST)
    kept = {p: c for p, c in project.files.items() if p.startswith(("tiny", "kernels/", "runtime/"))}
    written(dataclasses.replace(project, files=kept), tmp_path)
    program = """#include "tiny.h"
#include <stdio.h>

int main(void)
{
    tiny_init();
    const int32_t *logits = tiny_step(tiny_model.tokenizer->bos);
    for (int32_t i = 0; i < TINY_VOCAB_SIZE; i++) {
        (void)printf("%ld ", (long)logits[i]);
    }
    return 0;
}
"""
    (tmp_path / "own.c").write_text(program, encoding="utf-8")
    sources = ["own.c", *sorted(path for path in kept if path.endswith(".c"))]
    includes = ["-I.", "-Ikernels", "-Iruntime"]
    subprocess.run([cc, "-std=c99", *includes, *sources, "-o", "own"], cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "own"], capture_output=True, text=True, check=True)
    expected = simulate(layout.graph, [layout.tokenizer.bos]).outputs[-1][0][0]
    assert list(map(int, done.stdout.split())) == expected.tolist()


# ---------------------------------------------------------------- the same bytes everywhere

SCRIPT = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
import conftest, test_render
project = test_render.rendered(test_render.tiny())
print(hashlib.sha256(repr((sorted(project.files.items()), project.sources, project.include_dirs)).encode()).hexdigest())
"""


def test_two_processes_render_the_same_bytes(tmp_path: Path) -> None:
    tests = Path(__file__).resolve().parent
    found = set()
    for seed, folder in (("1", tests.parent), ("2", tmp_path)):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(tests.parent)}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tests)], cwd=folder, env=environment, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        found.add(done.stdout)
    assert len(found) == 1


@pytest.mark.parametrize("board", [ladder.NUCLEO, ladder.HOST], ids=["nucleo", "host"])
def test_no_file_names_a_machine_a_person_or_a_day(board: Board) -> None:
    project = rendered(tiny(), board)
    names = {getpass.getuser(), socket.gethostname(), str(Path.home()), str(Path(__file__).parent.parent), "/tmp"}
    for path, content in project.files.items():
        text = content.decode()
        for name in names - {"root"}:
            assert not re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", text), f"{path} holds {name}"
        assert not re.search(r"/(home|root|Users|usr|work)/|[A-Z]:\\", text), path
        assert not re.search(r"\b20[2-9]\d-\d\d-\d\d|\d\d:\d\d:\d\d", text), path
        assert "\r" not in text
        assert path in generated(project) or (data_dir("firmware") / path).is_file()


# ---------------------------------------------------------------- readable C


@pytest.mark.parametrize("board", [ladder.NUCLEO, ladder.HOST], ids=["nucleo", "host"])
def test_generated_text_is_laid_out_as_by_hand(board: Board) -> None:
    for path, text in generated(rendered(tiny("a_rather_long_name_of_a_model"), board)).items():
        lines = text.splitlines()
        assert text.endswith("\n") and not text.endswith("\n\n"), path
        assert "\n\n\n" not in text, path
        assert not any(line != line.rstrip() for line in lines), path
        assert max(map(len, lines)) <= LINE or path == "README.md", path  # prose with the name in it
        assert "{{" not in text and "{%" not in text, path


def test_the_interface_fits_on_one_screen() -> None:
    assert len(generated(rendered(tiny()))["tiny.h"].splitlines()) <= 48


@pytest.mark.parametrize(
    "path", ["tiny.c", "tiny.h", "tiny_weights.c", "tiny_weights.h", "tiny_vocabulary.c", "main.c"]
)
def test_every_c_file_says_where_it_comes_from(path: str) -> None:
    layout = tiny()
    assert generated(rendered(layout))[path].splitlines()[:4] == [
        f"/* Generated by mcugen {__version__}. Do not edit; run again:",
        f" *   {COMMAND}",
        f" * checkpoint sha256 {layout.graph.model.sha256}",
        f" * board sha256      {layout.board.sha256} */",
    ]


def test_the_forward_pass_reads_as_a_list_of_calls() -> None:
    source = generated(rendered(tiny()))["tiny.c"]
    assert (
        "    /* 0: embedding: token -> int16[8] */\n"
        "    mg_embed_s16(s16(EMBEDDING), token, &tiny_embedding);\n"
        "    mg_op_done(0);\n"
        "\n"
        "    /* 1: layers.0.att_norm: int16[8] -> int16[8] */\n"
    ) in source
    announced = [int(number) for number in re.findall(r"mg_op_done\((\d+)\);", source)]
    assert sorted(announced) == list(range(len(tiny().graph.ops) + 1))


def test_the_prototype_is_aligned_with_its_name() -> None:
    header = generated(rendered(tiny()))["tiny.h"]
    assert (
        "int32_t tiny_generate(mg_sampler_t *sampler, const char *prompt, int32_t length, int32_t max_tokens,\n"
        "                      mg_emit_t emit, void *context);\n"
    ) in header


# ---------------------------------------------------------------- names and sizes


@pytest.mark.parametrize("name", ["main", "kernels", "generate", "15M", "Größe 2", "stdint"])
def test_a_model_of_any_name_compiles(name: str) -> None:
    project = rendered(tiny(name), ladder.HOST)
    assert project.name.removeprefix("model_") not in RESERVED or project.name.startswith("model_")
    assert len(project.files) == len(rendered(tiny(), ladder.HOST).files)  # none replaces another
    assert build(project, ladder.require("gcc", ladder.HOST)).image
