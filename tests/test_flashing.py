"""mcugen flash: the image against the memory map, the ways of a board file in its order, what each tool may answer.

No tool is called that could program a board which happens to be connected: what they print was recorded.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_build_id import built_folder

from mcugen import flashing
from mcugen.boards import list_boards, load_board
from mcugen.cli import mcugen
from mcugen.errors import DoesNotFitError, InputError, McugenError, ToolError, UsageError
from mcugen.flashing import Image, Way, open_image, shown, ways
from mcugen.ir import Memory, MemoryRegion

DRIVE_CLOSED = "connect the board by USB, so that its drive appears; or say where it is with --drive"
UF2_CLOSED = "hold BOOTSEL while you connect the board, so that its drive appears; or say where it is with --drive"
PROBE_CLOSED = "connect the board's debug probe by USB; on Linux, udev rules must let you open it"
AGAIN = "connect the board again and try once more, or take another --tool"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `mcugen build` writes for a NUCLEO-F446RE."""
    out = tmp_path_factory.mktemp("flash") / "out"
    built_folder(out)
    return out


@pytest.fixture
def image(folder: Path) -> Image:
    return open_image(folder)


@pytest.fixture(autouse=True)
def nothing_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No drive, and no tool but those that a test puts there."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(flashing, "_mounted", dict)
    monkeypatch.setattr(flashing, "_installed", lambda package: False)


Tool = Callable[..., None]


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """Put a tool there that prints this, exits so, and notes how it was called."""
    here: set[str] = set()
    monkeypatch.setattr(flashing, "_installed", here.__contains__)

    def put(name: str, says: str = "", exits: int = 0, lists: str = "") -> None:
        here.add(name)
        path = tmp_path / "bin" / name
        path.write_text(
            f'#!/bin/sh\n[ "$1" = list ] && {{ printf %s {shlex.quote(lists)}; exit 0; }}\n'
            f"printf '%s\\n' \"$0 $*\" >> {tmp_path}/called\nprintf %s {shlex.quote(says)} >&2\nexit {exits}\n"
        )
        path.chmod(0o755)

    return put


def called(tmp_path: Path) -> list[str]:
    """The calls of tools that were put there, in their order."""
    path = tmp_path / "called"
    return path.read_text().replace(f"{tmp_path}/bin/", "").splitlines() if path.exists() else []


def with_ways(image: Image, **ways: dict[str, str | int]) -> Image:
    return dataclasses.replace(image, board=dataclasses.replace(image.board, flashing=tuple(ways.items())))


# ---------------------------------------------------------------- the commands


def test_the_ways_come_in_the_order_of_the_board_file_with_what_each_lacks(image: Image, folder: Path) -> None:
    assert ways(image) == [
        Way(
            "drive", ("cp", f"{folder}/firmware.bin", "NODE_F446RE/"), "no drive NODE_F446RE is mounted", DRIVE_CLOSED
        ),
        Way(
            "openocd",
            ("openocd", "-f", "board/st_nucleo_f4.cfg", "-c", f"program {{{folder}/firmware.elf}} verify reset exit"),
            "openocd is not installed",
            "apt-get install openocd",
        ),
        Way(
            "pyocd",
            (*flashing._python_program("pyocd"), "flash", "-W", "-t", "stm32f446retx", f"{folder}/firmware.hex"),
            "pyocd is not installed",
            "pip install 'mcugen[flash]'",
        ),
    ]
    assert [way.tool for way in ways(image, "pyocd")] == ["pyocd"]
    turned = dataclasses.replace(image, board=dataclasses.replace(image.board, flashing=image.board.flashing[::-1]))
    assert [way.tool for way in ways(turned)] == ["pyocd", "openocd", "drive"]


