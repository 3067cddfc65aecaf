"""A build folder -> a board's flash: check the image against the memory map, then try the ways of the board file.

Each way is a program that is called, or a USB drive that takes a copy. Options and messages are those of pyOCD 0.46,
OpenOCD 0.12, esptool 5 and teensy_loader_cli 2.2.
"""

from __future__ import annotations

import glob
import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcugen.boards import list_boards, load_board
from mcugen.cores import CORES
from mcugen.emulate.elf import Elf, parse_elf
from mcugen.errors import DoesNotFitError, InputError, ToolError, UsageError
from mcugen.ir import Board, MemoryRegion
from mcugen.project import MARKER

_TIMEOUT_S = 300  # of one call: the slowest probe writes a few KiB a second
_MOUNTS = ("/media/*/*", "/run/media/*/*", "/media/*", "/mnt/*", "/Volumes/*")  # where systems mount USB drives
_MACHINES = {"riscv": "EM_RISCV"}  # by core family; Cortex-M: EM_ARM
_FAIL = "FAIL.TXT"  # what an ST-LINK's or DAPLink's drive says when it could not program a copy
_LINES = 6  # of a tool's output, in an error

Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Image:
    """A firmware that was built and checked. build: its build id. start, size: what it programs, in bytes."""

    folder: Path
    board: Board
    title: str
    build: str
    start: int
    size: int

    @property
    def elf(self) -> Path:
        return self.folder / "firmware.elf"


@dataclass(frozen=True, slots=True)
class Way:
    """One way to flash a board.

    command: as one would type it; where `drive` is set, mcugen copies the file itself. lacks: why the way is closed,
    or empty; remedy: what opens it.
    """

    tool: str
    command: tuple[str, ...]
    lacks: str = ""
    remedy: str = ""
    drive: Path | None = None


# ---------------------------------------------------------------- the image


def open_image(folder: Path, board: str | None = None) -> Image:
    """Read what `mcugen build` wrote, and check it against the memory map of its board.

    board: its name or file; needed where it is a file. Raises InputError where the folder holds no firmware, one for
    another board, or one that has changed since; DoesNotFitError where it is too large.
    """
    info = _read_info(folder)
    found = load_board(board or _shipped(str(info["board"])))
    if found.name != info["board"]:
        raise InputError(
            f"{folder} holds firmware for {info['board']}, not for {found.name}",
            where="--board",
            hint=f"leave --board out, or mcugen build --board {board}",
        )
    if not found.flashing:
        raise UsageError(
            f"{found.name} states no way to flash it",
            where=f"board {found.name}",
            hint="mcugen run talks to boards that are emulated; a board file of your own needs a [flashing.TOOL], "
            "as boards/nucleo-f446re.toml has",
        )
    for name, digest in info["files"].items():
        if name.startswith("firmware.") and hashlib.sha256(_read(folder / name)).hexdigest() != digest:
            raise InputError(
                f"{folder / name} has changed since it was built", where=MARKER, hint="run mcugen build again"
            )
    elf = parse_elf(_read(folder / "firmware.elf"))
    start, end = _check_image(elf, found, folder)
    return Image(folder, found, f"{info['model']} on {found.name}", str(info["build_id"]), start, end - start)


def _read_info(folder: Path) -> dict[str, Any]:
    try:
        info = json.loads(_read(folder / MARKER))
        complete = info.keys() >= {"board", "model", "build_id", "files"} and "firmware.elf" in info["files"]
    except (ValueError, AttributeError):
        complete = False
    if not complete:
        raise InputError(
            f"{folder / MARKER} tells of no firmware for a board", where="flash", hint="run mcugen build again"
        )
    return info


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}",
            where="flash",
            hint="name the folder that mcugen build wrote: its last line says where it is",
        ) from error


def _shipped(name: str) -> str:
    if name in {board.name for board in list_boards()}:
        return name
    raise UsageError(
        f"{name} is a board of your own, and its file is needed", where="flash", hint="--board path/to/its.toml"
    )


