"""The stand-in for TFLite Micro: the interpreter of firmware/tflm/standin/, and that ops compiled against its headers
run in TFLM itself."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import pickle
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ladder import SANITIZERS
from projects import PROBE, linker_script, read_files, require
from tools import missing, require_program

from mcugen.boards import load_board
from mcugen.emulate.host import HostMachine, find_libasan
from mcugen.emulate.machine import Machine
from mcugen.emulate.machines import open_machine
from mcugen.errors import ToolError
from mcugen.ir import Board, Project
from mcugen.ports import port_files
from mcugen.resources import data_dir
from mcugen.tflm.flatbuffer import write
from mcugen.tflm.model import OFFLINE_PLAN, Operator, Tensor, TfliteModel
from mcugen.toolchain import build

HOST = load_board("host")
STANDIN = "tflm/standin"
OK, ERROR = 0, 1
ARENA, FILE = 4096, 8192  # bytes, of tests/probe/toy.cc
FILLER = 0xA5

# ---------------------------------------------------------------- machines


def standin_files() -> dict[str, bytes]:
    """The stand-in as it lies in firmware/."""
    firmware = data_dir("firmware")
    paths = sorted(path for path in (firmware / STANDIN).rglob("*") if path.is_file())
    return {path.relative_to(firmware).as_posix(): path.read_bytes() for path in paths}


def standin_project(board: Board) -> Project:
    """The stand-in and the toy ops, for any board."""
    own = {**standin_files(), **read_files(PROBE, "toy_ops.h", "toy.cc")}
    sources = tuple(name for name in own if name.endswith(".cc"))
    if board.core == "host":
        return Project("toy", board, own, sources, (".", STANDIN), None)
    port = port_files(board)
    main = b'#include "port.h"\n\nint main(void);\nint main(void)\n{\n    mg_port_init();\n    return 0;\n}\n'
    functions = "toy_start toy_invoke toy_reset toy_input toy_output toy_head toy_used toy_add_too_many"
    script = f"EXTERN({functions})\n".encode() + linker_script(board)
    files = {**port.files, **own, "main.c": main, "linker.ld": script}
    return Project(
        "toy", board, files, (*port.sources, *sources, "main.c"), (".", STANDIN, *port.include_dirs), "linker.ld"
    )


def host_machine(toolchain: str) -> HostMachine:
    flags: Sequence[str] = ("-fsanitize-trap=undefined",)
    if toolchain == "gcc":
        try:
            find_libasan()
        except ToolError:
            missing("libasan is not installed")
        flags = SANITIZERS
    compiler = require(toolchain, HOST)
    firmware = build(standin_project(HOST), compiler, opt="-O1", extra_flags=flags, shared=True)
    return HostMachine(firmware, sanitize=toolchain == "gcc", timeout=20)


def board_machine(name: str, toolchain: str) -> Machine:
    board = load_board(name)
    if name == "mps3-an547":
        require_program("qemu-system-arm")
    elif importlib.util.find_spec("unicorn") is None:
        missing("unicorn is not installed")
    firmware = build(standin_project(board), require(toolchain, board))
    try:
        return open_machine(firmware)
    except ToolError as error:
        missing(str(error))


MACHINES = [(board, kind) for board in ("host", "nucleo", "qemu-virt-rv32", "mps3-an547") for kind in ("gcc", "zig")]


class Toy:
    """tests/probe/toy.cc on a machine."""

    def __init__(self, machine: Machine, pointer: int) -> None:
        self.machine, self.pointer = machine, pointer

    def start(self, model: TfliteModel | bytes, offset: int = 0, size: int = ARENA) -> int:
        """Load a model; the arena holds noise before."""
        content = model if isinstance(model, bytes) else write(model)
        assert len(content) <= FILE
        self.machine.write(self.machine.address("toy_file"), content)
        self.machine.write(self.machine.address("toy_arena"), bytes([FILLER]) * ARENA)
        return self.machine.call("toy_start", offset, size)

    def call(self, name: str, *arguments: int) -> int:
        return self.machine.call(f"toy_{name}", *arguments)

    def arena(self, start: int = 0, end: int = ARENA) -> bytes:
        return self.machine.read(self.machine.address("toy_arena") + start, end - start)

    def invoke(self, *inputs: np.ndarray) -> int:
        for i, values in enumerate(inputs):
            self.machine.write(self.machine.address("toy_arena") + self.call("input", i), values.tobytes())
        return self.call("invoke")

    def output(self, index: int, dtype: str, count: int) -> list[int]:
        start = self.call("output", index)
        return np.frombuffer(self.arena(start, start + count * np.dtype(dtype).itemsize), dtype).tolist()


@pytest.fixture(scope="module", params=MACHINES, ids=lambda pair: "-".join(pair))
def toy(request: pytest.FixtureRequest) -> Iterator[Toy]:
    board, kind = request.param
    machine = host_machine(kind) if board == "host" else board_machine(board, kind)
    machine.boot()
    yield Toy(machine, 8 if board == "host" else 4)
    machine.close()


# ---------------------------------------------------------------- models


def plan(*offsets: int, version: int = 1, subgraph: int = 0) -> tuple[tuple[str, bytes], ...]:
    words = (version, subgraph, len(offsets), *offsets)
    return (("first", b"other"), (OFFLINE_PLAN, struct.pack(f"<{len(words)}i", *words)))


def options(number: int, more: int = 0) -> bytes:
    return struct.pack("<2i", number, more)


N = 3  # 12 bytes: a vector does not fill its 16
BIAS = np.array([7, -2, 100], "<i4")


def sums(limit: int = 1000) -> TfliteModel:
    """a = running sum of x; b = running sum of 10 a + bias + 1; y = b, unless it is above the limit."""
    return TfliteModel(
        tensors=(
            Tensor("x", "int32", (1, N)),
            Tensor("total_b", "int32", (1, N), variable=True),
            Tensor("bias", "int32", (1, N), data=BIAS.tobytes()),
            Tensor("a", "int32", (1, N)),
            Tensor("total_a", "int32", (1, N), variable=True),
            Tensor("scaled", "int32", (1, N)),
            Tensor("b", "int32", (1, N)),
            Tensor("y", "int32", (1, N)),
        ),
        operators=(
            Operator("TOY_SUM", (0, 4), (3,)),
            Operator("TOY_AFFINE", (3, 2), (5,), options(10, 1)),
            Operator("TOY_SUM", (5, 1), (6,)),
            Operator("TOY_LIMIT", (6,), (7,), options(limit)),
        ),
        inputs=(0,),
        outputs=(3, 7),
        metadata=plan(16, -1, -1, 0, -1, 32, 48, 64),
        description="toy",
    )


X = [np.array(values, "<i4") for values in ([1, 2, 3], [-5, 0, 9], [4, 4, 4])]


def expected(steps: Sequence[np.ndarray]) -> list[tuple[list[int], list[int]]]:
    """(a, y) after each step."""
    a, b, found = np.zeros(N, int), np.zeros(N, int), []
    for x in steps:
        a = a + x
        b = b + 10 * a + BIAS + 1
        found.append((a.tolist(), b.tolist()))
    return found


def run(toy: Toy, steps: Sequence[np.ndarray]) -> list[tuple[list[int], list[int]]]:
    found = []
    for x in steps:
        assert toy.invoke(x) == OK
        found.append((toy.output(0, "<i4", N), toy.output(1, "<i4", N)))
    return found


# ---------------------------------------------------------------- the interpreter


def test_variables_persist_until_they_are_reset(toy: Toy) -> None:
    assert toy.start(sums()) == OK
    assert run(toy, X) == expected(X)
    assert toy.call("reset") == OK
    assert run(toy, X[1:]) == expected(X[1:])


def test_variables_come_first_then_the_plan_then_the_tables(toy: Toy) -> None:
    """In order of tensor index, each rounded up; offsets count from the head."""
    offset, head = 32, 64
    tables = -(-8 * 3 * toy.pointer // 16) * 16 + 4 * 8 * toy.pointer
    used = 2 * 16 + 80 + tables
    assert toy.start(sums(), offset, used) == OK
    assert toy.call("head") == head
    assert toy.call("used") == used
    assert toy.call("input", 0) == head + 16
    assert [toy.call("output", i) for i in range(2)] == [head, head + 64]
    assert toy.arena(offset, head) == bytes(32)
    assert toy.arena(head, head + 80) == bytes([FILLER]) * 80  # only variables are zeroed
    assert run(toy, X[:2]) == expected(X[:2])
    total_b, total_a = (np.frombuffer(toy.arena(start, start + 4 * N), "<i4").tolist() for start in (32, 48))
    assert (total_a, total_b) == expected(X[:2])[-1]
    noise = bytes([FILLER]) * ARENA
    assert toy.arena(0, offset) == noise[:offset]
    assert toy.arena(offset + used) == noise[offset + used :]


@pytest.mark.parametrize(("dtype", "nbytes"), [("int8", 21), ("uint8", 21), ("int16", 42), ("int32", 84)])
def test_a_tensor_has_the_bytes_of_its_shape(toy: Toy, dtype: str, nbytes: int) -> None:
    model = sums()
    variable, activation = Tensor("v", dtype, (3, 7), variable=True), Tensor("t", dtype, (3, 7))
    offsets = (16, -1, -1, 0, -1, 32, 48, 64, -1, 80)
    assert toy.start(model) == OK
    before = toy.call("used")
    changed = dataclasses.replace(model, tensors=(*model.tensors, variable, activation), metadata=plan(*offsets))
    assert toy.start(changed) == OK
    rounded = -(-nbytes // 16) * 16
    tables = (-(-10 * 3 * toy.pointer // 16) - -(-8 * 3 * toy.pointer // 16)) * 16
    assert toy.call("used") == before + 2 * rounded + tables
    assert toy.call("head") == 2 * 16 + rounded
    assert toy.arena(2 * 16, 2 * 16 + rounded) == bytes(rounded)
    assert run(toy, X) == expected(X)


def test_an_arena_that_is_too_small_or_not_aligned_is_refused(toy: Toy) -> None:
    assert toy.start(sums()) == OK
    used = toy.call("used")
    for size in (used - 1, used - 16, used // 2, 160, 16, 15, 0):
        assert toy.start(sums(), 0, size) == ERROR, size
        assert toy.call("used") == 0
        assert toy.call("invoke") == ERROR
        assert toy.arena(size) == bytes([FILLER]) * (ARENA - size)
    assert toy.start(sums(), 8, used + 32) == ERROR
    assert toy.start(sums(), 0, used + 15) == OK
    assert toy.call("used") == used


def test_nothing_runs_after_the_first_node_that_fails(toy: Toy) -> None:
    assert toy.start(sums(limit=50)) == OK
    first = np.array([0, 0, -10], "<i4")
    assert run(toy, [first]) == expected([first])
    assert toy.invoke(np.array([5, 0, 0], "<i4")) == ERROR
    assert toy.output(0, "<i4", N) == [5, 0, -10]  # a was still computed
    assert toy.output(1, "<i4", N)[0] == expected([first])[0][1][0]  # y was not


def with_operator(model: TfliteModel, index: int, **changes: Any) -> TfliteModel:
    operators = list(model.operators)
    operators[index] = dataclasses.replace(operators[index], **changes)
    return dataclasses.replace(model, operators=tuple(operators))


def test_an_op_without_a_kernel_is_refused(toy: Toy) -> None:
    for name in ("TOY_SUMS", "TOY_SU", "toy_sum"):
        assert toy.start(with_operator(sums(), 0, code=name)) == ERROR
    assert toy.start(sums()) == OK


@pytest.mark.parametrize("name", ["TOY_FREED", "TOY_ENDED"])
def test_a_kernel_with_a_function_that_is_never_called_is_refused(toy: Toy, name: str) -> None:
    """TFLM's Reset calls one of them, in some versions."""
    assert toy.start(with_operator(sums(), 0, code=name)) == ERROR


