"""Board files: what they say, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcugen.boards import _ports, board_names, list_boards, load_board
from mcugen.cores import CORES
from mcugen.errors import InputError, UsageError
from mcugen.ir import Memory, MemoryRegion
from mcugen.ports import port_files
from mcugen.resources import data_dir

NUCLEO = (data_dir("boards") / "nucleo-f446re.toml").read_text(encoding="utf-8")


def test_the_nucleo_states_the_facts_of_its_manuals() -> None:
    board = load_board("nucleo-f446re")
    assert (board.core, board.features) == ("cortex-m4", frozenset({"dsp", "fpu", "v7m"}))
    assert board.clock_hz == 180_000_000
    assert board.flash == MemoryRegion(0x0800_0000, 512 * 1024)
    assert board.ram == MemoryRegion(0x2000_0000, 128 * 1024)
    assert (board.stack_bytes, board.headroom, board.port) == (1024, 0.20, "stm32f4")
    assert board.port_defines == (("MG_CLOCK_HZ", 180_000_000), ("MG_UART_BAUD", 115_200))
    assert len(board.sha256) == 64
    assert board.facts["ram"] == (
        "128 KiB at 0x20000000 (RM0390 section 2.3: SRAM1 112 KiB and SRAM2 16 KiB, contiguous)"
    )


@pytest.mark.parametrize(
    ("number", "core", "features", "mhz"),
    [
        (383, "cortex-m0plus", {"v6m"}, 25),
        (385, "cortex-m3", {"v7m"}, 25),
        (386, "cortex-m4", {"v7m", "dsp", "fpu"}, 25),
        (500, "cortex-m7", {"v7m", "dsp", "fpu", "dual_issue"}, 25),
        (505, "cortex-m33", {"v7m", "dsp", "fpu"}, 20),
    ],
)
def test_the_mps2_boards_are_those_that_qemu_has(number: int, core: str, features: set[str], mhz: int) -> None:
    board = load_board(f"mps2-an{number}")
    assert (board.core, board.port, board.clock_hz) == (core, "mps2", mhz * 1_000_000)
    assert board.features == features
    secure = 0x1000_0000 if core == "cortex-m33" else 0  # bit 28: the Secure alias
    static_ram = 0x2800_0000 if secure else 0x2000_0000
    assert board.flash == MemoryRegion(secure, 4 * 1024**2)
    assert board.ram == MemoryRegion(static_ram + secure, 4 * 1024**2)
    assert board.port_defines == (
        ("MG_CLOCK_HZ", mhz * 1_000_000),
        ("MG_UART_BASE", (0x4020_0000 if secure else 0x4000_4000) + secure),
        ("MG_UART_BAUD", 115_200),
        ("MG_UART_CLOCK_HZ", mhz * 1_000_000),
    )


KIB = 1024
FLASH_ORIGIN, RAM_ORIGIN = 0x0800_0000, 0x2000_0000


@pytest.mark.parametrize(
    ("name", "core", "mhz", "flash", "ram", "further"),
    [
        ("nucleo-f401re", "cortex-m4", 84, 512, (RAM_ORIGIN, 96), {}),
        ("nucleo-l476rg", "cortex-m4", 80, 1024, (RAM_ORIGIN, 96), {"sram2": (0x1000_0000, 32)}),
        ("nucleo-g474re", "cortex-m4", 170, 512, (RAM_ORIGIN, 80 + 16), {"ccm": (0x1000_0000, 32)}),
        (
            "nucleo-h743zi2", "cortex-m7", 480, 2048, (0x2400_0000, 512),
            {"itcm": (0, 64), "dtcm": (RAM_ORIGIN, 128)},
        ),
        ("nucleo-u575zi-q", "cortex-m33", 160, 2048, (RAM_ORIGIN, 192 + 64 + 512), {"sram4": (0x2800_0000, 16)}),
        ("nucleo-h563zi", "cortex-m33", 250, 2048, (RAM_ORIGIN, 256 + 64 + 320), {}),
    ],
)  # fmt: skip
def test_the_other_nucleos_have_the_memories_of_their_manuals(
    name: str, core: str, mhz: int, flash: int, ram: tuple[int, int], further: dict[str, tuple[int, int]]
) -> None:
    board = load_board(name)
    assert (board.core, board.clock_hz) == (core, mhz * 1_000_000)
    assert {"dsp", "fpu"} <= board.features
    assert board.flash == MemoryRegion(FLASH_ORIGIN, flash * KIB)
    assert board.ram == MemoryRegion(ram[0], ram[1] * KIB)
    assert {memory.name: memory.region for memory in board.memories} == {
        key: MemoryRegion(origin, size * KIB) for key, (origin, size) in further.items()
    }
    openocd = [] if name == "nucleo-h563zi" else ["openocd"]  # which has no script for an STM32H5
    assert [tool for tool, _ in board.flashing] == ["drive", *openocd, "pyocd"]


def test_every_core_runs_on_a_board_that_ships() -> None:
    assert {board.core for board in list_boards()} == set(CORES)


def test_a_board_has_what_its_core_always_has_and_what_its_file_states(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        NUCLEO.replace('"cortex-m4"', '"cortex-m7"').replace('["dsp", "fpu"]', '["dsp"]'), encoding="utf-8"
    )
    assert load_board(str(path)).features == CORES["cortex-m7"].inherent | {"dsp"}
    assert not any(core.inherent & core.features for core in CORES.values())


def test_a_define_may_be_an_address(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(NUCLEO.replace('"115200 baud"', "0xFFFFFFFC"), encoding="utf-8")
    assert dict(load_board(str(path)).port_defines)["MG_UART_BAUD"] == 0xFFFFFFFC


def test_the_host_is_a_board() -> None:
    board = load_board("host")
    assert (board.core, board.port, board.features) == ("host", "host", frozenset())
    assert board.ram.size >= 2**30


def test_an_alias_names_the_same_board() -> None:
    assert load_board("nucleo") == load_board("nucleo-f446re")


def test_every_shipped_file_is_listed_under_its_own_name() -> None:
    names = [board.name for board in list_boards()]
    assert names == sorted(path.stem for path in data_dir("boards").iterdir())
    assert {"host", "nucleo-f446re"} <= set(names)


def test_every_board_has_a_port_that_exists() -> None:
    for board in list_boards():
        port = port_files(board)
        assert f"ports/{board.port}/port.c" in port.sources
        assert set(port.sources) <= set(port.files)


def test_a_cortex_m_port_starts_with_the_startup_code() -> None:
    port = port_files(load_board("nucleo"))
    assert port.sources == ("ports/cortex_m/startup.c", "ports/freestanding/mem.c", "ports/stm32f4/port.c")
    assert port.include_dirs == ("ports",)
    assert port_files(load_board("host")).sources == ("ports/host/port.c",)


def test_a_user_s_own_file_is_a_board(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(NUCLEO.replace('name = "nucleo-f446re"', 'name = "mine"'), encoding="utf-8")
    board = load_board(str(path))
    assert board.name == "mine"
    assert board.sha256 != load_board("nucleo").sha256


def test_an_unknown_board_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        load_board("nucleo-f446")
    assert str(caught.value) == (
        f"there is no board 'nucleo-f446'; mcugen knows {', '.join(board_names())}\n"
        "  where: --board\n"
        "  try:   nucleo-f446re or nucleo-l476rg, or the path of your own .toml file"
    )
    with pytest.raises(UsageError) as caught:
        load_board("zx81")
    assert caught.value.hint == "one of those, or the path of your own .toml file"


def test_a_missing_file_is_named() -> None:
    with pytest.raises(InputError) as caught:
        load_board("no/such.toml")
    assert str(caught.value) == (
        "board file no/such.toml cannot be read: No such file or directory\n"
        "  where: --board\n"
        "  try:   check the path; without .toml at the end, --board takes the name of a board that ships with mcugen"
    )


def test_a_file_that_is_not_toml_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.toml").write_text("name = nucleo\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_board("bad.toml")
    assert str(caught.value) == (
        "board file bad.toml is not TOML: Invalid value (at line 1, column 8)\n"
        "  where: bad.toml\n"
        "  try:   correct that line; boards/nucleo-f446re.toml is an example"
    )


SIZE = "write a whole number, a space and one of B, KiB, MiB, GiB"
TOP_KEYS = (
    "the keys here are name, aliases, title, port, headroom, core, clock, flash, ram, stack, port_defines, facts, "
    "memories, flashing"
)
ENTRY_KEYS = "the keys here are value, source"

# what is replaced, by what, the sentence, the hint
WRONG = [
    ('title = "', 'titel = "', "titel is no key", "did you mean title?"),
    ("[core]", 'zebra = "x"\n[core]', "zebra is no key", TOP_KEYS),
    ('headroom = "20 %"\n', "", "headroom is missing", TOP_KEYS),
    ('rate = "180 MHz"\n', "", "clock.rate is missing", "the keys here are rate, source"),
    ("MG_UART_BAUD = {", "MG_UART_BAUD = { unit = 1,", "port_defines.MG_UART_BAUD.unit is no key", ENTRY_KEYS),
    ("origin = 0x20000000\n", "", "ram.origin is missing", "the keys here are origin, size, source, code_origin"),
    ('source = "RM0390 section 2.3', 'source = "" #', "ram.source is ''", "it must be a text that is not empty"),
    ('"128 KiB"', '"128 KB"', "ram.size is '128 KB'", SIZE),
    ('"128 KiB"', "131072", "ram.size is 131072", SIZE),
    ('"128 KiB"', '"0 KiB"', "ram.size is '0 KiB'", "it must be more than zero"),
    (
        '"180 MHz"',
        '"180 mhz"',
        "clock.rate is '180 mhz'",
        "write a whole number, a space and one of Hz, kHz, MHz, GHz",
    ),
    (
        '"20 %"',
        '"0.2"',
        "headroom is '0.2'",
        'write a whole number below 100 and a percent sign, as in "20 %"',
    ),
    (
        "origin = 0x08000000",
        'origin = "0x08000000"',
        "flash.origin is '0x08000000'",
        "it must be a 32-bit address, as in 0x08000000",
    ),
    (
        "origin = 0x20000000",
        "origin = 0xFFFF0000",
        "ram.size ends at 0x100010000",
        "a region must end within 32 bits",
    ),
    (
        "origin = 0x20000000",
        "origin = 0x0807FFFC",
        "ram 0x0807fffc..0x0809fffb overlaps flash 0x08000000..0x0807ffff",
        "two memories cannot answer at one address: correct the origins or sizes",
    ),
    (
        '"1 KiB"',
        '"1530 B"',
        "stack.size is 1,530 B",
        "it must be a multiple of 8 B below the RAM's 131,072 B",
    ),
    (
        '"1 KiB"',
        '"128 KiB"',
        "stack.size is 131,072 B",
        "it must be a multiple of 8 B below the RAM's 131,072 B",
    ),
    (
        'name = "cortex-m4"',
        'name = "cortex-m5"',
        "core.name is 'cortex-m5'",
        f"it must be one of {', '.join(CORES)}",
    ),
    ('["dsp", "fpu"]', '["mve"]', "core.features has 'mve'", "it may list dsp, fpu"),
    ('["dsp", "fpu"]', '"dsp"', "core.features is 'dsp'", "it must be a list of texts"),
    (
        '"stm32f4"',
        '"stm32"',
        "port is 'stm32'",
        f'it must be one of {", ".join(_ports())}, or "./" and a folder beside this file',
    ),
    (
        'port = "stm32f4"',
        'port = "host"',
        "port 'host' does not start a cortex-m4",
        'core "host" and port "host" go together',
    ),
    (
        "MG_UART_BAUD",
        "MG_CLOCK_HZ",
        "port_defines.MG_CLOCK_HZ is no name for a define",
        "MG_ and capitals; MG_CLOCK_HZ is clock.rate",
    ),
    (
        'value = "115200 baud"',
        "value = 0x100000000",
        "port_defines.MG_UART_BAUD.value is 4294967296",
        "it must be a 32-bit address, as in 0x08000000",
    ),
    (
        'value = "115200 baud"',
        'value = "fast"',
        "port_defines.MG_UART_BAUD.value is 'fast'",
        "write a whole number, a space and one of B, KiB, MiB, GiB, Hz, kHz, MHz, GHz, baud; an address without a unit",
    ),
    ("[facts]", "[facts]\nled = 5", "facts.led is 5", "it must be a table"),
    ("[core]", "[core]\ncount = 3", "core.count is 3", "it must be a whole number from 1 to 2"),
    (
        "[core]",
        "[core]\ncount = 2",
        "core.count is 2, and port 'stm32f4' starts one core",
        "leave it out, or write the port's second_core.c (ports/second_core.h has the contract)",
    ),
    ("[flash]", "[flash]\nxip = 1", "flash.xip is 1", "it must be true or false"),
    (
        "[facts]",
        '[memories.ccm]\norigin = 0x2001FF00\nsize = "1 KiB"\nholds = ["code"]\nsource = "s"\n[facts]',
        "memories.ccm 0x2001ff00..0x200202ff overlaps ram 0x20000000..0x2001ffff",
        "two memories cannot answer at one address: correct the origins or sizes",
    ),
    (
        "[facts]",
        '[memories.ccm]\norigin = 0x10000000\nsize = "1 KiB"\nholds = []\nsource = "s"\n[facts]',
        "memories.ccm.holds is empty",
        "it may list code, data",
    ),
    (
        "[facts]",
        '[memories.CCM]\norigin = 0x10000000\nsize = "1 KiB"\nholds = ["code"]\nsource = "s"\n[facts]',
        "memories.CCM is no name for a memory",
        "small letters, digits and underscores, but not flash or ram or data or code",
    ),
    (
        "[facts]",
        '[memories.ram]\norigin = 0x10000000\nsize = "1 KiB"\nholds = ["code"]\nsource = "s"\n[facts]',
        "memories.ram is no name for a memory",
        "small letters, digits and underscores, but not flash or ram or data or code",
    ),
    (
        "[facts]",
        '[memories.ccm]\norigin = 0x10000000\nsize = "1 KiB"\nholds = ["data"]\nfast = 1\nsource = "s"\n[facts]',
        "memories.ccm.fast is 1",
        "it must be true or false",
    ),
    ("[ram]", "[ram]\ncode_origin = -1", "ram.code_origin is -1", "it must be a 32-bit address, as in 0x08000000"),
    (
        "[ram]",
        "[ram]\ncode_origin = 0x08000000",
        "ram.code_origin 0x08000000..0x0801ffff overlaps flash 0x08000000..0x0807ffff",
        "two memories cannot answer at one address: correct the origins or sizes",
    ),
    (
        "[facts]",
        "[memories.ccm]\norigin = 0x10000000\n[facts]",
        "memories.ccm.size is missing",
        "the keys here are origin, size, holds, source, fast",
    ),
    (
        "[facts]",
        '[flashing.jlink]\nsource = "s"\n[facts]',
        "flashing.jlink is no tool",
        "mcugen knows drive, uf2, openocd, pyocd, esptool, teensy",
    ),
    (
        "[facts]",
        '[flashing.esptool]\nchip = "esp32c3"\noffset = "0"\nsource = "s"\n[facts]',
        "flashing.esptool.offset is '0'",
        "it must be a 32-bit number, as in 0xe48bff56",
    ),
]


def test_a_board_may_have_more_memories_cores_and_ways_to_flash_it(tmp_path: Path) -> None:
    text = NUCLEO.replace("[core]", "[core]\ncount = 2").replace("[flash]", "[flash]\nxip = true")
    text = text.replace('port = "stm32f4"', 'port = "rp2"')
    text = (
        text.partition("[flashing.")[0]
        + """
