"""Documents name files, make targets and options that exist."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from mcugen.cli import mcugen

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "DESIGN.md", "CONTRIBUTING.md", "CHANGELOG.md", "firmware/README.md", "docs/own-board.md")
FOLDERS = ("mcugen", "firmware", "templates", "boards", "tests", ".ci")
OTHER_OPTIONS = {"--update-golden", "--integers", "--show"}  # of pytest here, of mcugen.models.*.evaluate

_LINK = re.compile(r"\]\((?!https?://)([^)#]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(rf"(?:{'|'.join(map(re.escape, FOLDERS))})/[\w./-]*")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
_CALL = re.compile(r"(?:^|[\s|])mcugen ([a-z]+)([^|\n]*)")
_TARGET = re.compile(r"\bmake ([a-z]+)\b")


def commands(group: click.Group) -> dict[str, set[str]]:
    """Options by command; a group's are those of its subcommands, too."""
    found = {}
    for name, command in group.commands.items():
        options = {o for p in command.params if isinstance(p, click.Option) for o in p.opts}
        inner = commands(command).values() if isinstance(command, click.Group) else ()
        found[name] = options.union({"--help"}, *inner)
    return found


COMMANDS = commands(mcugen)
OPTIONS = {"--version"}.union(*COMMANDS.values())


def code(text: str) -> Iterator[str]:
    """Inline code, outside of code blocks."""
    yield from _CODE.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def typed(text: str) -> Iterator[str]:
    """Lines that a reader may type: inline code, shell blocks and indented lines."""
    yield from code(text)
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        yield from block.splitlines()
    yield from re.findall(r"^ {4}(.*)$", text, re.MULTILINE)


def faults(text: str, folder: Path) -> list[str]:
    """What a document at `folder` names that does not exist."""
    found = [f"link to {path}" for path in _LINK.findall(text) if not (folder / path).exists()]
    for snippet in code(text):
        if _PATH.fullmatch(snippet) and "NAME" not in snippet and not (ROOT / snippet).exists():
            found.append(f"file {snippet}")
        for option in _OPTION.findall(snippet):
            if not snippet.startswith(("pip ", "python ", "-W")) and option not in OPTIONS | OTHER_OPTIONS:
                found.append(f"option {option}")
    for command, rest in (call for line in typed(text) for call in _CALL.findall(line)):
        if command not in COMMANDS:
            found.append(f"command mcugen {command}")
        else:
            found += [f"mcugen {command} {o}" for o in _OPTION.findall(rest) if o not in COMMANDS[command]]
    return found


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_names_only_what_exists(name: str) -> None:
    document = ROOT / name
    assert faults(document.read_text(encoding="utf-8"), document.parent) == []


def test_what_does_not_exist_is_found() -> None:
    text = (
        "[a](b.md) [c](README.md) `mcugen/none.py` `mcugen/sweep.py` `--nothing` `--board`\n"
        "    mcugen fly\n    mcugen plan --tokens 3\n    mcugen verify --tokens 3\n"
    )
    assert faults(text, ROOT) == [
        "link to b.md",
        "file mcugen/none.py",
        "option --nothing",
        "command mcugen fly",
        "mcugen plan --tokens",
    ]


@pytest.mark.parametrize("name", ("README.md", "CONTRIBUTING.md"))
def test_make_targets_exist(name: str) -> None:
    """Lines indented by four spaces are typed in the repository."""
    text = (ROOT / name).read_text(encoding="utf-8")
    named = {t for line in re.findall(r"^ {4}(.*)$", text, re.MULTILINE) for t in _TARGET.findall(line)}
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert phony is not None
    assert "test" in named
    assert named <= set(phony[1].split())


def test_the_accuracy_in_the_readme_is_the_models_own() -> None:
    stated = json.loads((ROOT / "mcugen" / "models" / "home" / "model.json").read_text(encoding="utf-8"))
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("<!-- figures: home -->")[1]
    rows = [line.split(" | ")[1:] for line in table.strip().splitlines()[2:7]]
    suites = ("hand-written", "development", "templates", "fillings", "typos")
    for suite, cells in zip(suites, rows, strict=True):
        for kind, cell in zip(("accuracy", "integer_accuracy"), cells, strict=True):
            score = stated[kind][suite]
            right, total = score["right"], score["total"]
            assert cell.removesuffix(" |") == f"{100 * right / total:.2f} % ({right} of {total})", suite


def test_the_figures_of_the_stories_in_the_readme_are_the_models_own() -> None:
    stated = json.loads((ROOT / "mcugen" / "models" / "tales" / "model.json").read_text(encoding="utf-8"))
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("<!-- figures: tales -->")[1]
    rows = [line.removesuffix(" |").split(" | ")[1:] for line in table.strip().splitlines()[2:5]]
    kinds = [stated[kind] for kind in ("figures", "integer_figures")]
    assert rows[0] == [f"{kind['perplexity']:.4f}" for kind in kinds]
    for row, name in zip(rows[1:], ("sampled", "greedy"), strict=True):
        assert row == [f"{kind[name]} of {kind['stories']}" for kind in kinds]


def test_no_document_names_a_machine() -> None:
    """Documents and what README shows hold for any machine."""
    for name in DOCUMENTS:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.])/(home|root|opt|mnt|Users)/", text), name


def test_the_ci_script_is_a_program_and_bash_takes_it() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", script], check=True)
