"""Which build a firmware is: the same inputs give the same id and the same bytes, wherever they are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import ladder
import pytest
import zoo
from projects import require

from mcugen import layout as layouts
from mcugen import pipeline, sources
from mcugen.checkpoints import write_checkpoint
from mcugen.emulate.elf import parse_elf
from mcugen.ir import Config
from mcugen.layout import Layout
from mcugen.rendering import build_id
from mcugen.tokenizer import write_tokenizer
from mcugen.toolchain import to_bin

SHAPE = Config(16, 12, 1, 2, 1, 24, 12, False)
ROOT = Path(pipeline.__file__).resolve().parent.parent


def layout(**changes: int) -> Layout:
    return ladder.laid_out(SHAPE, 12, **changes)


def test_the_id_is_that_of_all_files_but_its_own() -> None:
    files = layouts.make_project(layout(), ladder.COMMAND).files
    known = build_id(files)
    assert f'#define MG_BUILD_ID "{known}"\n'.encode() in files["build_id.h"]
    assert build_id({**files, "build_id.h": b"another"}) == known
    assert build_id(dict(reversed(files.items()))) == known
    others = {build_id({**files, path: content + b" "}) for path, content in files.items() if path != "build_id.h"}
    renamed = build_id({f"{path}x": content for path, content in files.items()})
    assert len({known, renamed, *others}) == len(files) + 1


def test_another_model_context_or_command_is_another_build() -> None:
    commands = [(layout(), ladder.COMMAND), (layout(seed=1), ladder.COMMAND), (layout(), "mcugen build other.bin"),
                (ladder.laid_out(SHAPE, 11), ladder.COMMAND), (layout(batch=4), ladder.COMMAND)]  # fmt: skip
    assert len({build_id(layouts.make_project(*made).files) for made in commands}) == len(commands)


@pytest.mark.parametrize("toolchain", ["zig", "gcc"])
def test_the_elf_carries_the_id(toolchain: str) -> None:
    firmware = ladder.board_firmware(layout(), toolchain)
    (symbol,) = [s for s in parse_elf(firmware.image).symbols if s.name == "mg_build_id"]
    at = symbol.address - layout().board.flash.origin
    known = build_id(layouts.make_project(layout(), ladder.COMMAND).files)
    assert to_bin(firmware.image)[at : at + symbol.size] == known.encode() + b"\0"


def source_files(folder: Path) -> list[str]:
    """A checkpoint and its vocabulary in a folder; returns how a command names them there."""
    (folder / "random.bin").write_bytes(write_checkpoint(zoo.model_of(SHAPE)))
    (folder / "random.tok").write_bytes(write_tokenizer(zoo.random_tokenizer(SHAPE.vocab_size)))
    return ["random.bin", "--tokenizer", "random.tok"]


def built(place: Path, toolchain: str, board: str) -> dict[str, bytes]:
    """All that `mcugen build` writes, by a copy of mcugen at `place`, with nothing cached."""
    for name in ("mcugen", "firmware", "templates", "boards"):
        ignored = shutil.ignore_patterns("__pycache__", "models")
        shutil.copytree(ROOT / name, place / "checkout" / name, ignore=ignored)
    (place / "checkout" / "mcugen" / "models").symlink_to(ROOT / "mcugen" / "models")
    work = place / "work"
    (work / "tmp").mkdir(parents=True)
    arguments = ["build", *source_files(work), "--board", board, "--toolchain", toolchain, "--verify-tokens", "0"]
    environment = {**os.environ, "PYTHONPATH": str(place / "checkout"), "MCUGEN_CACHE": str(work / "cache"),
                   "TMPDIR": str(work / "tmp"), "HOME": str(work), "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
    command = [sys.executable, "-m", "mcugen", *arguments, "--out", "out"]
    subprocess.run(command, cwd=work, env=environment, check=True, capture_output=True)
    return files_below(work / "out")


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("toolchain", [pytest.param("zig", marks=pytest.mark.slow), "gcc"])
def test_two_checkouts_build_the_same_bytes(toolchain: str, tmp_path: Path) -> None:
    """Nothing of a place, of when, or of a cache is in what is built."""
    require(toolchain, ladder.NUCLEO)
    one, other = (built(tmp_path / place, toolchain, "nucleo") for place in ("a", "another-place"))
    assert {"firmware.elf", "firmware.bin", "firmware.hex", "build-info.json"} <= set(one)
    assert [path for path in one.keys() | other.keys() if one.get(path) != other.get(path)] == []
    assert not [path for path, content in one.items() if str(tmp_path).encode() in content]


def built_folder(out: Path, board: str = "nucleo") -> pipeline.Built:
    """What `mcugen build` writes of a small model for a board."""
    found = ladder.laid_out(SHAPE, 12, board=board)
    require("gcc", found.board)
    model = found.graph.model
    source = sources.Source(model.name, None, model, found.tokenizer)
    return pipeline.build_folder(source, model, found, out, toolchain="gcc", command=ladder.COMMAND, tokens=0)


def test_build_info_says_what_is_needed_to_make_it_again(tmp_path: Path) -> None:
    folder = built_folder(tmp_path / "out")
    info = json.loads((tmp_path / "out" / "build-info.json").read_text())
    project = layouts.make_project(layout(), ladder.COMMAND)
    assert info["build_id"] == build_id(project.files)
    assert info["flags"] == {use: list(flags) for use, flags in folder.firmware.flags.items()}
    assert set(info["flags"]) == {"c -O2", "c -Os", "S -O2", "link"}
    assert {"-Os", "-std=c99", "-mcpu=cortex-m4"} <= set(info["flags"]["c -Os"])
    assert {"-T", "linker.ld", "-nostdlib"} <= set(info["flags"]["link"])
    assert set(info["packages"]) == {"intelhex", "jinja2", "numpy", "pyelftools", "safetensors"}
    assert set(info["files"]) == files_below(tmp_path / "out").keys() - {"build-info.json"}
