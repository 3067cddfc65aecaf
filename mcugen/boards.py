"""TOML -> Board. A board file is a fact sheet: no inheritance, no conditions, a source for every fact.

The keys are listed in _TOP, _TABLES, _MEMORY and _FLASHING; any other key is an error, and so is one that is missing
and not in _OPTIONAL.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import re
import tomllib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn

from mcugen.cores import CORES
from mcugen.errors import InputError, UsageError
from mcugen.ir import Board, Memory, MemoryRegion
from mcugen.resources import data_dir

_TOP = ("name", "aliases", "title", "port", "headroom")
_TABLES: Mapping[str, tuple[str, ...]] = {
    "core": ("name", "features", "source"),
    "clock": ("rate", "source"),
    "flash": ("origin", "size", "source"),
    "ram": ("origin", "size", "source"),
    "stack": ("size", "source"),
}
_ENTRY_TABLES = ("port_defines", "facts")  # any key; each entry has a value and a source
_OPTIONAL = (
    "memories", "flashing", "core.count", "flash.xip", "flash.data_origin", "ram.code_origin", "memories.*.fast",
)  # fmt: skip
_MEMORY = ("origin", "size", "holds", "source", "fast")  # of each entry of "memories"
_TAKEN = ("flash", "ram", "data", "code")  # what the linker script calls the memories that every board has
_HOLDS = ("code", "data")
_FLASHING: Mapping[str, tuple[str, ...]] = {  # tool -> what it has to know, in an entry of "flashing"
    "drive": ("label", "source"),  # of the USB drive that takes a copy of the image
    "uf2": ("label", "family", "source"),  # of the boot drive; family: the UF2 format's number of the chip
    "openocd": ("config", "source"),  # a file of OpenOCD's scripts
    "pyocd": ("target", "pack", "source"),  # pack: part to `pyocd pack install`; "" where pyOCD knows the target
    "esptool": ("chip", "offset", "source"),  # offset: of the image in flash
    "teensy": ("mcu", "source"),  # as teensy_loader_cli calls it
}
_SIZE_UNITS = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_RATE_UNITS = {"Hz": 1, "kHz": 1000, "MHz": 1000**2, "GHz": 1000**3}
_DEFINE_UNITS = {**_SIZE_UNITS, **_RATE_UNITS, "baud": 1}
_ADDRESS_SPACE = 2**32  # bytes
_MOST_CORES = 2
_ADDRESS_HINT = "it must be a 32-bit address, as in 0x08000000"
_SHARED_PORTS = {"freestanding", "stm32"} | {core.family for core in CORES.values()}
_STACK_ALIGNMENT = 8  # bytes; AAPCS, section "The Stack"


def load_board(name_or_path: str) -> Board:
    """Return the board that ships with mcugen under that name or alias, or the one in a user's .toml file.

    Raises UsageError if there is no such board, InputError if the file is missing or malformed.
    """
    if name_or_path.endswith(".toml"):
        return _read(Path(name_or_path), shown=name_or_path)[0]
    for board, aliases in _shipped():
        if name_or_path == board.name or name_or_path in aliases:
            return board
    names = board_names()
    close = difflib.get_close_matches(name_or_path, names, n=2)
    raise UsageError(
        f"there is no board {name_or_path!r}; mcugen knows {', '.join(names)}",
        where="--board",
        hint=f"{' or '.join(close) or 'one of those'}, or the path of your own .toml file",
    )


def board_text(name_or_path: str) -> str:
    """Return the file of a board, found as load_board finds it, as it is written. Raises what load_board does."""
    board = load_board(name_or_path)
    own = name_or_path.endswith(".toml")
    path = Path(name_or_path) if own else data_dir("boards") / f"{board.name}.toml"
    return path.read_text(encoding="utf-8")


def list_boards() -> tuple[Board, ...]:
    """Return the boards that ship with mcugen, by name."""
    return tuple(board for board, _ in _shipped())


def board_names() -> list[str]:
    """Return the names and aliases of those boards, sorted."""
    return sorted(name for board, aliases in _shipped() for name in (board.name, *aliases))


def _shipped() -> list[tuple[Board, tuple[str, ...]]]:
    """Return (board, aliases) of each shipped file, by name."""
    paths = sorted(data_dir("boards").glob("*.toml"), key=lambda path: path.stem)
    return [_read(path, shown=f"boards/{path.name}") for path in paths]


# ---------------------------------------------------------------- one file


def _read(path: Path, shown: str) -> tuple[Board, tuple[str, ...]]:
    """Return the board and its aliases; `shown` is what errors call the file."""
    try:
        content = path.read_bytes()
        table = tomllib.loads(content.decode("utf-8"))
    except OSError as error:
        raise InputError(
            f"board file {shown} cannot be read: {error.strerror}",
            where="--board",
            hint="check the path; without .toml at the end, --board takes the name of a board that ships with mcugen",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"board file {shown} is not TOML: {error}",
            where=shown,
            hint="correct that line; boards/nucleo-f446re.toml is an example",
        ) from error
    return _Reader(shown, table, path.parent).board(hashlib.sha256(content).hexdigest())


class _Reader:
    """Takes checked values out of one parsed file; every error names the file, the key and what is allowed.

    folder: where the file is, and a port of the user's own is looked for.
    """

    def __init__(self, file: str, table: dict[str, Any], folder: Path) -> None:
        self._file = file
        self._table = table
        self._folder = folder

    def board(self, sha256: str) -> tuple[Board, tuple[str, ...]]:
        self._check_keys()
        core = self._one_of("core.name", tuple(CORES))
        clock_hz = self._quantity("clock.rate", _RATE_UNITS)
        port, own_port = self._port()
        board = Board(
            name=self._text("name"),
            title=self._text("title"),
            core=core,
            features=CORES[core].inherent | set(self._names("core.features", tuple(sorted(CORES[core].features)))),
            clock_hz=clock_hz,
            flash=self._region("flash"),
            ram=self._region("ram"),
            stack_bytes=self._quantity("stack.size", _SIZE_UNITS),
            headroom=self._percent("headroom"),
            port=port,
            port_defines=tuple(sorted({"MG_CLOCK_HZ": clock_hz, **self._port_defines()}.items())),
            sha256=sha256,
            facts=self._facts(),
            cores=self._count("core.count"),
            xip=self._flag("flash.xip"),
            memories=self._memories(),
            flashing=self._flashing(),
            flash_data=self._address("flash.data_origin"),
            ram_code=self._address("ram.code_origin"),
            own_port=own_port,
        )
        self._check_memory(board)
        if (board.core == "host") != (board.port == "host"):
            self._fail(
                "port", f"{board.port!r} does not start a {board.core}", 'core "host" and port "host" go together'
            )
        if board.cores > 1 and not (data_dir("firmware") / "ports" / board.port / "second_core.c").exists():
            self._fail(
                "core.count",
                f"is {board.cores}, and port {board.port!r} starts one core",
                "leave it out, or write the port's second_core.c (ports/second_core.h has the contract)",
            )
        return board, tuple(self._names("aliases", None))

    # ------------------------------------------------------------ keys

    def _check_keys(self) -> None:
        self._compare_keys("", self._table, (*_TOP, *_TABLES, *_ENTRY_TABLES, "memories", "flashing"))
        for name in (*_TABLES, *_ENTRY_TABLES):
            table = self._mapping(name, self._table[name])
            if name in _TABLES:
                optional = [key.partition(".")[2] for key in _OPTIONAL if key.startswith(f"{name}.")]
                self._compare_keys(f"{name}.", table, (*_TABLES[name], *optional))
                self._text(f"{name}.source")
                continue
            for key, entry in table.items():
                self._compare_keys(f"{name}.{key}.", self._mapping(f"{name}.{key}", entry), ("value", "source"))
                self._text(f"{name}.{key}.source")
        for name in ("memories", "flashing"):
            for key, entry in self._mapping(name, self._table.get(name, {})).items():
                if name == "flashing" and key not in _FLASHING:
                    self._fail(f"flashing.{key}", "is no tool", f"mcugen knows {', '.join(_FLASHING)}")
                keys = _MEMORY if name == "memories" else _FLASHING[key]
                self._compare_keys(f"{name}.{key}.", self._mapping(f"{name}.{key}", entry), keys)
                self._text(f"{name}.{key}.source")

    def _compare_keys(self, prefix: str, found: Mapping[str, Any], expected: tuple[str, ...]) -> None:
        allowed = "the keys here are " + ", ".join(expected)
        for key in found:
            if key not in expected:
                close = difflib.get_close_matches(key, expected, n=1)
                self._fail(f"{prefix}{key}", "is no key", f"did you mean {close[0]}?" if close else allowed)
        for key in expected:
            if key not in found and not any(fnmatchcase(f"{prefix}{key}", optional) for optional in _OPTIONAL):
                self._fail(f"{prefix}{key}", "is missing", allowed)

    def _mapping(self, key: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            self._fail(key, f"is {value!r}", "it must be a table")
        return value

    def _value(self, key: str) -> Any:
        value: Any = self._table
        for part in key.split("."):
            value = value[part]
        return value

    # ------------------------------------------------------------ values

    def _text(self, key: str) -> str:
        value = self._value(key)
        if not isinstance(value, str) or not value.strip():
            self._fail(key, f"is {value!r}", "it must be a text that is not empty")
        return value

    def _one_of(self, key: str, allowed: tuple[str, ...], or_else: str = "") -> str:
        value = self._text(key)
        if value not in allowed:
            self._fail(key, f"is {value!r}", f"it must be one of {', '.join(allowed)}{or_else}")
        return value

    def _port(self) -> tuple[str, tuple[tuple[str, bytes], ...]]:
        """The port's name and, for "./NAME", a folder beside the board file, what is in it."""
        value = self._text("port")
        if not value.startswith("./"):
            return self._one_of("port", _ports(), ', or "./" and a folder beside this file'), ()
        name = value.removeprefix("./")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in {*_ports(), *_SHARED_PORTS}:
            self._fail(
                "port", f"is {value!r}", "name the folder in small letters and digits, and not as one of mcugen's"
            )
        try:
            files = [(path.name, path.read_bytes()) for path in sorted((self._folder / name).glob("*.[chS]"))]
        except OSError as error:
            self._fail("port", f"is {value!r}, which cannot be read: {error.strerror}", "check the folder's files")
        if not any(file.endswith(".c") for file, _ in files):
            self._fail(
                "port", f"is {value!r}, where no .c file is", "firmware/README.md has the four functions of a port"
            )
        return name, tuple(files)

    def _names(self, key: str, allowed: tuple[str, ...] | None) -> list[str]:
        value = self._value(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self._fail(key, f"is {value!r}", "it must be a list of texts")
        for item in value:
            if allowed is not None and item not in allowed:
                offered = ", ".join(allowed) if allowed else "nothing: this core has no options"
                self._fail(key, f"has {item!r}", f"it may list {offered}")
        return value

    def _quantity(self, key: str, units: Mapping[str, int], hint: str = "") -> int:
        """Read "512 KiB" or "180 MHz": a whole number, a space, a unit. hint: ends the error's."""
        value = self._value(key)
        match = re.fullmatch(r"(\d+) (\w+)", value) if isinstance(value, str) else None
        if match is None or match[2] not in units:
            self._fail(key, f"is {value!r}", f"write a whole number, a space and one of {', '.join(units)}{hint}")
        number = int(match[1]) * units[match[2]]
        if number == 0:
            self._fail(key, f"is {value!r}", "it must be more than zero")
        return number

    def _percent(self, key: str) -> float:
        value = self._value(key)
        match = re.fullmatch(r"(\d+) %", value) if isinstance(value, str) else None
        if match is None or int(match[1]) >= 100:
            self._fail(key, f"is {value!r}", 'write a whole number below 100 and a percent sign, as in "20 %"')
        return int(match[1]) / 100

    def _count(self, key: str) -> int:
        value = self._optional(key, 1)
        if type(value) is not int or not 1 <= value <= _MOST_CORES:
            self._fail(key, f"is {value!r}", f"it must be a whole number from 1 to {_MOST_CORES}")
        return value

    def _flag(self, key: str) -> bool:
        value = self._optional(key, False)
        if not isinstance(value, bool):
            self._fail(key, f"is {value!r}", "it must be true or false")
        return value

    def _optional(self, key: str, default: object) -> Any:
        table, _, name = key.rpartition(".")
        return self._value(table).get(name, default)

    def _memories(self) -> tuple[Memory, ...]:
        found = []
        for name in self._table.get("memories", {}):
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in _TAKEN:
                allowed = f"small letters, digits and underscores, but not {' or '.join(_TAKEN)}"
                self._fail(f"memories.{name}", "is no name for a memory", allowed)
            holds = self._names(f"memories.{name}.holds", _HOLDS)
            if not holds:
                self._fail(f"memories.{name}.holds", "is empty", f"it may list {', '.join(_HOLDS)}")
            fast = self._flag(f"memories.{name}.fast")
            found.append(Memory(name, self._region(f"memories.{name}"), frozenset(holds), fast))
        return tuple(found)

    def _flashing(self) -> tuple[tuple[str, Mapping[str, str | int]], ...]:
        """Numbers are addresses or the like; texts may be empty for a pack only."""
        found = []
        for tool, entry in self._table.get("flashing", {}).items():
            for name, value in entry.items():
                key = f"flashing.{tool}.{name}"
                if name in ("family", "offset"):
                    if type(value) is not int or not 0 <= value < _ADDRESS_SPACE:
                        self._fail(key, f"is {value!r}", "it must be a 32-bit number, as in 0xe48bff56")
                elif not (name == "pack" and value == ""):
                    self._text(key)
            found.append((tool, {name: value for name, value in entry.items() if name != "source"}))
        return tuple(found)

    def _region(self, key: str) -> MemoryRegion:
        origin = self._value(f"{key}.origin")
        if type(origin) is not int or not 0 <= origin < _ADDRESS_SPACE:
            self._fail(f"{key}.origin", f"is {origin!r}", _ADDRESS_HINT)
        size = self._quantity(f"{key}.size", _SIZE_UNITS)
        if origin + size > _ADDRESS_SPACE:
            self._fail(f"{key}.size", f"ends at {origin + size:#x}", "a region must end within 32 bits")
        return MemoryRegion(origin, size)

    def _address(self, key: str) -> int | None:
        origin = self._optional(key, None)
        if origin is not None and (type(origin) is not int or not 0 <= origin < _ADDRESS_SPACE):
            self._fail(key, f"is {origin!r}", _ADDRESS_HINT)
        return origin

    def _port_defines(self) -> dict[str, int]:
        for name in self._table["port_defines"]:
            if name == "MG_CLOCK_HZ" or not re.fullmatch(r"MG_[A-Z0-9_]+", name):
                self._fail(
                    f"port_defines.{name}", "is no name for a define", "MG_ and capitals; MG_CLOCK_HZ is clock.rate"
                )
        keys = self._table["port_defines"]
        return {name: self._define(f"port_defines.{name}.value") for name in keys}

    def _define(self, key: str) -> int:
        """Read a quantity, or an address, which has no unit."""
        value = self._value(key)
        if type(value) is int:
            if not 0 <= value < _ADDRESS_SPACE:
                self._fail(key, f"is {value!r}", _ADDRESS_HINT)
            return value
        return self._quantity(key, _DEFINE_UNITS, "; an address without a unit")

    def _facts(self) -> dict[str, str]:
        """Everything worth showing, with its source."""
        shown = {
            "core": f"{self._value('core.name')} ({self._value('core.source')})",
            "clock": f"{self._value('clock.rate')} ({self._value('clock.source')})",
        }
        for key in ("flash", "ram"):
            origin, size = self._value(f"{key}.origin"), self._value(f"{key}.size")
            shown[key] = f"{size} at {origin:#010x} ({self._value(f'{key}.source')})"
        flash_data = self._address("flash.data_origin")
        if flash_data is not None:
            shown["flash as data"] = f"at {flash_data:#010x}"
        ram_code = self._address("ram.code_origin")
        if ram_code is not None:
            shown["ram as code"] = f"at {ram_code:#010x}"
        shown["stack"] = f"{self._value('stack.size')} ({self._value('stack.source')})"
        for name, memory in self._table.get("memories", {}).items():
            shown[name] = f"{memory['size']} at {memory['origin']:#010x} ({memory['source']})"
        for tool, entry in self._table.get("flashing", {}).items():
            known = ", ".join(f"{key} {_shown(value)}" for key, value in entry.items() if key != "source" and value)
            shown[f"flash with {tool}"] = f"{known} ({entry['source']})"
        for key in self._table["facts"]:
            shown[key] = f"{self._text(f'facts.{key}.value')} ({self._value(f'facts.{key}.source')})"
        return shown

    def _check_memory(self, board: Board) -> None:
        regions = [("flash", board.flash), ("ram", board.ram)]
        if board.flash_data is not None:
            regions.append(("flash.data_origin", MemoryRegion(board.flash_data, board.flash.size)))
        if board.ram_code is not None:
            regions.append(("ram.code_origin", MemoryRegion(board.ram_code, board.ram.size)))
        regions += [(f"memories.{memory.name}", memory.region) for memory in board.memories]
        for (name, one), (key, other) in itertools.combinations(regions, 2):
            if one.origin < other.origin + other.size and other.origin < one.origin + one.size:
                self._fail(
                    key,
                    f"{_span(other)} overlaps {name} {_span(one)}",
                    "two memories cannot answer at one address: correct the origins or sizes",
                )
        ram = board.ram
        if board.stack_bytes % _STACK_ALIGNMENT or board.stack_bytes >= ram.size:
            self._fail(
                "stack.size",
                f"is {board.stack_bytes:,} B",
                f"it must be a multiple of {_STACK_ALIGNMENT} B below the RAM's {ram.size:,} B",
            )

    def _fail(self, key: str, what: str, allowed: str) -> NoReturn:
        raise InputError(f"{key} {what}", where=self._file, hint=allowed)


def _shown(value: str | int) -> str:
    return f"{value:#x}" if isinstance(value, int) else value


def _span(region: MemoryRegion) -> str:
    return f"{region.origin:#010x}..{region.origin + region.size - 1:#010x}"


def _ports() -> tuple[str, ...]:
    """Folders of firmware/ports/ that start a board; the others are what the boards of a core family share."""
    folders = (path.name for path in (data_dir("firmware") / "ports").iterdir() if path.is_dir())
    return tuple(sorted(set(folders) - _SHARED_PORTS))
