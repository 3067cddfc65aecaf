"""Matrices in the kernels that Apache TVM makes, against the numpy twins, bit for bit: C on this computer, and with
intrinsics on the emulated cores; what an intrinsic is said to compute, on this computer, too."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import microtvm
import native
import numpy as np
import on_core
import on_m55
import pytest
from fence import InOut, Out, Same, call
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from projects import require
from strategies import blocks, linears, tables, within

from mcugen import kernels
from mcugen.boards import load_board
from mcugen.families import family_named
from mcugen.gemv import random_linear
from mcugen.ir import Linear
from mcugen.layouts import LAYOUTS
from mcugen.microtvm.ctidy import tidy
from mcugen.microtvm.emit_worker import Emit
from mcugen.microtvm.emitter import emit, find_tvm
from mcugen.microtvm.functions import LINEAR, Function
from mcugen.packing import pack
from mcugen.workers import worker_environment

FAMILIES = {"": "tvm", "dsp": "tvm_dsp", "mve": "tvm_mve"}
SHAPES = ((1, 1), (3, 5), (4, 8), (5, 7), (7, 33), (63, 65), (66, 56), (12, 172))
FEW_SHAPES = ((5, 7), (66, 56), (6, 40))  # of a kernel whose products are those of another
few = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@pytest.fixture(scope="module", autouse=True)
def _tvm() -> None:
    microtvm.require_tvm()


def sized(kernel: str, rows: int, cols: int, group: int = 0, chunk: int = 0, intrinsics: str = "") -> Function:
    return Function(kernel, (("rows", rows), ("cols", cols), ("chunk", chunk), ("group", group)), intrinsics)


def function_for(kernel: str, w: Linear, intrinsics: str) -> Function:
    rows, cols = w.codes.shape
    chunk = pack(w, family_named(FAMILIES[intrinsics]).packing).chunk
    return sized(kernel, rows, cols, w.group, chunk if chunk < cols else 0, intrinsics)


def shapes(kernel: str) -> tuple[tuple[int, int], ...]:
    return SHAPES if kernel in ("linear_s32", "linear4_s16", "embed_s16") else FEW_SHAPES


def some(intrinsics: str) -> tuple[Function, ...]:
    """Functions of all kernels, whose chunks do not depend on the weights."""
    found = [sized("embed_s16", *shape, intrinsics=intrinsics) for shape in SHAPES]
    for kernel in LINEAR:
        for rows, cols in shapes(kernel):
            for group in (0, 32, 64) if "4" in kernel else (0,):
                chunk = group if intrinsics == "mve" and group < cols else 0
                found.append(sized(kernel, rows, cols, group, chunk, intrinsics))
    return tuple(found)


def full(rows: int, cols: int, bits: int, group: int = 0) -> Linear:
    """A matrix of the largest codes, in as many chunks as there can be, with the signs of a fixed seed."""
    rng = np.random.default_rng([rows, cols, bits])
    codes = (
        np.where(rng.integers(0, 8, (rows, cols)) == 0, 7, -8) if bits == 4 else rng.choice([-127, 127], (rows, cols))
    )
    scale = rng.choice([-127, 127, 3], (rows, -(-cols // group))).astype(np.int8) if group else None
    w = Linear(codes.astype(np.int8), rng.integers(0, 2**15, rows).astype(np.int16), 32, bits, group, scale)
    return within(w, 32)


# Chunks of columns: two; three, of which the last is shorter; with group scales, of 320 columns.
LONG = {
    "two": full(70, 1040, 8),
    "three": full(5, 1100, 8),
    "two_s4": full(38, 1040, 4),
    "three_s4": full(5, 1090, 4),
    "groups_32": full(38, 700, 4, 32),
    "groups_64": full(5, 1000, 4, 64),
}


def long(intrinsics: str) -> tuple[Function, ...]:
    return tuple(
        function_for(kernel, w, intrinsics)
        for w in LONG.values()
        for kernel in (("linear4_s16", "linear4_s8") if w.bits == 4 else ("linear_s16", "linear_s8", "embed_s16"))
    )


# ---------------------------------------------------------------- what is called


def stored(x: np.ndarray, intrinsics: str) -> np.ndarray:
    """int8 codes [n] as the family keeps them."""
    layout = LAYOUTS[family_named(FAMILIES[intrinsics]).codes]
    room = np.zeros(-(-len(x) // layout.columns) * layout.columns, layout.dtype or np.int8)
    room[: len(x)] = x
    return room


def of_matrix(w: Linear, intrinsics: str) -> list:
    return [pack(w, family_named(FAMILIES[intrinsics]).packing).stream, w.multiplier, w.shift]


def expected_of(kernel: str, w: Linear, x: np.ndarray, scale: np.ndarray, before: np.ndarray) -> np.ndarray:
    """before: the output, and of linear_add_s16 the residual; of linear_s8 three slots, of which the second changes."""
    after = before.copy()
    if "add" in kernel:
        return getattr(kernels, kernel)(before, x, scale, w)
    if kernel.endswith("s8"):
        after[1] = getattr(kernels, kernel)(x, scale, w)
        return after
    return getattr(kernels, kernel)(x, scale, w)


def before_of(kernel: str, rows: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kernel.endswith("s8"):
        return rng.integers(-128, 128, (3, rows)).astype(np.int8)
    return rng.integers(-(2**15), 2**15, rows).astype(np.int16 if kernel.endswith("s16") else np.int32)


def equal(observed: np.ndarray, expected: np.ndarray) -> None:
    assert observed.dtype == expected.dtype
    np.testing.assert_array_equal(observed, expected)


# ---------------------------------------------------------------- on this computer

_DESCRIBED = """
import functools, pickle, sys
from mcugen.microtvm import emit_worker, tir_linear
tir_linear.prim_func = functools.partial(tir_linear.prim_func, described=True)
sys.stdout.buffer.write(pickle.dumps(emit_worker.emit(pickle.load(sys.stdin.buffer))))
"""


def described(functions: Sequence[Function]) -> str:
    """C of what the functions' intrinsics are said to compute."""
    job = pickle.dumps(Emit(tuple(functions), "tvm_"))
    done = subprocess.run(
        [sys.executable, "-c", _DESCRIBED], input=job, capture_output=True, env=worker_environment(), check=True
    )
    return tidy(functions, pickle.loads(done.stdout), "tvm_", find_tvm())


