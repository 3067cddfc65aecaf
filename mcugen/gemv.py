"""What a board's matrix kernels cost on fixed shapes, without a model: instructions per multiply-accumulate.

A small firmware holds the kernels of the board's family. Matrices are written behind it into the emulated flash, and
every call is that of a model's forward pass: activations come from the family's own block kernel, and each result
must equal the numpy twin's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from mcugen import kernels
from mcugen.emulate.machine import Emulator
from mcugen.emulate.machines import open_machine
from mcugen.errors import MismatchError, UsageError
from mcugen.families import Family, choose_family
from mcugen.ir import Board, Firmware, Linear, Project
from mcugen.layout import compile_project
from mcugen.layouts import stored_bytes
from mcugen.packing import pack
from mcugen.ports import port_files
from mcugen.rendering import INCLUDE_DIRS, KERNEL_HEADERS, render_linker_script
from mcugen.resources import data_dir
from mcugen.sources import Progress, silent

SHAPES = ((64, 64), (172, 64), (64, 172), (288, 288), (768, 288), (512, 64))  # rows, cols
WEIGHTS = ("int8", "int4", "int4/32")  # int4 with one scale per row, and with one per 32 columns
TOKENS = (1, 4)  # of one call
_KERNELS = ("linear_s16", "linear4_s16", "block_s8")
_ALIGNMENT = 16  # bytes, of everything that is written into memory
_FILLER = 0xA5
_MAIN = b"/* Nothing: the kernels are called one by one. */\nint main(void)\n{\n    return 0;\n}\n"


@dataclass(frozen=True, slots=True)
class GemvCost:
    """One shape. weights: one of WEIGHTS. instructions: per token, of the whole public call.

    block: instructions to quantise one token's input, which is not among them.
    """

    rows: int
    cols: int
    weights: str
    tokens: int
    instructions: float
    block: float

    @property
    def per_mac(self) -> float:
        return self.instructions / (self.rows * self.cols)


@dataclass(frozen=True, slots=True)
class GemvBench:
    """costs: of the shapes that the board's flash can hold."""

    board: str
    core: str
    family: str
    toolchain: str
    costs: tuple[GemvCost, ...]

    def to_json(self) -> dict[str, object]:
        costs = [{**asdict(cost), "per_mac": cost.per_mac} for cost in self.costs]
        facts = {key: getattr(self, key) for key in ("board", "core", "family", "toolchain")}
        return {**facts, "gemv": costs}


def gemv_bench(board: Board, toolchain: str, progress: Progress = silent) -> GemvBench:
    """Count the matrix kernels of the board's family, tokens = 1 and 4, on every shape.

    Raises UsageError for the host, ToolError where a tool is missing, MismatchError where a result is wrong.
    """
    if board.core == "host":
        raise UsageError(
            "instructions are counted in an emulator, and the host has none", where="--board", hint="name a board"
        )
    family = choose_family(board.features)
    firmware = compile_project(gemv_project(board, family), toolchain, progress)
    machine = open_machine(firmware, watch_accesses=False)
    cases = [(shape, weights) for shape in SHAPES for weights in WEIGHTS]
    costs: list[GemvCost] = []
    try:
        machine.boot()
        for done, ((rows, cols), weights) in enumerate(cases):
            costs += _Case(machine, firmware, family, random_linear(rows, cols, weights), weights).costs()
            progress("count matrix kernels", done + 1, len(cases))
    finally:
        machine.close()
    return GemvBench(board.name, board.core, family.name, firmware.toolchain, tuple(costs))


def gemv_project(board: Board, family: Family) -> Project:
    """Firmware of the family's kernels alone, which a debugger calls."""
    firmware = data_dir("firmware")
    port = port_files(board)
    variants = [family.variant(kernel) for kernel in _KERNELS]
    sources = sorted({source for variant in variants for source in variant.sources} | {"kernels/tables.c"})
    headers = {path.relative_to(firmware).as_posix() for path in (firmware / "kernels").rglob("*.h")}
    copied = sorted({*sources, *KERNEL_HEADERS, *headers})
    files = {
        **port.files,
        **{path: (firmware / path).read_bytes() for path in copied},
        "main.c": _MAIN,
        "linker.ld": render_linker_script(board, keep=[variant.symbol for variant in variants]),
    }
    everything = (*port.sources, "main.c", *sources)
    return Project("gemv", board, dict(sorted(files.items())), everything, (".", *INCLUDE_DIRS), "linker.ld")