def test_every_tool_is_called_as_its_manual_says(image: Image, tool: Tool, folder: Path) -> None:
    own = with_ways(
        image,
        pyocd={"target": "nrf52840", "pack": ""},
        esptool={"chip": "esp32c3", "offset": 0},
        teensy={"mcu": "TEENSY41"},
    )
    for name in ("pyocd", "esptool", "teensy_loader_cli"):
        tool(name)
    assert [(shown(way), way.lacks) for way in ways(own)] == [
        (f"pyocd flash -W -t nrf52840 {folder}/firmware.hex", ""),
        (f"esptool --chip esp32c3 write-flash 0x0 {folder}/firmware.bin", ""),
        (f"teensy_loader_cli --mcu=TEENSY41 -v {folder}/firmware.hex", ""),
    ]


@pytest.mark.parametrize("name", ["openocd", "openocd-esp32"])
def test_openocd_goes_by_two_names(name: str, image: Image, tool: Tool) -> None:
    tool(name)
    (way,) = ways(image, "openocd")
    assert (way.command[0], way.lacks) == (name, "")


def test_a_pack_that_pyocd_needs_is_asked_for(image: Image, tool: Tool) -> None:
    """stm32f446retx is a part of the name of another target."""
    tool("pyocd", lists="  stm32f446retxx   STMicroelectronics   STM32F446RETxX   STM32F4   pack\n")
    (way,) = ways(image, "pyocd")
    assert way.lacks == "pyOCD does not know stm32f446retx: its CMSIS-Pack is not installed"
    assert way.remedy == "pyocd pack install stm32f446re"
    tool("pyocd", lists="  stm32f446retx   STMicroelectronics   STM32F446RETx   STM32F4   pack\n")
    assert ways(image, "pyocd")[0].lacks == ""


def test_a_tool_that_the_board_does_not_state_is_refused(image: Image) -> None:
    with pytest.raises(UsageError) as caught:
        ways(image, "esptool")
    assert str(caught.value) == (
        "nucleo-f446re is not flashed with 'esptool'\n  where: --tool\n  try:   choose drive or openocd or pyocd"
    )


@pytest.mark.skipif(importlib.util.find_spec("pyocd") is None, reason="pyocd is not installed")
def test_pyocd_knows_the_targets_of_the_boards() -> None:
    """Of its own, or from a pack: then in its list of boards."""
    from pyocd.board.board_ids import BOARD_ID_TO_INFO
    from pyocd.target.builtin import BUILTIN_TARGETS

    named = {board.target for board in BOARD_ID_TO_INFO.values()}
    for board in list_boards():
        for name, facts in board.flashing:
            if name == "pyocd":
                known = named - BUILTIN_TARGETS.keys() if facts["pack"] else BUILTIN_TARGETS
                assert facts["target"] in known, board.name


# ---------------------------------------------------------------- which way is taken

NO_PROBE = {  # as printed where no board is connected
    "openocd": "srst_only separate srst_nogate srst_open_drain connect_deassert_srst\nError: open failed\n** OpenOCD init failed **\n",
    "pyocd": "No connected debug probes\n0000965 E No target device available [load_cmd]\n",
    "esptool": "ERROR: /dev/ttyS0 failed to connect: Failed to connect to ESP32-C3: No serial data received.\n",
    "teensy_loader_cli": "Unable to open device (hint: try -w option)\n",
}
KNOWN = "  stm32f446retx   STMicroelectronics   STM32F446RETx   STM32F4   pack\n"


def test_the_first_way_that_leads_to_a_board_is_taken(image: Image, tool: Tool, tmp_path: Path) -> None:
    tool("openocd", NO_PROBE["openocd"], 1)
    tool("pyocd", lists=KNOWN)
    assert flashing.flash(image, ways(image)).tool == "pyocd"
    assert called(tmp_path) == [shown(way).replace("'", "") for way in ways(image)[1:]]
    tool("openocd")
    assert flashing.flash(image, ways(image)).tool == "openocd"
    assert len(called(tmp_path)) == 3  # and pyocd no more


