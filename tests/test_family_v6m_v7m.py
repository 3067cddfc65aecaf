"""Rung 3 on a Cortex-M0+ and M3: the kernels of families v6m and v7m equal their numpy twins, by both toolchains."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import row_digits_checks as checks
from hypothesis import example, given, settings
from hypothesis import strategies as st
from row_digits import TOOLCHAINS, Family
from strategies import words
from tools import require_program

few = settings(max_examples=25, deadline=None)
toolchains = pytest.mark.parametrize("toolchain", TOOLCHAINS)
families = pytest.mark.parametrize("name", ["v6m", "v7m"])


@functools.cache
def family(name: str, toolchain: str) -> Family:
    if toolchain == "gcc":
        require_program("arm-none-eabi-gcc")
    return Family(name, toolchain)


@families
@toolchains
@pytest.mark.parametrize("kernel", checks.LINEAR)
@few
@given(data=st.data())
def test_linear(name: str, toolchain: str, kernel: str, data: st.DataObject) -> None:
    checks.check_linear(family(name, toolchain), data, kernel)


@families
@pytest.mark.parametrize(("bits", "cols", "group", "chunks"), checks.LARGEST_SUMS)
def test_largest_sums(name: str, bits: int, cols: int, group: int, chunks: int) -> None:
    checks.check_largest_sums(family(name, "zig"), bits, cols, group, chunks)


@families
def test_one_weak_row_shortens_the_chunks_of_all(name: str) -> None:
    checks.check_chunks_of_weak_rows(family(name, "zig"))


@families
@toolchains
@pytest.mark.parametrize("kernel", checks.LINEAR)
def test_several_tokens_are_several_calls(name: str, toolchain: str, kernel: str) -> None:
    checks.check_tokens(family(name, toolchain), kernel)


@families
@pytest.mark.parametrize("kind", checks.FINISH)
@settings(few, max_examples=150)
@given(data=st.data())
def test_output_stage(name: str, kind: str, data: st.DataObject) -> None:
    checks.check_finish(family(name, "gcc"), data, kind)


@families
def test_output_stage_at_its_carries(name: str) -> None:
    checks.check_finish_at_its_carries(family(name, "gcc"))


@families
@toolchains
@few
@given(data=st.data())
def test_embed_s16(name: str, toolchain: str, data: st.DataObject) -> None:
    checks.check_embed(family(name, toolchain), data)


@families
@toolchains
@few
@given(st.integers(1, 41).flatmap(words))
@example(np.array([-32768], np.int16))  # peak 2**15, the largest
@example(np.array([32767, -32767, 1, 0], np.int16))
@example(np.array([1, 0, -1], np.int16))  # the smallest peak
@example(np.array([100, -127, 3], np.int16))  # a whole part in the reciprocal
@example(np.array([128, -3], np.int16))
@example(np.full(1025, -32768, np.int16))  # a sum of the codes beyond int16
@example(np.zeros(7, np.int16))  # peak counts as 1
def test_block_s8(name: str, toolchain: str, x: np.ndarray) -> None:
    checks.check_block(family(name, toolchain), x)


@families
@toolchains
@few
@given(data=st.data())
def test_rmsnorm_s16(name: str, toolchain: str, data: st.DataObject) -> None:
    checks.check_rmsnorm(family(name, toolchain), data)


@families
def test_rmsnorm_s16_with_every_shift(name: str) -> None:
    checks.check_every_shift_of_a_norm(family(name, "gcc"))


@families
@toolchains
@few
@given(data=st.data())
def test_swiglu_s16(name: str, toolchain: str, data: st.DataObject) -> None:
    checks.check_swiglu(family(name, toolchain), data)


@families
@pytest.mark.parametrize("frac", range(4, 12))
def test_swiglu_s16_over_the_table(name: str, frac: int) -> None:
    checks.check_every_gate(family(name, "gcc"), frac)


@families
@toolchains
@few
@given(data=st.data())
def test_rope_s8(name: str, toolchain: str, data: st.DataObject) -> None:
    checks.check_rope(family(name, toolchain), data, rebase=False)


@families
@toolchains
@few
@given(data=st.data())
def test_rebase_s8(name: str, toolchain: str, data: st.DataObject) -> None:
    checks.check_rope(family(name, toolchain), data, rebase=True)


@families
@toolchains
@settings(few, max_examples=40)
@given(data=st.data())
def test_attention_s16(name: str, toolchain: str, data: st.DataObject) -> None:
    checks.check_attention(family(name, toolchain), data)


@families
@pytest.mark.parametrize(
    ("head_dim", "group", "length"),
    [(2, 1, 5), (8, 2, 65), (16, 1, 7), (32, 2, 6), (48, 3, 5), (64, 2, 4), (128, 1, 3), (256, 2, 2), (254, 1, 1)],
)
def test_attention_s16_at_its_bounds(name: str, head_dim: int, group: int, length: int) -> None:
    checks.check_attention_of_shape(family(name, "gcc"), head_dim, group, length)


@families
def test_attention_s16_of_the_longest_context_without_drop(name: str) -> None:
    checks.check_attention_of_shape(family(name, "zig"), 4, 1, 516)


@families
def test_weights_end_with_their_table(name: str) -> None:
    checks.check_weigh_at_the_end_of_the_table(family(name, "gcc"))


@families
def test_layouts_are_those_of_the_family(name: str) -> None:
    checks.check_layouts(family(name, "zig"))


@families
@toolchains
def test_stack(name: str, toolchain: str) -> None:
    checks.check_stack(family(name, toolchain))


@toolchains
def test_no_library_calls(toolchain: str) -> None:
    checks.check_no_library_calls(family("v6m", toolchain))
