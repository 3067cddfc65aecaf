"""Raspberry Pi Pico and Pico 2: the port and its fallbacks, what a boot ROM looks for, a model op by op, and the RP2040's
image from the real boot ROM on."""

from __future__ import annotations

import dataclasses
import functools
import struct
from pathlib import Path

import ladder
import numpy as np
import pytest
import rp2040
import zoo
from projects import probe_project, project, require
from test_ports import MAIN
from test_verify import prompted

from mcugen import ladder as rungs
from mcugen import layout as layouts
from mcugen.boards import load_board
from mcugen.console import END_OF_TRANSMISSION
from mcugen.emulate import cortex_m, unicorn_machine
from mcugen.emulate.cortex_m import CortexM
from mcugen.emulate.machine import Emulator, FirmwareFault
from mcugen.emulate.rp2 import Rp2
from mcugen.emulate.second_core import Mailboxes
from mcugen.images import to_bin
from mcugen.integers import quantize_source
from mcugen.ir import Board, Config, Difference, Firmware, Linear
from mcugen.layout import SECOND_STACK_BYTES
from mcugen.packing import pack
from mcugen.resources import data_dir
from mcugen.sources import open_source
from mcugen.toolchain import build
from mcugen.verify import start_model, verify

BOARDS = ("pico", "pico2")
CRYSTAL = 12_000_000
SYS_CTRL, XOSC_STATUS, PLL_CS, SYS_SELECTED, UART_FR = 0x3C, 0x04, 0x00, 0x44, 0x18

every_board = pytest.mark.parametrize("name", BOARDS)
toolchains = pytest.mark.parametrize("toolchain", [pytest.param("zig"), pytest.param("gcc", marks=pytest.mark.slow)])


@functools.cache
def firmware(name: str, toolchain: str, main: bytes) -> Firmware:
    board = load_board(name)
    return build(project(board, main=main), require(toolchain, board))


def machine(name: str, toolchain: str = "zig", main: bytes = MAIN) -> CortexM:
    ladder.require_unicorn()
    return CortexM(firmware(name, toolchain, main))


def at(board: Board) -> dict[str, int]:
    return dict(board.port_defines)


def baud_rate(registers: Rp2, board: Board, clock: int) -> float:
    """PL011, DDI 0183, 3.3.6: clock / (16 * (IBRD + FBRD / 64))."""
    uart = at(board)["MG_UART_BASE"]
    return clock / (16 * (registers.read(uart + 0x24, 4) + registers.read(uart + 0x28, 4) / 64))


# ---------------------------------------------------------------- the port


@every_board
@toolchains
def test_the_board_runs_at_its_rate_and_talks(name: str, toolchain: str) -> None:
    board = load_board(name)
    chip = machine(name, toolchain)
    assert b"".join(chip.console(b"hi\xff.")) == f"{board.clock_hz}hi".encode() + b"\xff"
    registers, addresses = chip._registers, at(board)
    pll = addresses["MG_PLL_BASE"]
    feedback, primary = registers.read(pll + 0x08, 4), registers.read(pll + 0x0C, 4)
    assert CRYSTAL * feedback // ((primary >> 16 & 7) * (primary >> 12 & 7)) == board.clock_hz
    assert 750_000_000 <= CRYSTAL * feedback <= 1_600_000_000  # "PLL": range of the VCO
    assert (primary >> 16 & 7) >= (primary >> 12 & 7)  # "PLL": the larger divider first
    assert registers.read(addresses["MG_CLOCKS_BASE"] + SYS_CTRL, 4) == 1  # the PLL
    assert abs(baud_rate(registers, board, board.clock_hz) / 115_200 - 1) < 0.001


