"""Rung 3 on a Cortex-M0+: the kernels of family v6m equal their numpy twins, compiled by both toolchains."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import telescoping_checks as checks
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import words
from telescoping import TOOLCHAINS, Family
from tools import require_program

few = settings(max_examples=25, deadline=None)
toolchains = pytest.mark.parametrize("toolchain", TOOLCHAINS)


@functools.cache
def family(toolchain: str) -> Family:
    if toolchain == "gcc":
        require_program("arm-none-eabi-gcc")
    return Family("v6m", toolchain)


@toolchains
@pytest.mark.parametrize("kernel", checks.LINEAR)
@few
@given(data=st.data())
def test_linear(toolchain: str, kernel: str, data: st.DataObject) -> None:
    checks.check_linear(family(toolchain), data, kernel)


@pytest.mark.parametrize(("bits", "cols", "group", "chunks"), checks.LARGEST_SUMS)
def test_largest_sums(bits: int, cols: int, group: int, chunks: int) -> None:
    checks.check_largest_sums(family("zig"), bits, cols, group, chunks)


def test_one_weak_row_shortens_the_chunks_of_all() -> None:
    checks.check_chunks_of_weak_rows(family("zig"))


@toolchains
@pytest.mark.parametrize("kernel", checks.LINEAR)
def test_several_tokens_are_several_calls(toolchain: str, kernel: str) -> None:
    checks.check_tokens(family(toolchain), kernel)


@pytest.mark.parametrize("kind", checks.FINISH)
@settings(few, max_examples=150)
@given(data=st.data())
def test_output_stage(kind: str, data: st.DataObject) -> None:
    checks.check_finish(family("gcc"), data, kind)


def test_output_stage_at_its_carries() -> None:
    checks.check_finish_at_its_carries(family("gcc"))


@toolchains
@few
@given(data=st.data())
def test_embed_s16(toolchain: str, data: st.DataObject) -> None:
    checks.check_embed(family(toolchain), data)


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
def test_block_s8(toolchain: str, x: np.ndarray) -> None:
    checks.check_block(family(toolchain), x)


@toolchains
@few
@given(data=st.data())
def test_rmsnorm_s16(toolchain: str, data: st.DataObject) -> None:
    checks.check_rmsnorm(family(toolchain), data)


def test_rmsnorm_s16_with_every_shift() -> None:
    checks.check_every_shift_of_a_norm(family("gcc"))


@toolchains
@few
@given(data=st.data())
def test_swiglu_s16(toolchain: str, data: st.DataObject) -> None:
    checks.check_swiglu(family(toolchain), data)


@pytest.mark.parametrize("frac", range(4, 12))
def test_swiglu_s16_over_the_table(frac: int) -> None:
    checks.check_every_gate(family("gcc"), frac)


@toolchains
@few
@given(data=st.data())
def test_rope_s8(toolchain: str, data: st.DataObject) -> None:
    checks.check_rope(family(toolchain), data, rebase=False)


@toolchains
@few
@given(data=st.data())
def test_rebase_s8(toolchain: str, data: st.DataObject) -> None:
    checks.check_rope(family(toolchain), data, rebase=True)


@toolchains
@settings(few, max_examples=40)
@given(data=st.data())
def test_attention_s16(toolchain: str, data: st.DataObject) -> None:
    checks.check_attention(family(toolchain), data)


@pytest.mark.parametrize(
    ("head_dim", "group", "length"),
    [(2, 1, 5), (8, 2, 65), (16, 1, 7), (32, 2, 6), (48, 3, 5), (64, 2, 4), (128, 1, 3), (256, 2, 2), (254, 1, 1)],
)
def test_attention_s16_at_its_bounds(head_dim: int, group: int, length: int) -> None:
    checks.check_attention_of_shape(family("gcc"), head_dim, group, length)


def test_attention_s16_of_the_longest_context_without_drop() -> None:
    checks.check_attention_of_shape(family("zig"), 4, 1, 516)


def test_weights_end_with_their_table() -> None:
    checks.check_weigh_at_the_end_of_the_table(family("gcc"))


def test_layouts_are_those_of_the_family() -> None:
    checks.check_layouts(family("zig"))


@toolchains
def test_stack(toolchain: str) -> None:
    checks.check_stack(family(toolchain))


@toolchains
def test_no_library_calls(toolchain: str) -> None:
    checks.check_no_library_calls(family(toolchain))
