"""What a token costs on a board: instructions by position, op, part, matrix and function; cycles as a range.

Instructions are counted in the emulator on the ELF that is flashed: exact, and the same every time. Every logit is
compared with the simulator on the way, because the count of a wrong result says nothing.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcugen.cores import CORES
from mcugen.cycles import Cycles, estimate
from mcugen.emulate.elf import parse_elf
from mcugen.emulate.instructions import Instruction, decode
from mcugen.emulate.machine import Emulator
from mcugen.emulate.machines import open_machine
from mcugen.errors import InputError, MismatchError, UsageError
from mcugen.ir import Bank, Firmware, Graph, Linear, Op
from mcugen.layout import Layout
from mcugen.simulate import Simulator
from mcugen.sources import Progress, silent
from mcugen.verify import read_prompt, start_model

POSITIONS = (0, 63, 127, 255)  # that are shown by themselves, where the context has them
PROMPT_TOKENS = 32
LAST_POSITION = 65_535  # that may be asked for
REST = "rest"  # what lies behind the last op of a step
_STACK_PAINT = 0x3C  # no value of a register at reset
_WORD = 4  # bytes; what lies on a stack

_MATRICES = {"wq": "QKV", "wk": "QKV", "wv": "QKV", "wo": "O", "w1": "gate+up", "w3": "gate+up", "w2": "down",
             "router": "router", "logits": "head"}  # fmt: skip
_KERNELS = {
    "attention_s16": "attention", "attention4_s16": "attention", "values4_s16": "attention",
    "rmsnorm_s16": "norms+blocks", "block_s8": "norms+blocks", "swiglu_s16": "SwiGLU",
    "geglu_s16": "gate", "geglu_tanh_s16": "gate", "reglu_s16": "gate", "relu2glu_s16": "gate",
    "headnorm_s16": "norms+blocks", "add_s16": "biases+sums", "route_s32": "router", "scale_s16": "router",
    "rope_s16": "RoPE", "rope_s8": "RoPE", "keep_s16": "RoPE", "embed_s16": "embedding", "rebase_s8": "re-basing",
}  # fmt: skip
PARTS = tuple(dict.fromkeys((*_MATRICES.values(), *_KERNELS.values(), REST)))


@dataclass(frozen=True, slots=True)
class OpCost:
    """instructions: per token, the mean over the positions. layer: of the decoder, or None."""

    label: str
    kernel: str
    part: str
    layer: int | None
    instructions: float


@dataclass(frozen=True, slots=True)
class MatrixCost:
    """All matrices of one shape. kernel: e.g. "linear_s16". calls: per token; instructions: per call, the block
    quantisation of its input left out. group: columns per group scale, 0 for none."""

    matrices: tuple[str, ...]
    kernel: str
    rows: int
    cols: int
    bits: int
    group: int
    calls: int
    instructions: float

    @property
    def per_mac(self) -> float:
        return self.instructions / (self.rows * self.cols)


@dataclass(frozen=True, slots=True)
class BlockCost:
    """Quantising vectors of `n` values to blocks. calls: per token; instructions: per call."""

    n: int
    calls: int
    instructions: float


@dataclass(frozen=True, slots=True)
class PromptCost:
    """Reading a prompt of `tokens` tokens, `batch` of them at once. instructions: per token."""

    tokens: int
    batch: int
    instructions: float


@dataclass(frozen=True, slots=True)
class Bench:
    """Everything that was counted. Means are over the tokens at positions first to last; the position of a token is
    how many were read before it.

    at: position -> instructions. functions: name -> instructions per token. stack_bytes: used by a step at most, of
    the stack_reserved. cycles: per token.
    """

    model: str
    weights: str
    board: str
    core: str
    clock_hz: int
    family: str
    toolchain: str
    context: int
    flash_bytes: int
    flash_size: int
    ram_bytes: int
    ram_size: int
    stack_bytes: int
    stack_reserved: int
    first: int
    last: int
    mean: float
    at: Mapping[int, int]
    ops: tuple[OpCost, ...]
    matrices: tuple[MatrixCost, ...]
    blocks: tuple[BlockCost, ...]
    functions: Mapping[str, float]
    prompt: PromptCost
    cycles: Cycles

    @property
    def positions(self) -> str:
        return f"{self.first}-{self.last}"

    @property
    def parts(self) -> dict[str, float]:
        """Part -> instructions per token; their sum is the mean."""
        found = dict.fromkeys(PARTS, 0.0)
        for op in self.ops:
            found[op.part] += op.instructions
        return {part: count for part, count in found.items() if count or part == REST}

    def tokens_per_second(self, hz: float) -> tuple[float, float]:
        """At this clock, low and high."""
        return hz / self.cycles.high, hz / self.cycles.low

    def to_json(self) -> dict[str, object]:
        per_mhz, rate = self.tokens_per_second(1e6), self.tokens_per_second(self.clock_hz)
        return {
            "model": self.model,
            "weights": self.weights,
            "board": self.board,
            "core": self.core,
            "clock_hz": self.clock_hz,
            "family": self.family,
            "toolchain": self.toolchain,
            "context": self.context,
            "flash_bytes": self.flash_bytes,
            "ram_bytes": self.ram_bytes,
            "stack_bytes": self.stack_bytes,
            "instructions_per_token": {
                "mean": self.mean,
                "positions": self.positions,
                "at": {str(position): count for position, count in self.at.items()},
            },
            "parts": {
                part: {"instructions": count, "share": count / self.mean} for part, count in self.parts.items()
            },
            "ops": [asdict(op) for op in self.ops],
            "gemv": [{**asdict(matrix), "per_mac": matrix.per_mac} for matrix in self.matrices],
            "blocks": [asdict(block) for block in self.blocks],
            "functions": dict(self.functions),
            "prompt": {
                "tokens": self.prompt.tokens,
                "batch": self.prompt.batch,
                "instructions_per_token": self.prompt.instructions,
            },
            "cycles": asdict(self.cycles),
            "tokens_per_second_per_mhz": {"low": per_mhz[0], "high": per_mhz[1]},
            "tokens_per_second": {"low": rate[0], "high": rate[1]},
        }


def parse_positions(text: str) -> tuple[int, int]:
    """First and last of "A-B" (or of "A", one position). Raises UsageError."""
    match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if not first <= last <= LAST_POSITION:
        raise UsageError(
            f"{text!r} is no range of positions from 0 to {LAST_POSITION}",
            where="--positions",
            hint="write the first and the last one, as in 0-63",
        )
    return first, last


# ---------------------------------------------------------------- counting


def _weights(graph: Graph) -> str:
    """Of the layers' matrices but routers: "int8" or "int4", or "int4 and int8" where they differ."""
    found = [op.parameters["w"] for op in graph.ops if re.fullmatch(r"layers\..*\.w[qkvo123]", op.label)]
    matrices = [w.matrices[0] if isinstance(w, Bank) else w for w in found]
    return " and ".join(f"int{bits}" for bits in sorted({matrix.bits for matrix in matrices}))