# Each flag that the port waits for, held at zero: where, its bit, and the clock that the board is left with.
FLAGS = {
    "crystal": ("MG_XOSC_BASE", XOSC_STATUS, 1 << 31, "MG_ROSC_HZ"),
    "reference": ("MG_CLOCKS_BASE", 0x38, 1 << 2, "MG_ROSC_HZ"),
    "lock": ("MG_PLL_BASE", PLL_CS, 1 << 31, "MG_CRYSTAL_HZ"),
    "switch": ("MG_CLOCKS_BASE", SYS_SELECTED, 1 << 1, "MG_CRYSTAL_HZ"),
    "resets": ("MG_RESETS_BASE", 0x08, 0xFFFFFFFF, "MG_CLOCK_HZ"),
}


@every_board
@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_that_never_comes_leaves_the_board_alive(
    name: str, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = load_board(name)
    block, offset, mask, clock = FLAGS[flag]
    where, expected = at(board)[block] + offset, at(board)[clock]

    class Stuck(Rp2):
        def read(self, address: int, size: int) -> int:
            value = super().read(address, size)
            return value & ~mask if address == where else value

    monkeypatch.setitem(cortex_m.REGISTERS, "rp2", Stuck)
    chip = machine(name)
    assert b"".join(chip.console(b"still here.")) == f"{expected}still here".encode()
    assert abs(baud_rate(chip._registers, board, expected) / 115_200 - 1) < 0.005


@every_board
def test_a_console_that_takes_nothing_does_not_hang_the_board(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where = at(load_board(name))["MG_UART_BASE"] + UART_FR

    class Deaf(Rp2):
        def read(self, address: int, size: int) -> int:
            value = super().read(address, size)
            return value | 1 << 5 if address == where else value  # TXFF

    monkeypatch.setitem(cortex_m.REGISTERS, "rp2", Deaf)
    monkeypatch.setattr(unicorn_machine, "_UNANSWERED_POLLS", 10**9)  # polling for room is no waiting for input
    silent = MAIN.replace(b"write_number(mg_port_clock_hz());", b"write_number(7u);")
    assert b"".join(machine(name, main=silent).console(b".")) == b"7"


# What a port could forget, and what the model says then.
OMISSIONS = {
    "*reg(RESETS_RESET) &= ~bit;": "the peripheral is held in reset",
    "*reg(CLK_PERI_CTRL) = PERI_ENABLE;": "the UART does not transmit: it, its clock or its pin is not set up",
    "*reg(GPIO0_CTRL) = FUNCTION_UART;": "the UART does not transmit: it, its clock or its pin is not set up",
    "*reg(UART_CR) = CR_ON;": "the UART does not transmit: it, its clock or its pin is not set up",
}


def fault_of(name: str, old: str, new: str) -> FirmwareFault:
    """What the model says of a port with a fault in it."""
    ladder.require_unicorn()
    board = load_board(name)
    made = project(board, main=MAIN)
    text = made.files["ports/rp2/port.c"].decode()
    assert old in text
    made.files["ports/rp2/port.c"] = text.replace(old, new).encode()
    with pytest.raises(FirmwareFault) as caught:
        list(CortexM(build(made, require("zig", board))).console(b"."))
    assert caught.value.kind == "register"
    return caught.value


@every_board
@pytest.mark.parametrize("line", OMISSIONS)
def test_a_line_left_out_of_the_port_is_reported(name: str, line: str) -> None:
    assert fault_of(name, line, "").what.endswith(OMISSIONS[line])


def test_the_isolation_of_the_rp2350_s_pads_is_reported() -> None:
    why = "the UART does not transmit: it, its clock or its pin is not set up"
    assert fault_of("pico2", "*reg(PADS_GPIO0) = PAD_TRANSMIT;", "").what.endswith(why)


@every_board
def test_a_wrong_address_in_the_board_file_is_reported(name: str) -> None:
    board = load_board(name)
    for key in ("RESETS", "CLOCKS", "XOSC", "PLL", "IO", "PADS", "UART"):
        key = f"MG_{key}_BASE"
        fault = fault_of(name, key, f"({key} + 0x100)")
        assert fault.address is not None
        assert fault.address & ~0xFF == at(board)[key] + 0x100
        assert fault.what.endswith("no register that the port uses")


@every_board
def test_reset_state_is_refused_until_the_port_has_run(name: str) -> None:
    ladder.require_unicorn()
    board = load_board(name)
    chip = CortexM(build(probe_project(board), require("zig", board)))
    for key in ("MG_PLL_BASE", "MG_IO_BASE", "MG_PADS_BASE", "MG_UART_BASE"):
        chip.boot()
        base = at(board)[key] + (0 if key in ("MG_PLL_BASE", "MG_UART_BASE") else 4)
        with pytest.raises(FirmwareFault, match="the peripheral is held in reset"):
            chip.call("load_at", base)


# ---------------------------------------------------------------- what boot ROMs look for


def checksum(content: bytes) -> int:
    """RP2040 Datasheet, section Checksum: CRC-32 by 0x04C11DB7 from 0xFFFFFFFF, neither reflected nor inverted."""
    value = 0xFFFFFFFF
    for byte in content:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 0x80000000 else 0)) & 0xFFFFFFFF
    return value


