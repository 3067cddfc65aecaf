"""What executed instructions cost in cycles: an estimate as a range, from public tables, no measurement.

The counts are exact, the cycles are not: what a core overlaps, predicts or waits for is only bounded here, and
tables of the larger cores are not public. `COSTS` is the whole model of the cores, `FLASH` that of waiting for flash.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mcugen.emulate.instructions import Instruction, Kind
from mcugen.ir import Board

Range = tuple[float, float]  # low, high


@dataclass(frozen=True, slots=True)
class CoreCost:
    """Cycles of a core. kinds: per instruction; of a transfer of several registers what it costs beside them, and
    "other" for kinds that are not named. word: per register of a transfer. source: for people."""

    source: str
    kinds: Mapping[Kind, Range]
    word: Range = (1, 1)


@dataclass(frozen=True, slots=True)
class FlashCost:
    """Every line of constants costs up to wait() cycles; code comes from a cache or is prefetched."""

    source: str
    line: int  # bytes
    hertz: int  # of the flash's clock, for which it needs one wait state more
    ratio: int = 1  # cycles of the core per clock of the flash

    def wait(self, clock_hz: int) -> int:
        """Cycles of a core at this clock."""
        return (clock_hz // self.ratio - 1) // self.hertz * self.ratio


# P, the cycles to fill the pipeline again after a jump, is 1 to 3 on Cortex-M3 and M4. A load takes 2 cycles, and 1
# behind another one; a store 1 or, with two registers in its address, 2.
_M4: Mapping[Kind, Range] = {
    "other": (1, 1), "divide": (2, 12), "load": (1, 2), "store": (1, 2), "jump": (2, 4), "jump back": (2, 4),
    "jump ahead": (1, 4),
}  # fmt: skip

COSTS: Mapping[str, CoreCost] = {
    "cortex-m0": CoreCost(
        "Arm DDI 0432, table of instruction timings; the multiplier of one cycle, as on the Cortex-M0+",
        {"other": (1, 1), "load": (2, 2), "store": (2, 2), "load words": (1, 1), "store words": (1, 1),
         "jump": (3, 4), "jump back": (3, 3), "jump ahead": (1, 3)},
    ),
    "cortex-m0plus": CoreCost(
        "Arm DDI 0484, table of instruction timings; the multiplier of one cycle",
        {"other": (1, 1), "load": (2, 2), "store": (2, 2), "load words": (1, 1), "store words": (1, 1),
         "jump": (2, 3), "jump back": (2, 2), "jump ahead": (1, 2)},
    ),
    "cortex-m3": CoreCost(
        "Arm DDI 0337, table of instruction timings",
        {**_M4, "accumulate": (2, 2), "long multiply": (3, 7)},
    ),
    "cortex-m4": CoreCost("Arm DDI 0439, table of instruction timings", _M4),
    "cortex-m33": CoreCost(
        "assumed: no table is public; a load waits only for who uses it at once",
        {"other": (1, 1), "divide": (2, 12), "load": (1, 2), "load words": (0, 1), "store words": (0, 1),
         "jump": (2, 3), "jump back": (2, 3), "jump ahead": (1, 3)},
    ),
    "cortex-m7": CoreCost(
        "assumed: no table is public; low: always two instructions at a time and every jump predicted; high: one",
        {"other": (0.5, 1), "long multiply": (0.5, 2), "divide": (2, 12), "load": (0.5, 2), "load words": (0, 1),
         "store words": (0, 1), "jump": (0.5, 2), "jump back": (0.5, 2), "jump ahead": (0.5, 3)},
        (0.5, 1),
    ),
    "cortex-m55": CoreCost(
        "assumed: no table is public; a vector instruction has two beats of 64 bits, which low overlaps with others",
        {"other": (1, 1), "multiply": (1, 2), "accumulate": (1, 2), "long multiply": (1, 2), "divide": (2, 12),
         "load": (1, 2), "load words": (0, 1), "store words": (0, 1), "jump": (1, 3), "jump back": (1, 3),
         "jump ahead": (1, 3), "loop end": (0, 1), "vector": (1, 2)},
        (0.5, 1),
    ),
    "rv32imc": CoreCost(
        "assumed: no core in particular; four stages in order, one instruction at a time",
        {"other": (1, 1), "divide": (10, 36), "load": (1, 2), "jump": (2, 3), "jump back": (2, 3),
         "jump ahead": (1, 3)},
    ),
}  # fmt: skip

# By port. What is not named is taken to answer at once.
FLASH: Mapping[str, FlashCost] = {
    "stm32f4": FlashCost("RM0390 section 3.4: lines of 128 bits", 16, 30_000_000),
    "stm32g4": FlashCost("RM0440, read access latency: lines of 64 bits", 8, 34_000_000),
    "stm32h5": FlashCost("RM0481, read access latency: lines of 128 bits", 16, 42_000_000),
    "stm32h7": FlashCost("RM0433, read access latency: lines of 256 bits, at half the clock", 32, 48_000_000, 2),
    "stm32l4": FlashCost("RM0351, read access latency: lines of 64 bits", 8, 16_000_000),
    "stm32u5": FlashCost("RM0456, read access latency: lines of 128 bits", 16, 32_000_000),
}


@dataclass(frozen=True, slots=True)
class Cycles:
    """A range of cycles, and the model that it comes from, in words."""

    low: float
    high: float
    model: str


def estimate(board: Board, executed: Mapping[Instruction, float], constants: float) -> Cycles:
    """Cycles of executed instructions (how often each was) that read `constants` bytes of flash once."""
    cost = COSTS[board.core]
    low, high = (_sum(cost, executed, side) for side in (0, 1))
    model = f"an estimate, not measured on hardware; {board.core}: {cost.source}"
    if board.cores > 1:
        model += "; of the first core, while the second one has its share"
    if board.xip:
        return Cycles(low, high, f"{model}; waits for the serial flash behind its cache are not counted")
    flash = FLASH.get(board.port)
    if flash is None:
        return Cycles(low, high, f"{model}; memory without wait states")
    wait = flash.wait(board.clock_hz)
    high += constants / flash.line * wait
    source = f"{flash.source}, {wait} wait states at {board.clock_hz / 1e6:g} MHz"
    return Cycles(low, high, f"{model}; low: no wait for flash, high: for every line of weights; {source}")


def _sum(cost: CoreCost, executed: Mapping[Instruction, float], side: int) -> float:
    other = cost.kinds["other"]
    total = 0.0
    for instruction, count in executed.items():
        cycles = cost.kinds.get(instruction.kind, other)[side] + instruction.words * cost.word[side]
        if instruction.returns:
            cycles += cost.kinds["jump"][side]
        total += count * cycles
    return total