@pytest.mark.parametrize("content", [b"", options(10)[:4], options(10) + bytes(4)], ids=["none", "short", "long"])
def test_an_op_that_refuses_its_options_stops_the_start(toy: Toy, content: bytes) -> None:
    assert toy.start(with_operator(sums(), 1, options=content)) == ERROR


def test_a_model_without_its_plan_is_refused(toy: Toy) -> None:
    offsets = (16, -1, -1, 0, -1, 32, 48, 64)
    for metadata in (
        (),
        plan(*offsets)[:1],
        (("OfflineMemoryAllocations", plan(*offsets)[1][1]),),
        plan(*offsets, version=2),
        plan(*offsets, subgraph=1),
        plan(*offsets[:-1]),
        plan(*offsets[:-1], -1),
    ):
        assert toy.start(dataclasses.replace(sums(), metadata=metadata)) == ERROR
    assert toy.start(dataclasses.replace(sums(), metadata=plan(*offsets))) == OK


def test_a_resolver_takes_each_name_once_and_no_more_than_fit(toy: Toy) -> None:
    assert toy.call("add_too_many") == 0b0101


# ---------------------------------------------------------------- FULLY_CONNECTED


def fully_connected(w: np.ndarray, scale: float) -> TfliteModel:
    """int8 -> int8, per tensor, without bias."""
    rows, cols = w.shape
    return TfliteModel(
        tensors=(
            Tensor("x", "int8", (1, cols), scale=1.0),
            Tensor("w", "int8", (rows, cols), data=w.tobytes(), scale=scale),
            Tensor("y", "int8", (1, rows), scale=1.0),
        ),
        operators=(Operator("FULLY_CONNECTED", (0, 1, -1), (2,)),),
        inputs=(0,),
        outputs=(2,),
        metadata=plan(0, -1, -(-cols // 16) * 16),
        description="toy",
    )


def rescaled(acc: int, scale: float) -> int:
    """TFLM's reference arithmetic, of the scale as a double; two roundings."""
    fraction, shift = math.frexp(float(np.float32(scale)))
    multiplier = round(fraction * 2**31)
    if shift < -31:
        multiplier = shift = 0
    high = ((acc << max(shift, 0)) * multiplier + 2**30) >> 31
    low = max(-shift, 0)
    rest = high & ((1 << low) - 1)
    code = (high >> low) + (rest > (((1 << low) - 1) >> 1) + (high < 0))
    return max(-128, min(127, code))


def fc_cases() -> list[tuple[np.ndarray, float, np.ndarray]]:
    """(w, scale, x). The last rows of each w reach the largest accumulators; powers of two as scales make ties."""
    rng = np.random.default_rng(5)
    long = np.full((2, 3000), -128, np.int8)
    cases = [(long, 2**-26, long[0])]  # 0.73
    scales = (0.5, 0.25, 2**-7, 2**-10, 0.0078, 1 / 3, 0.99, 1.0, 1.7, 3.0, 2**-20, 2**-33, 2**-34, 1e-40, 0.000123)
    for i, scale in enumerate(scales):
        rows, cols = 20, int(rng.integers(1, 48))
        w = rng.integers(-3 if i % 2 else -127, 4 if i % 2 else 128, (rows, cols)).astype(np.int8)
        x = rng.integers(-128, 128, cols).astype(np.int8)
        w[-2], w[-1] = 127, -128
        cases.append((w, scale, x if i % 3 else np.full(cols, -128, np.int8)))
    return cases


def test_fully_connected_is_the_reference_arithmetic(toy: Toy) -> None:
    for w, scale, x in fc_cases():
        assert toy.start(fully_connected(w, scale)) == OK
        assert toy.invoke(x) == OK
        acc = (w.astype(int) @ x.astype(int)).tolist()
        assert toy.output(0, "<i1", len(w)) == [rescaled(a, scale) for a in acc], scale


def test_fully_connected_refuses_what_it_does_not_compute(toy: Toy) -> None:
    model = fully_connected(np.ones((4, 8), np.int8), 0.5)

    def changed(index: int, **changes: Any) -> bytes:
        tensors = list(model.tensors)
        tensors[index] = dataclasses.replace(tensors[index], **changes)
        return write(dataclasses.replace(model, tensors=tuple(tensors)))

    for content in (
        changed(0, scale=0.5),
        changed(2, scale=2.0),
        changed(1, scale=0.0),
        changed(1, scale=-0.5),
        changed(1, scale=math.inf),
    ):
        assert toy.start(content) == ERROR
    assert toy.start(model) == OK


# ---------------------------------------------------------------- TFLM itself

# Reads [library, [(model, steps)]]; writes the outputs of every step.
WORKER = """
import ctypes, pickle, sys
from tflite_micro import runtime
library, jobs = pickle.load(sys.stdin.buffer)
ctypes.CDLL(runtime._runtime.__file__, mode=ctypes.RTLD_GLOBAL)  # its kernel API becomes visible to the library
ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
found = []
for model, steps, outputs in jobs:
    interpreter = runtime.Interpreter.from_bytes(model, custom_op_registerers=["toy_register"], arena_size=1 << 16)
    found.append([])
    for x in steps:
        if x is None:
            interpreter.reset()
            continue
        interpreter.set_input(x, 0)
        interpreter.invoke()
        found[-1].append([interpreter.get_output(i).ravel().tolist() for i in range(outputs)])
pickle.dump(found, sys.stdout.buffer)
"""


@pytest.mark.parametrize("toolchain", ["gcc", "zig"])
def test_ops_compiled_against_the_stand_in_run_in_tflm(toolchain: str, tmp_path: Path) -> None:
    """The layouts of structs and resolver are TFLM's, and so is FULLY_CONNECTED's arithmetic."""
    if importlib.util.find_spec("tflite_micro") is None:
        missing("tflite-micro is not installed")
    own = {**standin_files(), **read_files(PROBE, "toy_ops.h", "toy_register.cc")}
    project = Project("toy", HOST, own, ("toy_register.cc",), (".", STANDIN), None)
    library = tmp_path / "toy.so"
    library.write_bytes(build(project, require(toolchain, HOST), shared=True).image)
    cases = fc_cases()
    jobs: list[tuple[bytes, list[np.ndarray | None], int]] = [
        (write(sums(10**6)), [x[None] if x is not None else None for x in (*X, None, *X[1:])], 2),
        *((write(fully_connected(w, scale)), [x[None]], 1) for w, scale, x in cases),
    ]
    sent = pickle.dumps((str(library), jobs))
    done = subprocess.run([sys.executable, "-c", WORKER], input=sent, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found = pickle.loads(done.stdout)
    assert found[0] == [[a, b] for a, b in (*expected(X), *expected(X[1:]))]
    for (w, scale, x), outputs in zip(cases, found[1:], strict=True):
        acc = (w.astype(int) @ x.astype(int)).tolist()
        assert outputs == [[[rescaled(a, scale) for a in acc]]], scale
