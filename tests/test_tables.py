"""The tables in C are those of numpy, and those are what their comments say."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import native
import numpy as np
import pytest

from mcugen import tables
from mcugen.reference import gelu, gelu_tanh

FOLDER = Path(__file__).resolve().parent.parent / "firmware" / "kernels"
NAMES = ("EXP2_Q15", "SINE_Q15", "SIGMOID_Q15", "PHI_Q15", "PHI_TANH_Q15")
C_TYPES = {"uint16": ctypes.c_uint16, "int16": ctypes.c_int16}


@pytest.mark.parametrize("name", NAMES)
def test_c_has_the_same_table(name):
    """Type and length as tables.h declares them, so that no value is read or left out by mistake."""
    table = getattr(tables, name)
    header = (FOLDER / "tables.h").read_text(encoding="utf-8")
    ((c_type, length),) = re.findall(rf"extern const (\w+)_t mg_{name.lower()}\[(\d+)\];", header)
    assert (c_type, int(length)) == (str(table.dtype), len(table))
    library = native.load([FOLDER / "tables.c"], [FOLDER])
    values = (C_TYPES[c_type] * len(table)).in_dll(library, f"mg_{name.lower()}")
    np.testing.assert_array_equal(np.array(values), table)


def test_c_has_no_other_table():
    defined = re.findall(r"^const \w+ mg_(\w+)\[", (FOLDER / "tables.c").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(defined) == sorted(name.lower() for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_read_only(name):
    with pytest.raises(ValueError, match="read-only"):
        getattr(tables, name)[0] = 1


def test_exp2_is_rounded_once_down_to_its_last_octave():
    """Only the first entry is not the nearest integer: 32768 does not fit int16. After the last comes exactly 1/2."""
    exp2 = tables.EXP2_Q15.astype(int)
    real = 2.0 ** (15 - np.arange(1024) / 64)
    assert exp2[0] == 32767
    np.testing.assert_allclose(exp2[1:], real[1:], rtol=0, atol=0.5)
    assert (np.diff(exp2) <= 0).all()
    assert exp2[[32, 64, 512, 960, 1023]].tolist() == [23170, 16384, 128, 1, 1]
    assert len(exp2) == 1024 == 64 * (15 + 1)


def test_sine_is_one_exact_turn():
    sine = tables.SINE_Q15.astype(int)
    np.testing.assert_allclose(sine, 32767 * np.sin(np.arange(513) * np.pi / 256), rtol=0, atol=0.5)
    assert sine[512] == sine[0] == sine[256] == 0
    np.testing.assert_array_equal(sine[:256], -sine[256:512])
    np.testing.assert_array_equal(sine[:257], sine[256::-1])
    assert np.abs(np.diff(sine)).max() <= 403  # rope.c's bound on an interpolation step
    assert (sine**2 + np.roll(sine[:512], -128)[np.arange(513) % 512] ** 2).max() <= 32768**2  # rope.c's bound


def test_sigmoid_is_symmetric_and_rises():
    sigmoid = tables.SIGMOID_Q15.astype(int)
    real = 32768 / (1 + np.exp(-(np.arange(65) - 32) / 4))
    np.testing.assert_allclose(sigmoid, real, rtol=0, atol=0.5)
    assert sigmoid[32] == 16384
    assert np.abs(sigmoid + sigmoid[::-1] - 32768).max() <= 1
    steps = np.diff(sigmoid)
    assert steps.min() > 0
    assert steps.max() <= 2**11  # swiglu.c's bound on an interpolation step


@pytest.mark.parametrize(("name", "activation"), [("PHI_Q15", gelu), ("PHI_TANH_Q15", gelu_tanh)])
def test_phi_is_gelu_without_its_factor(name, activation):
    phi = getattr(tables, name).astype(int)
    x = (np.arange(65) - 32) / 4
    real = np.divide(activation(x), x, out=np.full(65, 0.5), where=x != 0) * 32768
    assert phi[32] == 16384
    np.testing.assert_allclose(phi, np.minimum(real, 32767), rtol=0, atol=0.5 + 1e-9)
    steps = np.diff(phi)
    assert steps.min() >= 0
    assert steps.max() <= 2**12  # fixedpoint.h's bound on an interpolation step