@pytest.mark.parametrize("toolchain", ["zig", "gcc"])
def test_the_second_boot_stage_has_its_checksum_and_the_vectors_follow(toolchain: str) -> None:
    image = to_bin(firmware("pico", toolchain, MAIN).image)
    assert struct.unpack_from("<I", image, 252)[0] == checksum(image[:252])
    stack, reset = struct.unpack_from("<2I", image, 256)
    board = load_board("pico")
    assert stack == board.ram.origin + board.stack_bytes
    assert 0x10000100 < reset < 0x10000100 + len(image) and reset & 1


@pytest.mark.parametrize("toolchain", ["zig", "gcc"])
def test_the_image_definition_is_where_the_rp2350_looks(toolchain: str) -> None:
    """RP2350 Datasheet, section Minimum Arm IMAGE_DEF: five words, word-aligned, in the first 4 KiB."""
    image = to_bin(firmware("pico2", toolchain, MAIN).image)
    block = struct.pack("<5I", 0xFFFFDED3, 0x10210142, 0x000001FF, 0, 0xAB123579)
    found = image.find(block)
    assert 0 < found <= 4096 - len(block) and found % 4 == 0
    assert struct.unpack_from("<I", image)[0] == 0x20000000 + load_board("pico2").stack_bytes  # the vectors, in front


# ---------------------------------------------------------------- a model

SMALL = Config(16, 12, 2, 4, 2, 300, 8, False)  # 300 pieces: prompts of any bytes
CONTEXT = 6
LINES = b"#check 12\n#tokens 9\na b\n"


@every_board
@toolchains
def test_a_model_is_equal_op_by_op_and_at_its_console(name: str, toolchain: str) -> None:
    layout = ladder.laid_out(SMALL, CONTEXT, board=name)
    chip = ladder.board_machine(layout, toolchain)
    tokens = zoo.random_tokens(SMALL, 40, seed=3).tolist()
    report = verify(chip, layout.graph, layout.plan, tokens, rung="rung", title=chip.title)
    chip.close()
    assert (report.machine, report.difference, report.tokens) == (f"{name} in unicorn", None, 40)
    output = b"".join(CortexM(ladder.board_firmware(layout, toolchain)).console(LINES))
    greedy = rungs.verification_tokens(layout.graph, layout.tokenizer, 12)
    checked = rungs.check_lines(layout.graph, greedy)
    assert output.startswith(f"random on {name}\n".encode() + END_OF_TRANSMISSION + checked + END_OF_TRANSMISSION)
    if name == "pico":
        image = to_bin(ladder.board_firmware(layout, toolchain).image)
        assert rp2040.power_on(image).run(LINES, answers=output.count(END_OF_TRANSMISSION)) == output


# ---------------------------------------------------------------- the RP2040 from its boot ROM on


@functools.cache
def default_model() -> layouts.Layout:
    source = open_source(None, None)
    return layouts.lay_out(quantize_source(source, None), source.tokenizer, load_board("pico"))