def _check_image(elf: Elf, board: Board, folder: Path) -> tuple[int, int]:
    """First address that is programmed, and the one behind the last."""
    where = f"{folder / 'firmware.elf'} against the memory map of {board.name}"
    machine = _MACHINES.get(CORES[board.core].family, "EM_ARM")
    if elf.machine != machine or not elf.segments:
        raise InputError(
            f"the ELF programs a {elf.machine}, and {board.core} is a {machine}",
            where=where,
            hint=f"mcugen build --board {board.name}",
        )
    start = min(segment.address for segment in elf.segments)
    end = max(segment.address + len(segment.data) for segment in elf.segments)
    flash = board.flash
    if not flash.origin <= start < flash.origin + flash.size:
        raise InputError(
            f"the image begins at {start:#010x}, and the flash is {_span(flash)}",
            where=where,
            hint=f"it was linked for another board: mcugen build --board {board.name}",
        )
    if end > flash.origin + flash.size:
        raise DoesNotFitError(
            f"the image ends {end - flash.origin - flash.size:,} B beyond the flash, {_span(flash)}",
            where=where,
            hint="save as much of weights or code (mcugen plan), or choose a board with more flash",
        )
    memories = [flash, board.ram, *(memory.region for memory in board.memories)]
    memories += [] if board.flash_data is None else [MemoryRegion(board.flash_data, flash.size)]
    memories += [] if board.ram_code is None else [MemoryRegion(board.ram_code, board.ram.size)]
    for address, size in elf.occupied:
        if not any(_holds(memory, address, size) for memory in memories):
            raise InputError(
                f"the firmware uses {size:,} B at {address:#010x}, where {board.name} has no memory",
                where=where,
                hint=f"it was linked for another board: mcugen build --board {board.name}",
            )
    return start, end


def _holds(region: MemoryRegion, address: int, size: int) -> bool:
    return region.origin <= address and address + size <= region.origin + region.size


def _span(region: MemoryRegion) -> str:
    return f"{region.origin:#010x}..{region.origin + region.size - 1:#010x}"


# ---------------------------------------------------------------- the ways


def ways(image: Image, tool: str | None = None, drive: Path | None = None) -> list[Way]:
    """The ways of the image's board in the order of its file, or the one of `tool`; what each lacks, if anything.

    drive: where the board's USB drive is mounted, if not where systems mount one.
    """
    known = [name for name, _ in image.board.flashing]
    if tool is not None and tool not in known:
        raise UsageError(
            f"{image.board.name} is not flashed with {tool!r}", where="--tool", hint=f"choose {' or '.join(known)}"
        )
    wanted = [(name, facts) for name, facts in image.board.flashing if tool in (None, name)]
    return [
        _copying(image, name, facts, drive) if name in ("drive", "uf2") else _CALLED[name](image, facts)
        for name, facts in wanted
    ]


def shown(way: Way) -> str:
    """A way's command, as one would type it."""
    return shlex.join(way.command)


def _copying(image: Image, tool: str, facts: Facts, drive: Path | None) -> Way:
    mounted = _mounted()
    found = drive or mounted.get(facts["label"])
    source = image.folder / ("firmware.uf2" if tool == "uf2" else "firmware.bin")
    command = ("cp", str(source), f"{found or facts['label']}{os.sep}")
    if found is None:
        why, remedy = f"no drive {facts['label']} is mounted", _CONNECT[tool]
        for other, label in ((b.name, f["label"]) for b in list_boards() for t, f in b.flashing if "label" in f):
            if label in mounted:
                why = f"the drive {label} is mounted, which is that of {other}"
                remedy = f"connect a {image.board.name}, or mcugen build --board {other}"
        return Way(tool, command, why, remedy)
    if not found.is_dir() or (tool == "uf2" and not (found / "INFO_UF2.TXT").is_file()):
        return Way(tool, command, f"{found} is no {'UF2 ' if tool == 'uf2' else ''}drive", _CONNECT[tool])
    return Way(tool, command, drive=found)


def _mounted() -> dict[str, Path]:
    """Mounted drives by label."""
    found = (Path(path) for pattern in _MOUNTS for path in glob.glob(pattern))
    return {path.name: path for path in found if os.path.ismount(path)}


def _openocd(image: Image, facts: Facts) -> Way:
    program = next((name for name in ("openocd", "openocd-esp32") if shutil.which(name)), None)
    flash = f"program {{{image.elf}}} verify reset exit"
    command = (program or "openocd", "-f", str(facts["config"]), "-c", flash)
    if program is None:
        return Way("openocd", command, "openocd is not installed", "apt-get install openocd")
    return Way("openocd", command)


def _pyocd(image: Image, facts: Facts) -> Way:
    called = _python_program("pyocd")
    # -W: do not wait until a probe is connected
    command = (*called, "flash", "-W", "-t", str(facts["target"]), str(image.folder / "firmware.hex"))
    if not _installed("pyocd"):
        return Way("pyocd", command, "pyocd is not installed", _INSTALL)
    if facts["pack"]:
        known = _run((*called, "list", "--targets", "--no-header", "--name", str(facts["target"]))).stdout
        if str(facts["target"]) not in known.split():
            why = f"pyOCD does not know {facts['target']}: its CMSIS-Pack is not installed"
            return Way("pyocd", command, why, f"pyocd pack install {facts['pack']}")
    return Way("pyocd", command)


def _esptool(image: Image, facts: Facts) -> Way:
    write = ("write-flash", f"{facts['offset']:#x}", str(image.folder / "firmware.bin"))
    command = (*_python_program("esptool"), "--chip", str(facts["chip"]), *write)
    if not _installed("esptool"):
        return Way("esptool", command, "esptool is not installed", _INSTALL)
    return Way("esptool", command)