[flashing.uf2]
label = "RPI-RP2"
family = 0xe48bff56
source = "s"
[flashing.pyocd]
target = "rp2040"
pack = ""
source = "s"
[memories.itcm]
origin = 0
size = "64 KiB"
holds = ["code"]
source = "s"
"""
    )
    (tmp_path / "more.toml").write_text(text, encoding="utf-8")
    board = load_board(str(tmp_path / "more.toml"))
    assert (board.cores, board.xip) == (2, True)
    assert board.memories == (Memory("itcm", MemoryRegion(0, 64 * 1024), frozenset({"code"})),)
    assert board.flashing == (
        ("uf2", {"label": "RPI-RP2", "family": 0xE48BFF56}),
        ("pyocd", {"target": "rp2040", "pack": ""}),
    )
    assert board.facts["flash with uf2"] == "label RPI-RP2, family 0xe48bff56 (s)"
    assert board.facts["itcm"] == "64 KiB at 0x00000000 (s)"


@pytest.mark.parametrize(("old", "new", "what", "hint"), WRONG, ids=[case[2] for case in WRONG])
def test_a_wrong_file_is_answered_with_the_key_and_what_is_allowed(
    old: str, new: str, what: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert old in NUCLEO
    Path("wrong.toml").write_text(NUCLEO.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_board("wrong.toml")
    assert str(caught.value) == f"{what}\n  where: wrong.toml\n  try:   {hint}"