@functools.cache
def library(functions: Sequence[Function]) -> ctypes.CDLL:
    """The functions, compiled to trap on undefined behaviour."""
    source = (described(functions) if functions[0].intrinsics else emit(functions, "tvm_").source).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{hashlib.sha256(source).hexdigest()[:16]}.c"
        path.write_bytes(source)
        return native.load([path], [])


@pytest.fixture(scope="module", params=["", "dsp"])
def here(request: pytest.FixtureRequest) -> str:
    """Intrinsics of functions that are compiled."""
    library(some(request.param))
    return str(request.param)


def check_here(function: Function, w: Linear, x: np.ndarray, scale: np.ndarray, of: Sequence[Function]) -> None:
    kernel, rows = function.kernel, len(w.codes)
    before = before_of(kernel, rows)
    if "add" in kernel:
        out: list = [InOut(before), Same(0)]
    else:
        out = [InOut(before), 1] if kernel.endswith("s8") else [Out(before.dtype.name, before.shape)]
    run = getattr(library(of), f"tvm_{function.name}")
    (y,) = call(run, *out, stored(x, function.intrinsics), scale, *of_matrix(w, function.intrinsics))
    equal(y, expected_of(kernel, w, x, scale, before))


def check_embed_here(function: Function, table: Linear, token: int, of: Sequence[Function]) -> None:
    run = getattr(library(of), f"tvm_{function.name}")
    cols = table.codes.shape[1]
    (y,) = call(run, Out("int16", (cols,)), token, *of_matrix(table, function.intrinsics))
    equal(y, kernels.embed_s16(np.int64(token), table))


@pytest.mark.parametrize("kernel", LINEAR)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_linear(here, kernel, data):
    rows, cols = data.draw(st.sampled_from(shapes(kernel)))
    w = data.draw(linears(rows, cols, 4 if "4" in kernel else 8))
    x, scale = data.draw(blocks(1, cols))
    check_here(function_for(kernel, w, here), w, x[0], scale[0], some(here))


