"""The commands of README.md and of the tutorial are run as they stand there.

A comment before a code block says what is done with it:

    <!-- run: slow, data, output -->   a shell block. slow: runs for long. data: needs the files in DATA. output: prints
                                       exactly the text block that follows. fails: exits with an error, to be seen.
                                       Any other word: a program that it needs.
    <!-- file: NAME -->                the content of a file, beside which the commands run

`pytest tests/test_readme.py --update-golden` writes what the commands print into the text blocks that follow them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tools import require_program
from zoo import DATA

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "own-board.md")
DATA_FILES = ("stories260K.bin", "tok512.bin", "tinystories.txt")
_BLOCK = re.compile(
    r"<!-- (?P<kind>run|file)(: (?P<words>[^>]+))? -->\n```\w+\n(?P<content>.*?)```\n(```text\n(?P<output>.*?)```\n)?",
    re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """content: of the code block; output: of the text block that follows it, or None."""

    document: Path
    kind: str
    words: frozenset[str]
    content: str
    output: str | None


def blocks(text: str, document: Path = DOCUMENTS[0]) -> list[Block]:
    return [
        Block(document, m["kind"], frozenset((m["words"] or "").split(", ")) - {""}, m["content"], m["output"])
        for m in _BLOCK.finditer(text)
    ]


BLOCKS = [block for path in DOCUMENTS for block in blocks(path.read_text(encoding="utf-8"), path)]


def commands() -> list[object]:
    """Each shell block as a parameter, named by its first words."""
    parameters = []
    for block in BLOCKS:
        if block.kind == "run":
            marks = [pytest.mark.slow] if "slow" in block.words else []
            name = " ".join(block.content.split()[:4])
            parameters.append(pytest.param(block, marks=marks, id=name))
    return parameters


def prepare(block: Block, folder: Path) -> dict[str, str]:
    """Lay out what a block needs; returns its environment. Skips where a program or the data is missing."""
    for program in block.words - {"slow", "data", "output", "fails"}:
        require_program(program)
    if "data" in block.words:
        for name in DATA_FILES:
            if not (DATA / name).exists():
                pytest.skip(f"{name} is not here")
            (folder / name).symlink_to(DATA / name)
    for file in BLOCKS:
        if file.kind == "file" and file.document == block.document:
            target = folder / next(iter(file.words))
            target.parent.mkdir(exist_ok=True)
            target.write_text(file.content, encoding="utf-8")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "COLUMNS": "100"}


@pytest.mark.parametrize("block", commands())
def test_a_command_does_what_it_says(block: Block, tmp_path: Path, update_golden: bool) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.content],
        cwd=tmp_path,
        env=prepare(block, tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode != 0) == ("fails" in block.words), done.stdout + done.stderr
    shown = done.stderr if "fails" in block.words else done.stdout
    printed = "".join(f"{line.rstrip()}\n" for line in shown.splitlines())
    if update_golden:
        update(block, printed)
    elif "output" in block.words or "fails" in block.words:
        assert printed == block.output


def update(block: Block, printed: str) -> None:
    """Replace the text block that follows a shell block."""
    if block.output is not None:
        before = f"```sh\n{block.content}```\n```text\n"
        text = block.document.read_text(encoding="utf-8")
        assert text.count(before) == 1
        block.document.write_text(
            text.replace(f"{before}{block.output}```", f"{before}{printed}```"), encoding="utf-8"
        )


def test_every_shell_block_is_run() -> None:
    """A block that nobody runs is one that stops working."""
    text = "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    assert text.count("```sh\n") == sum(block.kind == "run" for block in BLOCKS) >= 8


def test_blocks_are_found_with_their_words_and_output() -> None:
    text = (
        "<!-- run: slow, data -->\n```sh\na b\n```\n```text\nc\n```\n<!-- run -->\n```sh\nd\n```\n\n```text\ne\n```\n"
    )
    assert blocks(text) == [
        Block(DOCUMENTS[0], "run", frozenset({"slow", "data"}), "a b\n", "c\n"),
        Block(DOCUMENTS[0], "run", frozenset(), "d\n", None),
    ]
