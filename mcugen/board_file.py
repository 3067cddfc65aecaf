"""A board file to begin with: that of another board, under a new name, with a comment on every table.

Nothing of it is a fact yet: each source says so, and names the board that the value is from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from mcugen.boards import board_names, board_text, load_board
from mcugen.errors import UsageError

# What stands above a table; of a table with a name of its own, what stands above the first of its kind.
_COMMENTS: Mapping[str, str] = {
    "core": "name: what mcugen calls the core; features: which of its options the chip has (dsp, fpu, mve).\n"
    "count = 2 where there are two of them, and the port starts both.",
    "clock": "The rate that the port sets; it checks the figure at compile time. Hz, kHz, MHz or GHz.",
    "flash": "Where code and weights lie. B, KiB or MiB. xip = true where it is a serial flash behind a cache.",
    "ram": "The contiguous memory that holds the stack, the activations and the KV ring.",
    "stack": "Reserved at the bottom of RAM; `mcugen verify` says how much a step uses.",
    "memories": '[memories.NAME]: more memories: origin, size, source, holds = ["code", "data"] or one of the two.\n'
    "fast = true where the core reaches data in it with fewer waits than in [ram].",
    "port_defines": "Numbers that the port's C needs, as MG_... defines: a quantity with its unit, or an address.",
    "facts": "Whatever else a reader should know; `mcugen boards show` prints it.",
    "flashing": "[flashing.TOOL]: how the image gets onto the board; the first table is tried first.\n"
    "TOOL is drive, uf2, openocd, pyocd, esptool or teensy.",
}


def new_board(name: str, like: str) -> str:
    """Return the text of a board file for a board called `name`, with the values of the board `like`.

    like: a name or the path of a board file. Raises UsageError where `name` is none, or is taken, and what load_board
    raises for `like`.
    """
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise UsageError(
            f"{name!r} is no name for a board",
            where="mcugen boards new",
            hint="small letters, digits and single hyphens between them, as in my-board",
        )
    if name in board_names():
        raise UsageError(
            f"there is a board {name} already",
            where="mcugen boards new",
            hint=f"choose another name; `mcugen boards show {name}` shows that one",
        )
    board = load_board(like)
    body = re.sub(r"^#.*\n", "", board_text(like), flags=re.MULTILINE).strip()
    body = re.sub(r"^name = .*$", f'name = "{name}"', body, count=1, flags=re.MULTILINE)
    body = re.sub(r"^aliases = .*$", "aliases = []", body, count=1, flags=re.MULTILINE)
    body = re.sub(
        r"^title = .*$", f'title = "{name}, begun as a copy of {board.name}"', body, count=1, flags=re.MULTILINE
    )
    body = re.sub(r'source = "(?:to check, from [\w-]+: )?', f'source = "to check, from {board.name}: ', body)
    return f"{_header(name, board.name)}\n{_commented(body)}"


def _header(name: str, like: str) -> str:
    lines = (
        f"{name}: a board file, begun as a copy of {like}.",
        'Correct every value, and write where you read it instead of "to check, from ...": the data sheet and its',
        "section. Unknown and missing keys are errors. Then:",
        f"    mcugen boards show path/to/{name}.toml",
        f"    mcugen build --board path/to/{name}.toml --verify-tokens 0",
        'port: a folder of mcugen\'s firmware/ports, or "./NAME" for one of your own beside this file.',
        "headroom: the share of RAM that a plan is asked to leave free.",
    )
    return _as_comment("\n".join(lines)) + "\n"


def _commented(body: str) -> str:
    """The tables of a file, each kind with its comment."""
    met: set[str] = set()
    lines = []
    for line in body.splitlines():
        table = re.fullmatch(r"\[(\w+)(?:\.\w+)?\]", line)
        if table is not None and table[1] not in met:
            met.add(table[1])
            lines.append(_as_comment(_COMMENTS[table[1]]))
        lines.append(line)
    absent = [comment for kind, comment in _COMMENTS.items() if kind not in met]
    hints = [f"\n{_as_comment(comment)}" for comment in absent]
    return "\n".join([*lines, *hints]) + "\n"


def _as_comment(text: str) -> str:
    return "\n".join(f"# {line}" for line in text.splitlines())