def bench(layout: Layout, firmware: Firmware, first: int, last: int, progress: Progress = silent) -> Bench:
    """Count what the firmware of a layout executes, on the model's own greedy tokens.

    first, last: positions to take the mean over; they may lie beyond the context. Raises UsageError for the host,
    which has no emulator, ToolError where an emulator is missing, MismatchError where a logit is wrong.
    """
    if layout.board.core == "host":
        raise UsageError(
            "instructions are counted in an emulator, and the host has none", where="--board", hint="name a board"
        )
    graph = layout.graph
    at = [position for position in POSITIONS if position < graph.context]
    machine = open_machine(firmware, watch_accesses=False)
    try:
        steps = _count_steps(machine, layout, range(first, last + 1), max(last, *at) + 1, progress)
        prompt = _count_prompt(machine, layout, steps.tokens)
    finally:
        machine.close()
    within = steps.counts[first : last + 1]
    ops = _op_costs(layout, within.mean(0))
    return Bench(
        model=graph.model.name,
        weights=_weights(graph),
        board=layout.board.name,
        core=layout.board.core,
        clock_hz=layout.board.clock_hz,
        family=graph.family,
        toolchain=firmware.toolchain,
        context=graph.context,
        flash_bytes=firmware.flash_bytes,
        flash_size=layout.board.flash.size,
        ram_bytes=firmware.static_bytes + firmware.stack_bytes,
        ram_size=layout.board.ram.size,
        stack_bytes=steps.stack_bytes,
        stack_reserved=firmware.stack_bytes,
        first=first,
        last=last,
        mean=float(within.sum(1).mean()),
        at={position: int(steps.counts[position].sum()) for position in at},
        ops=ops,
        matrices=_matrix_costs(graph.ops, ops),
        blocks=_block_costs(layout, ops),
        functions={name: count / len(within) for name, count in steps.functions.items()},
        prompt=prompt,
        cycles=_cycles(layout, firmware, steps.executions, len(within)),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Steps:
    """counts: int64[positions, ops + rebase ops + 1]; the last column is what lies behind the last op and, at
    positions outside the mean, all. functions, executions: sums over the positions of the mean. tokens: that were
    read, and the next one. stack_bytes: used at most, in whole words."""

    tokens: tuple[int, ...]
    counts: NDArray[np.int64]
    functions: Mapping[str, int]
    executions: Mapping[int, int]
    stack_bytes: int


def _count_steps(machine: Emulator, layout: Layout, mean: range, count: int, progress: Progress) -> _Steps:
    """Step through `count` tokens, the first of them bos, and count each op between two announcements."""
    graph, name = layout.graph, layout.name
    counts = np.zeros((count, len(graph.ops) + len(graph.rebase) + 1), np.int64)
    simulator = Simulator(graph)
    tokens = [layout.tokenizer.bos]
    functions: Mapping[str, int] = {}
    executions: Mapping[int, int] = {}
    before = 0

    def add(column: int) -> None:
        nonlocal before
        now = machine.instructions()
        counts[len(tokens) - 1, column] += now - before
        before = now

    start_model(machine, name)
    stack = machine.address("_sstack")
    size = machine.address("_estack") - stack
    machine.write(stack, bytes([_STACK_PAINT]) * size)
    for position in range(count):
        if position == mean.start:
            machine.reset_profile()
        machine.on_op(add if position in mean else None)  # only there: QEMU stops at every op
        before = machine.instructions()
        logits = machine.call(f"{name}_step", tokens[-1])
        add(-1)
        if position == mean[-1]:
            functions, executions = machine.profile().instructions, machine.executions()
        expected = simulator.feed(tokens[-1:])[0]
        _check(machine, logits, expected, position)
        tokens.append(int(expected.argmax()))
        progress("count instructions", position + 1, count)
    machine.on_op(None)
    used = len(machine.read(stack, size).lstrip(bytes([_STACK_PAINT])))
    return _Steps(tuple(tokens), counts, functions, executions, -(-used // _WORD) * _WORD)


def _check(machine: Emulator, logits: int, expected: NDArray[np.int32], position: int) -> None:
    """Raise MismatchError where the machine's logits are not the simulator's."""
    observed = np.frombuffer(machine.read(logits, expected.nbytes), "<i4")
    different = np.flatnonzero(observed != expected)
    if len(different):
        element = int(different[0])
        raise MismatchError(
            f"{machine.title} differs from the simulator at token {position}, logits[{element}]: "
            f"{observed[element]}, not {expected[element]}",
            where="bench",
            hint="mcugen verify names the op",
        )


def _count_prompt(machine: Emulator, layout: Layout, tokens: Sequence[int]) -> PromptCost:
    """Read a prompt as the application does."""
    graph, name = layout.graph, layout.name
    ids = np.resize(np.asarray(tokens), min(PROMPT_TOKENS, graph.context))
    start_model(machine, name)
    machine.reset_profile()
    read_prompt(machine, name, ids)
    return PromptCost(len(ids), graph.batch, machine.instructions() / len(ids))


# ---------------------------------------------------------------- whose work it was


def part_of(op: Op) -> str:
    """The part of a forward pass that an op belongs to, one of PARTS."""
    return _MATRICES[op.label.split(".")[-1]] if op.kernel.startswith("linear") else _KERNELS[op.kernel]


def _op_costs(layout: Layout, means: NDArray[np.float64]) -> tuple[OpCost, ...]:
    """An op costs what lies between its announcement and the one before: its call included, and for the first op
    what opens a step."""
    ops = (*layout.graph.ops, *layout.graph.rebase)
    costs = []
    for op, count in zip(ops, means, strict=False):
        found = re.match(r"layers\.(\d+)\.", op.label)
        layer = int(found[1]) if found else None
        costs.append(OpCost(op.label, op.kernel, part_of(op), layer, float(count)))
    return (*costs, OpCost(REST, "", REST, None, float(means[-1])))


def _matrix_costs(ops: Sequence[Op], costs: Sequence[OpCost]) -> tuple[MatrixCost, ...]:
    shapes: dict[tuple[str, int, int, int, int], list[OpCost]] = {}
    for op, cost in zip(ops, costs, strict=False):
        if op.kernel.startswith("linear"):
            bank = op.parameters["w"]
            w: Linear = bank.matrices[0] if isinstance(bank, Bank) else bank
            shapes.setdefault((op.kernel, *w.codes.shape, w.bits, w.group), []).append(cost)
    return tuple(
        MatrixCost(
            tuple(dict.fromkeys(cost.label.split(".")[-1] for cost in found)),
            *shape,
            len(found),
            sum(cost.instructions for cost in found) / len(found),
        )
        for shape, found in shapes.items()
    )


def _block_costs(layout: Layout, costs: Sequence[OpCost]) -> tuple[BlockCost, ...]:
    sizes: dict[int, list[float]] = {}
    for op, cost in zip(layout.graph.ops, costs, strict=False):
        if op.kernel == "block_s8":
            sizes.setdefault(layout.graph.buffers[op.inputs[0]].shape[0], []).append(cost.instructions)
    return tuple(BlockCost(n, len(found), sum(found) / len(found)) for n, found in sizes.items())


# ---------------------------------------------------------------- cycles


def _cycles(layout: Layout, firmware: Firmware, executions: Mapping[int, int], tokens: int) -> Cycles:
    """The estimate for one token."""
    executed: Counter[Instruction] = Counter()
    riscv = CORES[layout.board.core].family == "riscv"
    segments = parse_elf(firmware.image).segments
    for address, times in executions.items():
        code = next(s.data[address - s.address :][:4] for s in segments if 0 <= address - s.address < len(s.data))
        executed[decode(code, riscv)] += times
    per_token = {instruction: times / tokens for instruction, times in executed.items()}
    return estimate(layout.board, per_token, _constant_bytes(layout))


def _constant_bytes(layout: Layout) -> int:
    """What a token reads of the constants in flash: all but the embedding table, where that is no classifier."""
    shared = layout.graph.model.config.shared_classifier
    return sum(size for label, size in layout.plan.flash if shared or label != "embedding.codes")


# ---------------------------------------------------------------- comparing


def read_bench(path: Path) -> dict[str, Any]:
    """What `mcugen bench --json` printed into a file. Raises InputError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        _ratios(found, found)
        _identity(found)
    except OSError as error:
        why = str(error.strerror)
    except (ValueError, TypeError, KeyError, AttributeError):
        why = "it is no result of mcugen bench --json"
    else:
        return dict(found)
    raise InputError(f"{path} cannot be read: {why}", where="--compare", hint="mcugen bench --json > FILE makes one")


def compare(new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """Ratios new / old of two results of `to_json`; below 1 is better.

    Raises UsageError where they are of another board, model, context, or other positions. Toolchain, weights and
    kernels may differ: they are what is compared.
    """
    for key, value in _identity(old).items():
        if value != _identity(new)[key]:
            raise UsageError(
                f"the result to compare with is of {key} {value}, not {_identity(new)[key]}",
                where="--compare",
                hint=f"make both with the same {key}",
            )
    return _ratios(new, old)


def _identity(result: Mapping[str, Any]) -> dict[str, Any]:
    """What two results must share."""
    positions = {"positions": result["instructions_per_token"]["positions"]}
    return {**{key: result[key] for key in ("board", "model", "context")}, **positions}


def _ratios(new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    ours, theirs = new["instructions_per_token"], old["instructions_per_token"]
    parts = {part: (cost, old["parts"][part]) for part, cost in new["parts"].items() if part in old["parts"]}
    return {
        "mean": ours["mean"] / theirs["mean"],
        "at": {p: count / theirs["at"][p] for p, count in ours["at"].items() if p in theirs["at"]},
        "prompt": new["prompt"]["instructions_per_token"] / old["prompt"]["instructions_per_token"],
        "parts": {part: a["instructions"] / b["instructions"] for part, (a, b) in parts.items() if b["instructions"]},
        "flash_bytes": new["flash_bytes"] / old["flash_bytes"],
        "ram_bytes": new["ram_bytes"] / old["ram_bytes"],
        "changed": {key: [old[key], new[key]] for key in ("toolchain", "family", "weights") if old[key] != new[key]},
    }