def test_where_no_way_leads_to_a_board_each_says_why(image: Image, tool: Tool) -> None:
    tool("openocd", NO_PROBE["openocd"], 1)
    tool("pyocd", NO_PROBE["pyocd"], 1, KNOWN)
    with pytest.raises(ToolError) as caught:
        flashing.flash(image, ways(image))
    assert str(caught.value) == (
        "nucleo-f446re was not flashed: drive: no drive NODE_F446RE is mounted; openocd: no board is found (Error: "
        "open failed); pyocd: no board is found (No connected debug probes)\n"
        f"  where: flash\n  try:   drive: {DRIVE_CLOSED}\n         openocd: {PROBE_CLOSED}\n"
        f"         pyocd: {PROBE_CLOSED}"
    )


@pytest.mark.parametrize(
    ("name", "facts", "program"),
    [
        ("esptool", {"chip": "esp32c3", "offset": 0}, "esptool"),
        ("teensy", {"mcu": "TEENSY41"}, "teensy_loader_cli"),
    ],
)
def test_other_tools_find_no_board(
    name: str, facts: dict[str, str | int], program: str, image: Image, tool: Tool
) -> None:
    own = with_ways(image, **{name: facts})
    tool(program, NO_PROBE[program], 2)
    with pytest.raises(ToolError, match=rf"^nucleo-f446re was not flashed: {name}: no board is found \("):
        flashing.flash(own, ways(own))


OTHER_CHIP = {
    "openocd": "Info : Target voltage: 3.2\nWarn : UNEXPECTED idcode: 0x2ba01477\nError: expected 1 of 1: 0x1ba01477\n",
    "esptool": "A fatal error occurred: This chip is ESP32-S3, not ESP32-C3. Wrong chip argument?\n",
}


def test_another_chip_stops_it(image: Image, tool: Tool, tmp_path: Path) -> None:
    tool("openocd", OTHER_CHIP["openocd"], 1)
    tool("pyocd", lists=KNOWN)
    with pytest.raises(InputError) as caught:
        flashing.flash(image, ways(image))
    assert str(caught.value) == (
        "openocd finds another chip than that of nucleo-f446re: Warn : UNEXPECTED idcode: 0x2ba01477\n"
        f"  where: {shown(ways(image)[1])}\n"
        "  try:   connect the board that the firmware was built for, or build for this one (mcugen boards)"
    )
    assert len(called(tmp_path)) == 1  # pyocd must not flash it


def test_esptool_tells_of_another_chip(image: Image, tool: Tool) -> None:
    own = with_ways(image, esptool={"chip": "esp32c3", "offset": 0})
    tool("esptool", OTHER_CHIP["esptool"], 2)
    with pytest.raises(
        InputError, match=r"^esptool finds another chip than .*: .*This chip is ESP32-S3, not ESP32-C3"
    ):
        flashing.flash(own, ways(own))


def test_a_tool_that_fails_on_the_way_stops_it(image: Image, tool: Tool, tmp_path: Path) -> None:
    tool("openocd", "\n".join(f"line {i}" for i in range(9)) + "\n\n** Verify Failed **\n", 1)
    tool("pyocd", lists=KNOWN)
    with pytest.raises(ToolError) as caught:
        flashing.flash(image, ways(image))
    lines = [f"    line {i}" for i in range(4, 9)]
    assert str(caught.value) == "\n".join(
        ["openocd exits with 1:", *lines, "    ** Verify Failed **", f"  where: {shown(ways(image)[1])}",
         f"  try:   {AGAIN}"]
    )  # fmt: skip
    assert len(called(tmp_path)) == 1


def test_a_tool_that_cannot_be_run(image: Image, tmp_path: Path) -> None:
    path = tmp_path / "bin" / "openocd"
    path.write_bytes(b"\0")
    path.chmod(0o755)
    with pytest.raises(ToolError) as caught:
        flashing.flash(image, ways(image, "openocd"))
    assert str(caught.value) == (
        f"openocd could not be run: [Errno 8] Exec format error: 'openocd'\n  where: flash\n  try:   {AGAIN}"
    )


# ---------------------------------------------------------------- drives