@toolchains
def test_the_default_model_answers_from_the_boot_rom_on(toolchain: str) -> None:
    layout = default_model()
    image = to_bin(ladder.board_firmware(layout, toolchain).image)
    chip = rp2040.power_on(image)
    tokens = rungs.verification_tokens(layout.graph, layout.tokenizer, 6)
    expected = b"home on pico\n\x04" + rungs.check_lines(layout.graph, tokens) + b"\x04"
    assert chip.run(b"#check 6\n", answers=2) == expected
    assert chip.rp2040.uart[0].baud_rate == pytest.approx(115_200, rel=0.001)


BOOT = 1_000_000  # cycles: enough for boot ROM, port and a few bytes
READ_EB, READ_03 = 0xA0002022, 0x03000218  # SSI_SPI_CTRLR0: continuous quad reads; plain ones


@pytest.mark.parametrize(("quad_enabled", "control", "divider"), [(True, READ_EB, 2), (False, READ_03, 4)])
def test_the_second_boot_stage_reads_as_fast_as_the_flash_can(quad_enabled: bool, control: int, divider: int) -> None:
    chip = rp2040.power_on(to_bin(firmware("pico", "zig", MAIN).image), quad_enabled=quad_enabled)
    assert chip.run(b"hi.", answers=1, cycles=BOOT) == b"125000000hi"
    ssi = chip.rp2040.ssi
    assert (ssi._spictlr0, ssi._baudr, ssi._ssienr) == (control, divider, 1)


def test_the_boot_rom_refuses_a_damaged_boot_stage() -> None:
    image = bytearray(to_bin(firmware("pico", "zig", MAIN).image))
    image[100] ^= 1
    assert rp2040.power_on(bytes(image)).run(b"hi.", answers=1, cycles=BOOT) == b""


# ---------------------------------------------------------------- two cores

RECIPES = [
    pytest.param(8, 1, id="int8"),
    pytest.param(8, 4, id="int8, prompts"),
    pytest.param(4, 1, id="int4", marks=pytest.mark.slow),
]


def difference(machine: Emulator, layout: layouts.Layout) -> Difference | None:
    tokens = zoo.random_tokens(SMALL, 40, seed=3).tolist()
    return verify(machine, layout.graph, layout.plan, tokens, rung="rung", title="").difference


@every_board
@pytest.mark.parametrize(("bits", "batch"), RECIPES)
@pytest.mark.parametrize("eager", [False, True], ids=["the first core first", "the second core first"])
def test_both_cores_give_what_one_gives(
    name: str, bits: int, batch: int, eager: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mailboxes, "eager", eager)
    layout = ladder.laid_out(SMALL, CONTEXT, board=name, bits=bits, batch=batch)
    chip = ladder.board_machine(layout)
    assert isinstance(chip, CortexM)
    assert difference(chip, layout) is None
    if batch > 1:
        assert prompted(chip, layout, CONTEXT).difference is None
    second = chip._registers.second.runner
    assert second.state.instructions > 40 * 100
    # Of its stack, which .bss cleared, a quarter has never been touched.
    stack = chip.read(chip.address("second_stack"), SECOND_STACK_BYTES)
    assert len(stack.lstrip(b"\0")) < SECOND_STACK_BYTES * 3 // 4


@every_board
def test_a_second_core_that_does_not_answer_is_not_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CortexM, "_second_core", lambda self, mailboxes: None)
    layout = ladder.laid_out(SMALL, CONTEXT, board=name)
    assert difference(ladder.board_machine(layout), layout) is None


@every_board
def test_a_board_file_may_leave_the_second_core_alone(name: str, tmp_path: Path) -> None:
    text = (data_dir("boards") / f"{name}.toml").read_text(encoding="utf-8")
    assert text.count("count = 2\n") == 1
    (tmp_path / "one.toml").write_text(text.replace("count = 2\n", ""), encoding="utf-8")
    layout = ladder.laid_out(SMALL, CONTEXT, board=str(tmp_path / "one.toml"))
    assert b"second" not in layouts.make_project(layout, ladder.COMMAND).files["random.c"]
    assert difference(ladder.board_machine(layout), layout) is None