def _teensy(image: Image, facts: Facts) -> Way:
    command = ("teensy_loader_cli", f"--mcu={facts['mcu']}", "-v", str(image.folder / "firmware.hex"))
    if shutil.which(command[0]) is None:
        return Way("teensy", command, f"{command[0]} is not installed", "apt-get install teensy-loader-cli")
    return Way("teensy", command)


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _python_program(name: str) -> tuple[str, ...]:
    """How a program that came with pip is called."""
    return (name,) if shutil.which(name) else (sys.executable, "-m", name)


_CALLED: Mapping[str, Callable[[Image, Facts], Way]] = {
    "openocd": _openocd,
    "pyocd": _pyocd,
    "esptool": _esptool,
    "teensy": _teensy,
}
_AGAIN = "connect the board again and try once more, or take another --tool"
_INSTALL = "pip install 'mcugen[flash]'"
_PROBE = "connect the board's debug probe by USB; on Linux, udev rules must let you open it"
_CONNECT = {
    "drive": "connect the board by USB, so that its drive appears; or say where it is with --drive",
    "uf2": "hold BOOTSEL while you connect the board, so that its drive appears; or say where it is with --drive",
    "openocd": _PROBE,
    "pyocd": _PROBE,
    "esptool": "connect the board by USB, holding BOOT",
    "teensy": "connect the board by USB and press its button, which starts its boot loader",
}
# What a tool says where no board, or another chip, is connected.
_ABSENT = {
    "openocd": r"Error: (open failed|unable to open|unable to find|no device found|libusb_open\(\) failed)",
    "pyocd": r"No connected debug probes|No available debug probes|No target device available",
    "esptool": r"Could not connect to an Espressif device|Failed to connect|No serial ports|Could not open",
    "teensy": r"Unable to open device",
}
_OTHER_CHIP = {
    "openocd": r".*(UNEXPECTED idcode|[Cc]annot identify target|[Uu]nknown (device|chip)).*",
    "esptool": r".*This chip is .*, not .*",
}


# ---------------------------------------------------------------- flashing


def flash(image: Image, open_ways: Sequence[Way]) -> Way:
    """Take the first way that leads to the board, and return it.

    Raises ToolError where none does, or where one fails on the way; InputError where another chip is connected.
    """
    closed = []
    for way in open_ways:
        if not way.lacks:
            way = _copy(way) if way.drive is not None else _call(image, way)
        if not way.lacks:
            return way
        closed.append(way)
    raise ToolError(
        f"{image.board.name} was not flashed: {'; '.join(f'{way.tool}: {way.lacks}' for way in closed)}",
        where="flash",
        hint="\n         ".join(f"{way.tool}: {way.remedy}" for way in closed),
    )


def _copy(way: Way) -> Way:
    """Copy the image to the board's drive, which programs it."""
    assert way.drive is not None
    source, failure = Path(way.command[1]), way.drive / _FAIL
    said_before = failure.is_file()  # of an earlier copy
    try:
        with (way.drive / source.name).open("wb") as copy:
            copy.write(source.read_bytes())
            copy.flush()
            os.fsync(copy.fileno())
        why = failure.read_text(errors="replace") if failure.is_file() and not said_before else ""
    except OSError as error:
        # A UF2 drive is gone as soon as its last block has come.
        why = "" if way.tool == "uf2" and not way.drive.is_dir() else str(error.strerror)
    if why:
        raise ToolError(f"the board's drive refuses the image: {why.strip()}", where=shown(way), hint=_AGAIN)
    return way


def _call(image: Image, way: Way) -> Way:
    """Call a tool; the way comes back closed where it finds no board."""
    done = _run(way.command)
    said = done.stdout + done.stderr
    if done.returncode == 0:
        return way
    if way.tool in _OTHER_CHIP and (other := re.search(_OTHER_CHIP[way.tool], said)):
        raise InputError(
            f"{way.tool} finds another chip than that of {image.board.name}: {other[0].strip()}",
            where=shown(way),
            hint="connect the board that the firmware was built for, or build for this one (mcugen boards)",
        )
    if absent := re.search(_ABSENT[way.tool], said):
        return Way(way.tool, way.command, f"no board is found ({absent[0]})", _CONNECT[way.tool])
    lines = [line for line in said.splitlines() if line.strip()][-_LINES:]
    raise ToolError(
        f"{way.tool} exits with {done.returncode}:\n" + "\n".join(f"    {line}" for line in lines),
        where=shown(way),
        hint=_AGAIN,
    )


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolError(
            f"{command[0]} could not be run: {error}",
            where="flash",
            hint=_AGAIN,
        ) from error