def counting() -> list[tuple[str, Linear, np.ndarray, np.ndarray]]:
    """Kernel, matrix, x and scale such that outputs are the accumulators: multiplier * peak is 2**shift. int16 holds
    those of int4 weights and small activations."""
    cases = []
    for shape in SHAPES:
        rng = np.random.default_rng(shape)
        rows, cols = shape
        for bits, group in ((8, 0), (4, 0), (4, 32), (4, 64)):
            low, high, amplitude = (-127, 127, 127) if bits == 8 else (-8, 7, 20)
            codes = rng.integers(low, high + 1, shape).astype(np.int8)
            group_scale = rng.integers(-3, 4, (rows, -(-cols // group))).astype(np.int8) if group else None
            w = Linear(codes, np.full(rows, 2**14, np.int16), 29, bits, group, group_scale)
            x = rng.integers(-amplitude, amplitude + 1, cols).astype(np.int8)
            kernel = "linear_s32" if bits == 8 else "linear4_s16"
            scale = np.array([2**15, x.sum(dtype=np.int32)], np.int32)
            np.testing.assert_array_equal(getattr(kernels, kernel)(x, scale, w), kernels.accumulate(x, w))
            cases.append((kernel, w, x, scale))
    return cases


def test_every_product_counts(here):
    for kernel, w, x, scale in counting():
        check_here(function_for(kernel, w, here), w, x, scale, some(here))


@pytest.fixture(scope="module", params=FAMILIES)
def embeddings(request: pytest.FixtureRequest) -> tuple[Function, ...]:
    """Functions that are compiled; for "mve" these alone call nothing."""
    functions = tuple(f for f in some(request.param) if f.kernel == "embed_s16" or request.param != "mve")
    library(functions)
    return functions


@settings(max_examples=80, deadline=None)
@given(data=st.data(), shape=st.sampled_from(SHAPES))
def test_embed_s16(embeddings, data, shape):
    table = data.draw(tables(*shape))
    token = data.draw(st.integers(0, shape[0] - 1))
    check_embed_here(function_for("embed_s16", table, embeddings[0].intrinsics), table, token, of=embeddings)


@pytest.mark.parametrize("intrinsics", ["", "dsp"])
@pytest.mark.parametrize("name", LONG)
def test_linear_at_its_largest_sums(name, intrinsics):
    w = LONG[name]
    x = np.where(w.codes[0] < 0, -127, 127).astype(np.int8)
    for sign in (1, -1):
        scale = np.array([2**15, (sign * x).sum(dtype=np.int32)], np.int32)
        for function in long(intrinsics):
            if function == function_for(function.kernel, w, intrinsics) and function.kernel != "embed_s16":
                check_here(function, w, sign * x, scale, long(intrinsics))


@pytest.mark.parametrize("intrinsics", ["", "dsp"])
@pytest.mark.parametrize("name", ["two", "three"])
def test_embed_s16_of_every_row_of_a_table_in_chunks(name, intrinsics):
    w = LONG[name]
    table = Linear(w.codes, w.multiplier, 17)
    assert function_for("embed_s16", table, "dsp")["chunk"] > 0
    for token in range(len(table.codes)):
        check_embed_here(function_for("embed_s16", table, intrinsics), table, token, long(intrinsics))


# ---------------------------------------------------------------- on emulated cores

BOARDS = {
    "cortex-m0plus": "mps2-an383",
    "cortex-m4": "mps2-an386",
    "cortex-m7": "mps2-an500",
    on_core.RISCV: "qemu-virt-rv32",
    "cortex-m55": "mps3-an547",
}
CORES = {
    "cortex-m0plus": "tvm",
    on_core.RISCV: "tvm",
    "cortex-m4": "tvm_dsp",
    "cortex-m7": "tvm_dsp7",
    "cortex-m55": "tvm_mve",
}
BUILDS = [
    ("cortex-m4", "gcc"), ("cortex-m4", "zig"), ("cortex-m55", "gcc"), ("cortex-m55", "zig"), ("cortex-m7", "zig"),
    ("cortex-m0plus", "gcc"), (on_core.RISCV, "gcc"),
]  # fmt: skip
Core = on_core.Core | on_m55.M55


def load(core: str, toolchain: str, sources: Sequence[str]) -> Core:
    if core == "cortex-m55":
        return on_m55.load(toolchain, tuple(sources))
    return on_core.load(core, toolchain, tuple(sources))


def with_intrinsics(core: str, toolchain: str, functions: Sequence[Function], folder: Path) -> Core:
    """A core with the functions, and with the kernels that they call."""
    require(toolchain, load_board(BOARDS[core]))
    path = folder / "functions.c"
    path.write_text(emit(functions, "tvm_").source)
    called = {file for variant in family_named(CORES[core]).kernels.values() for file in variant.sources}
    return load(core, toolchain, (str(path), *sorted(called)))


def intrinsics_of(core: str) -> str:
    return next(name for name, family in FAMILIES.items() if CORES[core].rstrip("7") == family)


@pytest.fixture(scope="module", params=BUILDS, ids="-".join)
def core(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Core, str]:
    """A core with all functions, and their intrinsics."""
    name, toolchain = request.param
    intrinsics = intrinsics_of(name)
    functions = tuple(dict.fromkeys((*some(intrinsics), *long(intrinsics))))
    return with_intrinsics(name, toolchain, functions, tmp_path_factory.mktemp("functions")), intrinsics


def check_there(core: Core, function: Function, w: Linear, x: np.ndarray, scale: np.ndarray, seed: int = 0) -> int:
    """Returns the instructions of the call."""
    core.reset()
    kernel, rows = function.kernel, len(w.codes)
    before = before_of(kernel, rows, seed)
    y = core.place(before)
    out = [y, y] if "add" in kernel else [y, 1] if kernel.endswith("s8") else [y]
    stream, multiplier, shift = of_matrix(w, function.intrinsics)
    given = (
        core.place(stored(x, function.intrinsics)),
        core.place(scale),
        core.place(stream),
        core.place(multiplier),
    )
    core.call(f"tvm_{function.name}", *out, *given, shift)
    observed = core.read(y, before.dtype.name, *before.shape)
    equal(observed, expected_of(kernel, w, x, scale, before))
    return core.instructions


@pytest.mark.parametrize("kernel", LINEAR)
@given(data=st.data())
@few
def test_linear_on_a_core(core, kernel, data):
    machine, intrinsics = core
    rows, cols = data.draw(st.sampled_from(shapes(kernel)))
    w = data.draw(linears(rows, cols, 4 if "4" in kernel else 8))
    x, scale = data.draw(blocks(1, cols))
    check_there(machine, function_for(kernel, w, intrinsics), w, x[0], scale[0], data.draw(st.integers(0, 99)))


def test_every_product_counts_on_a_core(core):
    machine, intrinsics = core
    for kernel, w, x, scale in counting():
        check_there(machine, function_for(kernel, w, intrinsics), w, x, scale)


@pytest.mark.parametrize("name", LONG)
def test_linear_on_a_core_at_its_largest_sums(core, name):
    machine, intrinsics = core
    w = LONG[name]
    x = np.where(w.codes[0] < 0, -127, 127).astype(np.int8)
    scale = np.array([2**15, x.sum(dtype=np.int32)], np.int32)
    for kernel in ("linear4_s16", "linear4_s8") if w.bits == 4 else ("linear_s16", "linear_s8"):
        check_there(machine, function_for(kernel, w, intrinsics), w, x, scale)


@given(data=st.data(), shape=st.sampled_from(SHAPES))
@few
def test_embed_s16_on_a_core(core, data, shape):
    machine, intrinsics = core
    check_embed_there(machine, data.draw(tables(*shape)), data.draw(st.integers(0, shape[0] - 1)), intrinsics)


@pytest.mark.parametrize("name", ["two", "three"])
def test_embed_s16_on_a_core_out_of_a_table_in_chunks(core, name):
    machine, intrinsics = core
    table = Linear(LONG[name].codes, LONG[name].multiplier, 17)
    for token in range(0, len(table.codes), 3):
        check_embed_there(machine, table, token, intrinsics)


def check_embed_there(core: Core, table: Linear, token: int, intrinsics: str) -> None:
    core.reset()
    cols = table.codes.shape[1]
    y = core.place(bytes(2 * cols))
    stream, multiplier, shift = of_matrix(table, intrinsics)
    function = function_for("embed_s16", table, intrinsics)
    core.call(f"tvm_{function.name}", y, token, core.place(stream), core.place(multiplier), shift)
    equal(core.read(y, "int16", cols), kernels.embed_s16(np.int64(token), table))


def by_hand(core: Core, kernel: str, w: Linear, x: np.ndarray, scale: np.ndarray, family: str) -> int:
    """The instructions of the hand-written kernel of a family whose codes and matrices lie as the functions' do."""
    core.reset()
    packed = pack(w, family_named(family).packing)
    arrays_at = core.place(packed.stream), core.place(w.multiplier)
    matrix = core.struct(*arrays_at, *w.codes.shape, w.shift, packed.chunk, w.group)
    y = core.place(bytes(8 * len(w.codes)))
    out = [y, y] if "add" in kernel else [y, 1] if kernel.endswith("s8") else [y]
    given = (core.place(stored(x, family)), core.place(scale), 1, matrix)
    core.call(family_named(family).kernels[kernel].symbol, *out, *given)
    return core.instructions


@pytest.mark.parametrize("shape", [(64, 64), (288, 288), (172, 64)], ids=str)
@pytest.mark.parametrize(("name", "family"), [("cortex-m4", "dsp"), ("cortex-m55", "mve")])
def test_a_product_costs_a_tenth_more_than_by_hand_at_most(name, family, shape, tmp_path):
    """Into the ring it costs more on the M55: there the hand-written kernel has a ring of columns."""
    matrices = {weights: random_linear(*shape, weights) for weights in ("int8", "int4", "int4/32")}
    cases = [
        (kernel, w)
        for kernel in LINEAR
        for w in matrices.values()
        if ("4" in kernel) == (w.bits == 4) and not (kernel.endswith("s8") and family == "mve")
    ]
    machine = with_intrinsics(name, "gcc", tuple(function_for(kernel, w, family) for kernel, w in cases), tmp_path)
    own = {file for kernel in LINEAR for file in family_named(family).kernels[kernel].sources}
    other = load(name, "gcc", sorted(own))
    x, scale = kernels.block_s8(np.random.default_rng(shape).integers(-20_000, 20_001, shape[1]).astype(np.int16))
    for kernel, w in cases:
        ours = check_there(machine, function_for(kernel, w, family), w, x, scale)
        assert ours <= 1.1 * by_hand(other, kernel, w, x, scale, family), kernel