def test_the_cores_share_the_work_of_a_matrix() -> None:
    """Of the default model's 48 rows and more, each core has about a half."""
    layout = default_model()
    chip = ladder.board_machine(layout)
    start_model(chip, layout.name)
    chip.reset_profile()
    before = chip._registers.second.runner.state.instructions
    chip.call(f"{layout.name}_step", layout.tokenizer.bos)
    first = sum(n for symbol, n in chip.profile().instructions.items() if "gemv" in symbol)
    second = chip._registers.second.runner.state.instructions - before
    assert 0.7 * first < second < first * 1.3


# What the generated C or the port could get wrong: the file, what it reads, what it reads then.
FAULTS = {
    "it does not wait": ("random.c", "    mg_second_core_wait();\n", ""),
    "both have the first rows": (
        "random.c",
        "t)\n{{\n    (void)t;\n    mg_linear_s16_{0}(s16(LAYER0_WQ) + 8",
        "t)\n{{\n    (void)t;\n    mg_linear_s16_{0}(s16(LAYER0_WQ)",
    ),
    "the wrong weights": ("random_weights.c", "random_layer0_wo_multiplier + 8", "random_layer0_wo_multiplier"),
    "a word too few": ("ports/rp2/second_core.c", "        send(0u);\n", ""),
    "the wrong stack": (
        "ports/rp2/second_core.c",
        "(uint32_t)(second_stack + STACK_BYTES / 8)",
        "(uint32_t)second_stack & 0x20000000u",
    ),
}
FAULTS_SEEN = {
    "it does not wait": "the queue is full",
    "a word too few": "sleeps (wfi or wfe), and nothing wakes it",
    "the wrong stack": "writes 4 bytes at 0x1ffffff8, 8 B below it",
}


@every_board
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_two_cores_is_found(name: str, fault: str) -> None:
    layout = ladder.laid_out(SMALL, CONTEXT, board=name)
    file, old, new = FAULTS[fault]
    made = layouts.make_project(layout, ladder.COMMAND)
    suffix = {"pico": "v6m", "pico2": "dsp"}[name]
    old, new = (text.replace("{0}", suffix).replace("{{", "{") for text in (old, new))
    text = made.files[file].decode()
    assert old in text
    ladder.require_unicorn()
    files = {**made.files, file: text.replace(old, new).encode()}
    chip = CortexM(build(dataclasses.replace(made, files=files), require("zig", layout.board)))
    try:
        assert difference(chip, layout) is not None
    except FirmwareFault as found:
        assert found.what.endswith(FAULTS_SEEN[fault])


@pytest.mark.parametrize("packing", ["v6m", "v7m", "dsp"])
@pytest.mark.parametrize(("bits", "group"), [(8, 0), (4, 0), (4, 32)])
@pytest.mark.parametrize(("rows", "cols"), [(7, 8), (16, 40), (45, 64), (77, 1200)])
def test_a_stream_that_is_cut_is_two_streams(packing: str, bits: int, group: int, rows: int, cols: int) -> None:
    rng = np.random.default_rng(rows)
    largest = 127 if bits == 8 else 7  # 1200 columns of it take several chunks, in each part alike
    codes = np.where(rng.random((rows, cols)) < 0.5, largest, -largest).astype(np.int8)
    scale = rng.integers(-127, 128, (rows, -(-cols // group))).astype(np.int8) if group else None
    w = Linear(codes, np.ones(rows, np.int16), 32, bits, group, scale)
    whole = pack(w, packing)
    for first in range(whole.cut_rows, rows, whole.cut_rows):
        halves = (slice(first), slice(first, rows))
        lower, upper = (
            pack(
                dataclasses.replace(w, codes=codes[half], group_scale=None if scale is None else scale[half]), packing
            )
            for half in halves
        )
        assert lower.chunk == upper.chunk == whole.chunk
        at = first // whole.cut_rows * whole.cut_size
        assert np.array_equal(whole.stream[:at], lower.stream)
        assert np.array_equal(whole.stream[at:], upper.stream)
