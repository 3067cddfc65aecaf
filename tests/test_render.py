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
from mcugen.boards import load_board
from mcugen.ctext import RESERVED
from mcugen.ir import Config, Linear, Norm, Project, QuantizedLayer, QuantizedModel
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


def linear(rows: int, cols: int, step: int, shift: int = 29, bits: int = 8) -> Linear:
    multiplier = ramp(rows, step=331 * step, low=16384, high=32767).astype(np.int16)
    if bits == 8:
        return Linear(ramp(rows, cols, step=step, low=-127, high=127).astype(np.int8), multiplier, shift)
    codes = ramp(rows, cols, step=step, low=-8, high=7).astype(np.int8)
    group_scale = ramp(rows, -(-cols // 32), step=step, low=-127, high=127).astype(np.int8)
    return Linear(codes, multiplier, shift, 4, 32, group_scale)


def norm(step: int) -> Norm:
    return Norm(ramp(SHAPE.dim, step=step, low=9000, high=23000).astype(np.int16), 0, 1884)


@functools.cache
def tiny(name: str = "tiny", board: str = "nucleo", batch: int = 1, bits: int = 8) -> Layout:
    """The golden model: one layer of dim 8, 16 pieces, every integer by formula."""
    dim, hidden, kv, vocab = SHAPE.dim, SHAPE.hidden_dim, SHAPE.kv_dim, SHAPE.vocab_size
    matrix = functools.partial(linear, bits=bits)
    layer = QuantizedLayer(
        att_norm=norm(1009), wq=matrix(dim, dim, 37), wk=matrix(kv, dim, 41), wv=matrix(kv, dim, 43, shift=32),
        key_zero=ramp(kv, step=1234567, low=-4000000, high=4000000).astype(np.int32), key_shift=7,
        score_shift=12, wo=matrix(dim, dim, 47), ffn_norm=norm(2003),
        w1=matrix(hidden, dim, 53), w3=matrix(hidden, dim, 59), gate_frac=11, swiglu_shift=11,
        w2=matrix(dim, hidden, 61),
    )  # fmt: skip
    model = QuantizedModel(
        name, SHAPE, linear(vocab, dim, 67, shift=15), (layer,), norm(3001), linear(vocab, dim, 71, shift=24),
        np.array([683565276, 6835653], np.uint32), 16, "5eed" * 16, "by formula",
    )  # fmt: skip
    return layouts.lay_out(model, zoo.random_tokenizer(vocab), load_board(board), 6, batch)


BOARDS = pytest.mark.parametrize("board", ["nucleo", "host"])


def rendered(layout: Layout) -> Project:
    return layouts.make_project(layout, COMMAND)


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
    del files["build_id.h"]  # changes with any file of firmware/; tests/test_build_id.py looks into it
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
    assert 0 < firmware.flash_bytes < 28 * 1024
    assert firmware.static_bytes + firmware.stack_bytes < 4 * 1024


@pytest.mark.parametrize("toolchain", ["gcc", "zig"])
def test_the_project_compiles_clean_for_the_host(toolchain: str) -> None:
    for batch, bits in ((1, 8), (1, 4), (8, 8), (8, 4)):
        layout = tiny(board="host", batch=batch, bits=bits)
        assert build(rendered(layout), ladder.require(toolchain, ladder.HOST)).image


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
    layout = tiny(board="host")
    make(written(rendered(layout), tmp_path))
    done = subprocess.run(
        [tmp_path / "build" / "tiny"], input=b"#check 5\n", capture_output=True, check=True, timeout=60
    )
    tokens = rungs.verification_tokens(layout.graph, layout.tokenizer, 5)
    assert done.stdout == b"tiny on host\n\x04" + rungs.check_lines(layout.graph, tokens) + b"\x04"


@pytest.mark.parametrize("batch", [1, 3])
def test_the_library_works_in_a_program_of_ones_own(batch: int, tmp_path: Path) -> None:
    """As the project's README has it: the model's files, kernels/ and runtime/, and nothing else."""
    cc = require_program("cc")
    layout = tiny(board="host", batch=batch)
    project = rendered(layout)
    kept = {p: c for p, c in project.files.items() if p.startswith(("tiny", "kernels/", "runtime/"))}
    written(dataclasses.replace(project, files=kept), tmp_path)
    program = """#include "tiny.h"
#include <stdio.h>

int main(void)
{
    static const uint16_t prompt[] = {1, 7, 7, 15, 0, 9, 3, 4, 5};
    tiny_init();
    tiny_read(prompt, sizeof prompt / sizeof prompt[0]);
    const int32_t *logits = tiny_step(12);
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
    expected = simulate(layout.graph, [1, 7, 7, 15, 0, 9, 3, 4, 5, 12]).outputs[-1][0][-1]
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


@BOARDS
def test_no_file_names_a_machine_a_person_or_a_day(board: str) -> None:
    project = rendered(tiny(board=board))
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


@pytest.mark.parametrize(("batch", "bits"), [(1, 8), (8, 4)])
@BOARDS
def test_generated_text_is_laid_out_as_by_hand(board: str, batch: int, bits: int) -> None:
    for path, text in generated(rendered(tiny("a_rather_long_name_of_a_model", board, batch, bits))).items():
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


def body(source: str, head: str) -> str:
    """What stands between the braces of a function."""
    return source.split(f"{head}\n{{\n")[1].split("\n}\n")[0]


def test_the_forward_pass_reads_as_a_list_of_calls() -> None:
    source = generated(rendered(tiny(board="host")))["tiny.c"]
    layers = body(source, "static void layers(const uint16_t *token)")
    assert layers.startswith(
        "    /* 0: embedding: token -> int16[8] */\n"
        "    mg_embed_s16(s16(EMBEDDING), *token, &tiny_embedding);\n"
        "    mg_op_done(0);\n"
        "\n"
        "    /* 1: layers.0.att_norm: int16[8] -> int16[8] */\n"
    )
    announced = [int(number) for number in re.findall(r"mg_op_done\((\d+)\);", source)]
    assert sorted(announced) == list(range(len(tiny().graph.ops) + 1))
    assert "for (" not in layers


def test_keys_and_values_go_into_the_ring_at_its_slot() -> None:
    layers = body(generated(rendered(tiny(board="host")))["tiny.c"], "static void layers(const uint16_t *token)")
    for text in (
        "mg_rope_s8(s8(LAYER0_KEYS), ring.slot, s16(LAYER0_WK), ring.position, &tiny_layer0_keys_rope);",
        "mg_linear_s8(s8(LAYER0_VALUES), ring.slot, s8(LAYER0_ATT_NORM_CODES), scale(LAYER0_ATT_NORM_SCALE), 1, "
        "&tiny_layer0_wv);",
    ):
        assert text in re.sub(r"\s+", " ", layers)


def test_several_tokens_are_a_loop_around_a_call_or_its_argument() -> None:
    """Matrices take all tokens in one call; other ops one after the other; the head is of a single one."""
    layout = tiny(board="host", batch=4)
    source = generated(rendered(layout))["tiny.c"]
    layers = body(source, "static void layers(const uint16_t *token, int32_t tokens)")
    head = body(source, "static void head(void)")
    assert layers.startswith(
        "    /* 0: embedding: token -> int16[4][8] */\n"
        "    for (int32_t t = 0; t < tokens; t++) {\n"
        "        mg_embed_s16(s16(EMBEDDING) + t * 8, token[t], &tiny_embedding);\n"
        "    }\n"
        "    mg_op_done(0);\n"
    )
    looped = re.findall(r"    for \(int32_t t = 0; t < tokens; t\+\+\) {\n        (\w+)\(", layers)
    once = re.findall(r"^    (mg_\w+)\(", layers, re.MULTILINE)
    ops = [op.variant.symbol for op in layout.graph.ops if not op.last]
    assert looped == [symbol for symbol in ops if not symbol.startswith("mg_linear")]
    assert [name for name in once if name != "mg_op_done"] == [s for s in ops if s.startswith("mg_linear")]
    for text in (
        "mg_rope_s8(s8(LAYER0_KEYS), ring.slot + t, s16(LAYER0_WK) + t * 4, ring.position + t, &tiny_layer0_keys_rope);",
        "mg_block_s8(s8(LAYER0_SWIGLU_CODES) + t * 12, scale(LAYER0_SWIGLU_SCALE) + t, s16(LAYER0_SWIGLU) + t * 12, 12);",
        "ring.length + t, &tiny_layer0_attention);",
        "scale(LAYER0_ATT_NORM_SCALE), tokens,",
    ):
        assert text in re.sub(r"\s+", " ", layers)
    assert "mg_rmsnorm_s16(s16(FINAL_NORM), s16(LAYER0_W2), &tiny_final_norm);" in head
    assert "scale(FINAL_NORM_SCALE), 1, &tiny_logits);" in re.sub(r"\s+", " ", head)
    assert "t * " not in head
    step = body(source, "const int32_t *tiny_step(int32_t token)")
    assert "    layers(&id, 1);\n    head();\n" in step


def test_only_views_that_are_used_are_there() -> None:
    """Or a compiler warns of a static function that nobody calls."""
    source = generated(rendered(tiny(board="host")))["tiny.c"]
    assert set(re.findall(r"^static \w+ \*(\w+)\(int32_t offset\)", source, re.MULTILINE)) == {
        "s8", "s16", "s32", "scale",
    }  # fmt: skip


def test_a_weight_says_its_bits_and_its_layout() -> None:
    for bits in (8, 4):
        weights = generated(rendered(tiny(board="host", bits=bits)))["tiny_weights.c"]
        groups = ", groups of 32" if bits == 4 else ""
        assert f"int{bits} [12][8]{groups}, row-major" in weights
        assert "int8 [16][8], row-major" in weights  # the classifier's, always
        assert (".group = 32" in weights) == (bits == 4)


def test_the_prototype_is_aligned_with_its_name() -> None:
    header = generated(rendered(tiny()))["tiny.h"]
    assert (
        "int32_t tiny_generate(mg_sampler_t *sampler, const char *prompt, int32_t length, int32_t max_tokens,\n"
        "                      mg_emit_t emit, void *context);\n"
    ) in header


# ---------------------------------------------------------------- names and sizes


@pytest.mark.parametrize("name", ["main", "kernels", "generate", "15M", "Größe 2", "stdint"])
def test_a_model_of_any_name_compiles(name: str) -> None:
    project = rendered(tiny(name, "host"))
    assert project.name.removeprefix("model_") not in RESERVED or project.name.startswith("model_")
    assert len(project.files) == len(rendered(tiny(board="host")).files)  # none replaces another
    assert build(project, ladder.require("gcc", ladder.HOST)).image
