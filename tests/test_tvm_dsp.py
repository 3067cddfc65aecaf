"""The kernels that Apache TVM makes for cores with DSP instructions, on an emulated Cortex-M4, both compilers."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import microtvm
import numpy as np
import on_core
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from projects import require
from strategies import codes, words
from test_tvm_kernels import ATTENTIONS, HEADS, VECTORS, attending, key_parameters, steps, turning, vector

from mcugen import kernels
from mcugen.boards import load_board
from mcugen.microtvm.emitter import emit
from mcugen.microtvm.functions import Function
from mcugen.tables import EXP2_Q15, SIGMOID_Q15, SINE_Q15

few = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
FUNCTIONS = (
    *(vector("rmsnorm_s16", "dim", n, "dsp") for n in VECTORS),
    *(vector("swiglu_s16", "n", n, "dsp") for n in VECTORS),
    *(vector("block_s8", "n", n, "dsp") for n in VECTORS),
    *(turning(kernel, *heads, "dsp") for kernel in ("rope_s16", "rope_s8") for heads in HEADS),
    *(attending(*shape, "dsp") for shape in ATTENTIONS),
)
SIZES = st.sampled_from(VECTORS[:-1])


@pytest.fixture(scope="module", params=["zig", "gcc"])
def core(request: pytest.FixtureRequest) -> on_core.Core:
    microtvm.require_tvm()
    require(request.param, load_board("mps2-an386"))
    source = emit(FUNCTIONS, "tvm_").source.encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{hashlib.sha256(source).hexdigest()[:16]}.c"
        path.write_bytes(source)
        return on_core.Core("cortex-m4", request.param, on_core.build("cortex-m4", request.param, [path]))


def run(core: on_core.Core, function: Function, dtype: str, size: int, *arguments: np.ndarray | int) -> np.ndarray:
    """What a call leaves in its first array; where that is an input, size is 0."""
    core.reset()
    passed = [core.place(a) if isinstance(a, np.ndarray) else a for a in arguments]
    if size:
        passed.insert(0, core.place(np.full(size, 77, dtype)))
    core.call(f"tvm_{function.name}", *passed)
    return core.read(passed[0], dtype, size or arguments[0].size)  # type: ignore[union-attr]


@few
@given(data=st.data(), dim=SIZES, gain_frac=st.integers(-14, 15), eps=st.integers(1, 1000) | st.integers(1, 2**46))
def test_rmsnorm_s16(core, data, dim, gain_frac, eps):
    x, gain = data.draw(words(dim)), data.draw(words(dim))
    halves = (eps & 0xFFFFFFFF, eps >> 32)  # on the stack, behind four registers
    y = run(core, vector("rmsnorm_s16", "dim", dim), "int16", dim, x, gain, gain_frac, *halves)
    np.testing.assert_array_equal(y, kernels.rmsnorm_s16(x, gain, gain_frac, eps))


@few
@given(data=st.data(), n=st.sampled_from(VECTORS))
def test_block_s8(core, data, n):
    x = data.draw(words(n))
    scale = np.zeros(2, np.int32)
    found = run(core, vector("block_s8", "n", n), "int16", -(-n // 8) * 8, scale, x)
    expected, scale = kernels.block_s8(x)
    np.testing.assert_array_equal(found[:n], expected)
    assert not found[n:].any()
    np.testing.assert_array_equal(core.read(core._placed[0][0], "int32", 2), scale)


@pytest.mark.parametrize("extreme", [-32768, -32767, 32767, -1, 1, 0])
@pytest.mark.parametrize("n", VECTORS[:-1])
def test_a_peak_is_found_wherever_it_is(core, n, extreme):
    for place in range(n):
        x = np.zeros(n, np.int16)
        x[place] = extreme
        run(core, vector("block_s8", "n", n), "int16", -(-n // 8) * 8, np.zeros(2, np.int32), x)
        assert core.read(core._placed[0][0], "int32", 2)[0] == max(1, abs(extreme))


@few
@given(data=st.data(), heads=st.sampled_from(HEADS), position=st.integers(0, 2**31 - 1))
def test_rope_s16(core, data, heads, position):
    x, step = data.draw(words(heads[0] * heads[1])), data.draw(steps(heads[1]))
    y = run(core, turning("rope_s16", *heads), "int16", x.size, x, position, step, SINE_Q15)
    np.testing.assert_array_equal(y, kernels.rope_s16(x, np.int64(position), step))


@few
@given(data=st.data(), heads=st.sampled_from(HEADS), position=st.integers(0, 2**31 - 1))
def test_rope_s8(core, data, heads, position):
    size = heads[0] * heads[1]
    x, step = data.draw(words(size)), data.draw(steps(heads[1]))
    zero, shift = data.draw(key_parameters(size))
    y = run(core, turning("rope_s8", *heads), "int8", size, 0, x, position, step, zero, shift, SINE_Q15)
    np.testing.assert_array_equal(y, kernels.rope_s8(x, np.int64(position), step, zero, shift))


@settings(few, max_examples=60)
@given(data=st.data(), shape=st.sampled_from(ATTENTIONS))
def test_attention_s16(core, data, shape):
    heads, kv_heads, head_dim, drop = shape
    slots = data.draw(st.integers(1, 3) | st.integers(1, 40))
    keys, values = (data.draw(codes(slots, kv_heads * head_dim)) for _ in range(2))
    q, shift = data.draw(words(heads * head_dim)), data.draw(st.integers(6, 16) | st.integers(1, 30))
    scratch = np.zeros(slots, np.int16)
    length = data.draw(st.integers(1, slots))
    y = run(core, attending(*shape), "int16", q.size, q, keys, values, scratch, length, shift, EXP2_Q15)
    visible = np.arange(slots)[None] < length
    expected = kernels.attention_s16(q[None], keys, values, visible, heads, kv_heads, shift, drop)
    np.testing.assert_array_equal(y, expected[0])


@pytest.mark.parametrize("shift", [1, 13, 14, 15, 16, 29, 30])
@pytest.mark.parametrize("query", [-32768, 32767])
def test_attention_s16_at_its_largest_scores(core, shift, query):
    q = np.full(256, query, np.int16)
    keys = np.stack([np.full(256, 127), np.full(256, -127), np.tile([127, -127], 128)]).astype(np.int8)
    values = np.stack([np.full(256, code) for code in (127, -127, 5)]).astype(np.int8)
    scratch = np.zeros(3, np.int16)
    y = run(core, attending(1, 1, 256, 0), "int16", 256, q, keys, values, scratch, 3, shift, EXP2_Q15)
    expected = kernels.attention_s16(q[None], keys, values, np.ones((1, 3), bool), 1, 1, shift, 0)
    np.testing.assert_array_equal(y, expected[0])


@few
@given(data=st.data(), n=SIZES, gate_frac=st.integers(4, 11), shift=st.integers(1, 30))
def test_swiglu_s16(core, data, n, gate_frac, shift):
    gate, up = data.draw(words(n)), data.draw(words(n))
    y = run(core, vector("swiglu_s16", "n", n), "int16", n, gate, up, gate_frac, shift, SIGMOID_Q15)
    np.testing.assert_array_equal(y, kernels.swiglu_s16(gate, up, gate_frac, shift))
