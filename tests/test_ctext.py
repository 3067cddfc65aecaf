"""C text: what is written is what C reads."""

from __future__ import annotations

import ast
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mcugen.ctext import C_TYPES, RESERVED, array_body, identifier, model_prefix, string_literal, wrapped
from mcugen.resources import data_dir


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("stories260K", "stories260k"),
        ("layers.0.wq", "layer0_wq"),
        ("layers.11.ffn_norm", "layer11_ffn_norm"),
        ("my-model v2", "my_model_v2"),
        ("15M", "model_15m"),
        ("", "model_"),
        ("größe", "gr__e"),
        ("²", "_"),
    ],
)
def test_identifier(name: str, wanted: str) -> None:
    assert identifier(name) == wanted


@given(name=st.text())
def test_an_identifier_is_one_in_c99(name: str) -> None:
    assert re.fullmatch(r"[a-z_][a-z0-9_]*", identifier(name))


@pytest.mark.parametrize(("name", "prefix"), [("home", "home"), ("main", "model_main"), ("Kernels", "model_kernels")])
def test_model_prefix(name: str, prefix: str) -> None:
    assert model_prefix(name) == prefix


def test_no_model_can_take_the_name_of_a_firmware_header() -> None:
    assert {path.stem for path in data_dir("firmware").rglob("*.h")} | {"main", "mg"} <= RESERVED


@given(
    values=st.sampled_from(sorted(C_TYPES)).flatmap(
        lambda dtype: hnp.arrays(dtype, st.integers(1, 100), elements=hnp.from_dtype(np.dtype(dtype)))
    )
)
def test_an_array_reads_back(values: np.ndarray) -> None:
    text = array_body(values)
    assert all(line.startswith("    ") and line.endswith(",") and len(line) <= 112 for line in text.splitlines())
    numbers = text.replace("INT32_MIN", str(-(2**31))).replace("u", "").replace("\n", " ").split(",")[:-1]
    assert [int(number, 0) for number in numbers] == values.tolist()
    assert len({len(cell) for line in text.splitlines() for cell in line[4:-1].split(", ")}) == 1  # columns


def test_the_least_int32_is_no_literal_in_c() -> None:
    assert array_body(np.array([-(2**31), 2**31 - 1], np.int32)) == "     INT32_MIN, 2147483647,"


def test_packed_words_are_hexadecimal_and_counts_are_not() -> None:
    assert array_body(np.array([1, 2**24], np.uint32)) == "    0x00000001u, 0x01000000u,"
    assert array_body(np.array([1, 2**24 - 1], np.uint32)) == "           1u, 16777215u,"


@given(text=st.text())
def test_a_string_literal_reads_back(text: str) -> None:
    literal = string_literal(text)
    assert literal.isascii() and literal.isprintable()
    assert "??" not in literal  # trigraphs
    assert ast.literal_eval(f"b{literal}") == text.encode()


@given(items=st.lists(st.text("abcdefgh_", min_size=1, max_size=30)), indent=st.integers(0, 40))
def test_wrapped_keeps_every_item_in_order_within_the_line(items: list[str], indent: int) -> None:
    text = wrapped(items, indent)
    assert [item for item in re.split(r",\s+", text) if item] == items
    assert all(len(line.strip()) <= 112 - indent for line in text.splitlines())
    assert all(line.startswith(" " * indent) for line in text.splitlines()[1:])