def mount(monkeypatch: pytest.MonkeyPatch, *drives: Path) -> None:
    for drive in drives:
        drive.mkdir()
    monkeypatch.setattr(flashing, "_mounted", lambda: {drive.name: drive for drive in drives})


def test_a_drive_takes_a_copy(
    image: Image, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: Tool
) -> None:
    drive = tmp_path / "NODE_F446RE"
    tool("openocd")
    mount(monkeypatch, drive)
    (drive / "FAIL.TXT").write_text("of an earlier copy")
    way = flashing.flash(image, ways(image))
    assert shown(way) == f"cp {folder}/firmware.bin {drive}/"
    assert (drive / "firmware.bin").read_bytes() == (folder / "firmware.bin").read_bytes()
    assert called(tmp_path) == []


def test_a_drive_may_be_named(image: Image, tmp_path: Path) -> None:
    (tmp_path / "stick").mkdir()
    assert flashing.flash(image, ways(image, drive=tmp_path / "stick")).tool == "drive"
    assert (tmp_path / "stick" / "firmware.bin").is_file()
    way = ways(image, "drive", tmp_path / "nowhere")[0]
    assert (way.lacks, way.remedy) == (f"{tmp_path / 'nowhere'} is no drive", DRIVE_CLOSED)


def test_the_drive_of_another_board_is_named(image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = dataclasses.replace(
        image.board, name="nucleo-f401re", flashing=(("drive", {"label": "NODE_F401RE"}), ("teensy", {"mcu": "T"}))
    )
    monkeypatch.setattr(flashing, "list_boards", lambda: (image.board, other))
    mount(monkeypatch, tmp_path / "NODE_F401RE")
    with pytest.raises(ToolError) as caught:
        flashing.flash(image, ways(image, "drive"))
    assert str(caught.value) == (
        "nucleo-f446re was not flashed: drive: the drive NODE_F401RE is mounted, which is that of nucleo-f401re\n"
        "  where: flash\n  try:   drive: connect a nucleo-f446re, or mcugen build --board nucleo-f401re"
    )


def test_what_a_drive_says_when_it_fails_is_shown(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive = tmp_path / "NODE_F446RE"
    mount(monkeypatch, drive)
    monkeypatch.setattr(os, "fsync", lambda _: (drive / "FAIL.TXT").write_text("The interface firmware FAILED\r\n"))
    way = ways(image, "drive")
    with pytest.raises(ToolError) as caught:
        flashing.flash(image, way)
    assert str(caught.value) == (
        f"the board's drive refuses the image: The interface firmware FAILED\n  where: {shown(way[0])}\n  try:   {AGAIN}"
    )


def test_a_drive_that_cannot_be_written(image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount(monkeypatch, tmp_path / "NODE_F446RE")
    (tmp_path / "NODE_F446RE" / "firmware.bin").mkdir()
    with pytest.raises(ToolError, match=r"^the board's drive refuses the image: Is a directory\n"):
        flashing.flash(image, ways(image))


def test_a_boot_drive_takes_a_uf2_and_may_be_gone_when_it_has_it(
    image: Image, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = with_ways(image, uf2={"label": "RPI-RP2", "family": 0xE48BFF56})
    (way,) = ways(own)
    assert (way.command[1], way.lacks) == (f"{folder}/firmware.uf2", "no drive RPI-RP2 is mounted")
    assert way.remedy == UF2_CLOSED
    drive = tmp_path / "RPI-RP2"
    mount(monkeypatch, drive)
    assert ways(own)[0].lacks == f"{drive} is no UF2 drive"
    (drive / "INFO_UF2.TXT").write_text("UF2 Bootloader v3.0\n")
    (folder / "firmware.uf2").write_bytes(b"blocks")
    assert flashing.flash(own, ways(own)).tool == "uf2"
    assert (drive / "firmware.uf2").read_bytes() == b"blocks"

    def vanish(_: int) -> None:
        drive.rename(tmp_path / "gone")
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", vanish)
    assert flashing.flash(own, ways(own)).tool == "uf2"


# ---------------------------------------------------------------- the image


def test_the_image_is_measured(image: Image, folder: Path) -> None:
    assert (image.start, image.size) == (0x08000000, (folder / "firmware.bin").stat().st_size)
    assert (image.board.name, image.title) == ("nucleo-f446re", "random on nucleo-f446re")
    assert image.build == json.loads((folder / "build-info.json").read_text())["build_id"]


def with_map(monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    board = dataclasses.replace(load_board("nucleo"), **changes)  # type: ignore[arg-type]
    monkeypatch.setattr(flashing, "load_board", lambda name: board)


MEMORY_MAP: list[tuple[dict[str, object], type[McugenError], str]] = [
    (
        {"core": "rv32imc"},
        InputError,
        "the ELF programs a EM_ARM, and rv32imc is a EM_RISCV\n  where: {}\n  try:   mcugen build --board nucleo-f446re",
    ),
    (
        {"flash": MemoryRegion(0x10000000, 2**19)},
        InputError,
        "the image begins at 0x08000000, and the flash is 0x10000000..0x1007ffff\n  where: {}\n"
        "  try:   it was linked for another board: mcugen build --board nucleo-f446re",
    ),
    (
        {"flash": MemoryRegion(0x08000000, 1000)},
        DoesNotFitError,
        "the image ends {beyond:,} B beyond the flash, 0x08000000..0x080003e7\n  where: {}\n"
        "  try:   save as much of weights or code (mcugen plan), or choose a board with more flash",
    ),
]


@pytest.mark.parametrize(("changes", "kind", "text"), MEMORY_MAP)
def test_an_image_that_does_not_suit_the_memory_map(
    changes: dict[str, object], kind: type[McugenError], text: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beyond = open_image(folder).size - 1000
    with_map(monkeypatch, **changes)
    with pytest.raises(kind) as caught:
        open_image(folder)
    where = f"{folder}/firmware.elf against the memory map of nucleo-f446re"
    assert str(caught.value) == text.format(where, beyond=beyond)


def test_what_lies_in_a_further_memory_has_its_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_map(monkeypatch, ram=MemoryRegion(0x20000000, 1032))
    with pytest.raises(InputError) as caught:
        open_image(folder)
    assert re.fullmatch(
        f"the firmware uses [0-9,]+ B at 0x20000400, where nucleo-f446re has no memory\n  where: {folder}/firmware.elf "
        "against the memory map of nucleo-f446re\n  try:   it was linked for another board: mcugen build --board "
        "nucleo-f446re",
        str(caught.value),
    )
    main = Memory("main", MemoryRegion(0x20000000, 2**17), frozenset({"data"}))
    with_map(monkeypatch, ram=MemoryRegion(0x30000000, 1024), memories=(main,))
    assert open_image(folder).size > 0


@pytest.fixture(scope="module")
def built_for(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `mcugen build` writes for a board."""
    out = tmp_path_factory.mktemp("board") / "out"
    built_folder(out, request.param)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("built_for", [board.name for board in list_boards() if board.flashing], indirect=True)
def test_what_is_built_for_a_board_suits_its_memory_map(built_for: Path) -> None:
    image = open_image(built_for)
    assert 0 < image.size <= (built_for / "firmware.bin").stat().st_size
    found = ways(image)
    assert len(found) == len(image.board.flashing)
    files = [
        built_for / word.partition("{")[2].rpartition("}")[0] for way in found for word in way.command if "{" in word
    ]
    files += [Path(word) for way in found for word in way.command if word.startswith(str(built_for))]
    assert files and all(path.is_file() for path in files)


def changed(folder: Path, tmp_path: Path, **info: object) -> Path:
    """A copy of a build folder with other facts."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.glob("firmware.*"):
        (copy / path.name).write_bytes(path.read_bytes())
    facts = json.loads((folder / "build-info.json").read_text())
    (copy / "build-info.json").write_text(json.dumps({**facts, **info}))
    return copy


@pytest.mark.parametrize("name", ["firmware.elf", "firmware.bin", "firmware.hex"])
def test_a_file_that_has_changed_is_not_flashed(name: str, folder: Path, tmp_path: Path) -> None:
    copy = changed(folder, tmp_path)
    (copy / name).write_bytes((copy / name).read_bytes() + b"\0")
    with pytest.raises(InputError) as caught:
        open_image(copy)
    assert str(caught.value) == (
        f"{copy / name} has changed since it was built\n  where: build-info.json\n  try:   run mcugen build again"
    )


@pytest.mark.parametrize("info", [{"files": {}}, {"files": []}, {"board": None, "files": {"firmware.elf": 1}}, None])
def test_a_folder_without_firmware(info: dict[str, object] | None, folder: Path, tmp_path: Path) -> None:
    copy = changed(folder, tmp_path, **(info or {}))
    if info is None:
        (copy / "build-info.json").write_text("[")
    with pytest.raises(McugenError):
        open_image(copy)
    if info != {"board": None, "files": {"firmware.elf": 1}}:
        with pytest.raises(
            InputError, match=r"^.*build-info.json tells of no firmware for a board\n  where: flash\n"
        ):
            open_image(copy)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        open_image(tmp_path / "none")
    assert str(caught.value) == (
        f"{tmp_path}/none/build-info.json cannot be read: No such file or directory\n  where: flash\n"
        "  try:   name the folder that mcugen build wrote: its last line says where it is"
    )


def test_firmware_for_another_board_is_not_flashed(folder: Path) -> None:
    with pytest.raises(InputError) as caught:
        open_image(folder, "mps2-an386")
    assert str(caught.value) == (
        f"{folder} holds firmware for nucleo-f446re, not for mps2-an386\n  where: --board\n"
        "  try:   leave --board out, or mcugen build --board mps2-an386"
    )


def test_an_emulated_board_is_not_flashed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        open_image(changed(folder, tmp_path, board="mps2-an386"))
    assert str(caught.value) == (
        "mps2-an386 states no way to flash it\n  where: board mps2-an386\n  try:   mcugen run talks to boards that are "
        "emulated; a board file of your own needs a [flashing.TOOL], as boards/nucleo-f446re.toml has"
    )


def test_a_board_of_ones_own_is_named_by_its_file(folder: Path, tmp_path: Path, repo_root: Path) -> None:
    copy = changed(folder, tmp_path, board="mine")
    with pytest.raises(UsageError) as caught:
        open_image(copy)
    assert str(caught.value) == (
        "mine is a board of your own, and its file is needed\n  where: flash\n  try:   --board path/to/its.toml"
    )
    text = (
        (repo_root / "boards" / "nucleo-f446re.toml").read_text().replace('name = "nucleo-f446re"', 'name = "mine"')
    )
    (tmp_path / "mine.toml").write_text(text)
    assert open_image(copy, str(tmp_path / "mine.toml")).board.name == "mine"


# ---------------------------------------------------------------- the command


def test_flash_prints_commands_or_programs(folder: Path, tool: Tool, tmp_path: Path) -> None:
    tool("openocd")
    dry = CliRunner().invoke(mcugen, ["flash", str(folder), "--dry-run"])
    image = open_image(folder)
    head = f"random on nucleo-f446re, build {image.build}: {image.size:,} of 524,288 B ("
    assert dry.exit_code == 0 and dry.stdout.startswith(head)
    assert f"\n\nopenocd: ready\n  {shown(ways(image)[1])}\n\npyocd: pyocd is not installed\n" in dry.stdout
    assert called(tmp_path) == []
    found = CliRunner().invoke(mcugen, ["flash", str(folder), "--json"])
    facts = json.loads(found.stdout)
    assert (facts["flashed_with"], facts["build"], facts["bytes"]) == ("openocd", image.build, image.size)
    assert [way["tool"] for way in facts["ways"]] == ["drive", "openocd", "pyocd"]
    assert len(called(tmp_path)) == 1
    assert CliRunner().invoke(mcugen, ["flash", str(folder), "--tool", "drive"]).exit_code == 5