def random_linear(rows: int, cols: int, weights: str) -> Linear:
    """A matrix of codes over the whole range, from a fixed seed, whose outputs rarely saturate."""
    rng = np.random.default_rng([rows, cols, WEIGHTS.index(weights)])
    bits, group = int(weights[3]), 32 if weights.endswith("/32") else 0
    codes = rng.integers(-127, 128, (rows, cols)) if bits == 8 else rng.integers(-8, 8, (rows, cols))
    scales = rng.integers(-127, 128, (rows, -(-cols // group))).astype(np.int8) if group else None
    # Outputs of a few thousand: sums of int4 codes without group scales are the smallest.
    shift = 26 if bits == 4 and not group else 32
    multiplier = rng.integers(1024, 8192, rows).astype(np.int16)
    return Linear(codes.astype(np.int8), multiplier, shift, bits, group, scales)


class _Case:
    """One matrix in the machine's memory, and the calls with it."""

    def __init__(self, machine: Emulator, firmware: Firmware, family: Family, w: Linear, weights: str) -> None:
        self._machine, self._firmware, self._family, self._w, self._weights = machine, firmware, family, w, weights
        self._board = firmware.board
        self._ram = _aligned(machine.address("_ebss"))
        self._flash = _aligned(self._board.flash.origin + firmware.flash_bytes)

    def costs(self) -> list[GemvCost]:
        """One per number of tokens; none where the flash is too small."""
        w = self._w
        packed = pack(w, self._family.packing)
        rows, cols = w.codes.shape
        multiplier = w.multiplier.astype("<i2").tobytes()
        room = self._board.flash.origin + self._board.flash.size - self._flash
        if packed.stream.nbytes + len(multiplier) + 3 * _ALIGNMENT + 7 * 4 > room:
            return []
        stream = packed.stream.astype(packed.stream.dtype.newbyteorder("<")).tobytes()
        addresses = [self._in_flash(stream), self._in_flash(multiplier)]
        fields = np.array([*addresses, rows, cols, w.shift, packed.chunk, w.group], "<u4")
        matrix = self._in_flash(fields.tobytes())
        return [self._count(tokens, matrix) for tokens in TOKENS]

    def _in_flash(self, content: bytes) -> int:
        at = self._flash
        self._machine.write(at, content)
        self._flash = _aligned(at + len(content))
        return at

    def _count(self, tokens: int, matrix: int) -> GemvCost:
        """Quantise random inputs, multiply, compare."""
        machine, w = self._machine, self._w
        rows, cols = w.codes.shape
        stride = stored_bytes(self._family.codes, "int8", (cols,))
        rng = np.random.default_rng([rows, cols, tokens])
        inputs = rng.integers(-20_000, 20_001, (tokens, cols)).astype(np.int16)
        x = self._ram
        codes = _aligned(x + inputs.nbytes)
        scale = _aligned(codes + tokens * stride)
        y = _aligned(scale + tokens * 8)
        machine.write(x, inputs.astype("<i2").tobytes())
        machine.write(codes, bytes([_FILLER]) * (y + tokens * rows * 2 - codes))
        machine.reset_profile()
        for t in range(tokens):
            machine.call(self._symbol("block_s8"), codes + t * stride, scale + 8 * t, x + t * cols * 2, cols)
        block = machine.instructions() / tokens
        machine.reset_profile()
        machine.call(self._symbol(self._kernel), y, codes, scale, tokens, matrix)
        instructions = machine.instructions() / tokens
        expected = getattr(kernels, self._kernel)(*kernels.block_s8(inputs), w)
        self._check(expected, np.frombuffer(machine.read(y, expected.nbytes), "<i2").reshape(expected.shape))
        return GemvCost(rows, cols, self._weights, tokens, instructions, block)

    @property
    def _kernel(self) -> str:
        return "linear4_s16" if self._w.bits == 4 else "linear_s16"

    def _symbol(self, kernel: str) -> str:
        return self._family.variant(kernel).symbol

    def _check(self, expected: NDArray[np.int16], observed: NDArray[np.int16]) -> None:
        different = np.argwhere(expected != observed)
        if len(different):
            token, row = (int(index) for index in different[0])
            shape = "x".join(map(str, self._w.codes.shape))
            raise MismatchError(
                f"{self._symbol(self._kernel)} differs from its numpy twin on {shape} {self._weights}, "
                f"token {token}, row {row}: {observed[token, row]}, not {expected[token, row]}",
                where=f"{self._machine.title} ({self._firmware.toolchain})",
                hint=f"compare {self._kernel} with its numpy twin: pytest tests/test_kernels.py -k {self._kernel}",
            )


def _aligned(address: int) -> int:
    return -(-address // _ALIGNMENT) * _ALIGNMENT


def per_mac(costs: tuple[GemvCost, ...]) -> Mapping[tuple[int, int], Mapping[tuple[str, int], float]]:
    """Shape -> (weights, tokens) -> instructions per multiply-accumulate."""
    table: dict[tuple[int, int], dict[tuple[str, int], float]] = {}
    for cost in costs:
        table.setdefault((cost.rows, cost.cols), {})[cost.weights, cost.tokens] = cost.per_mac
    return table
