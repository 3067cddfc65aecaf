"""Grids: what they may hold, and that a Hessian makes them no worse than rounding to nearest."""

from __future__ import annotations

import dataclasses

import ladder
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from zoo import SHAPES, model_of, random_tokenizer, random_tokens

from mcugen.bench import _weights
from mcugen.boards import load_board
from mcugen.gptq import _layer, _retargeted, _values, round_in_order
from mcugen.ir import Model
from mcugen.kernels import accumulator_bound
from mcugen.layout import lay_out
from mcugen.lower import lower
from mcugen.quantize import Calibration, calibrate, folded, quantize, rounded
from mcugen.quantized_file import load_quantized, save_quantized
from mcugen.recipes import GROUPS, INT8, W4, Precision, Recipe
from mcugen.reference import FloatDecoder
from mcugen.rounding import INPUTS, Grid, gptq, nearest, place, weighted_error
from mcugen.verify import verify

MATRICES = tuple(INPUTS)
PRECISIONS = [(8, 0), *((4, group) for group in GROUPS)]


def check_grid(grid: Grid, w: np.ndarray, bits: int, group: int) -> None:
    rows, cols = w.shape
    low, high = (-8, 7) if bits == 4 else (-127, 127)
    assert (grid.bits, grid.group) == (bits, group)
    assert (grid.codes.dtype, grid.codes.shape) == (np.int8, w.shape)
    assert low <= grid.codes.min() <= grid.codes.max() <= high
    assert (grid.scale.dtype, grid.scale.shape) == (np.float64, (rows,))
    assert (grid.scale > 0).all()
    if group:
        assert grid.group_scale is not None
        assert (grid.group_scale.dtype, grid.group_scale.shape) == (np.int8, (rows, -(-cols // group)))
        assert grid.group_scale.min() >= -127
    else:
        assert grid.group_scale is None


def error_by_element(w: np.ndarray, grid: Grid, x: np.ndarray) -> np.ndarray:
    """Mean squared error of the outputs on x[samples, cols], from the codes, one weight at a time."""
    real = np.zeros(w.shape)
    for row, col in np.ndindex(w.shape):
        steps = 1.0 if grid.group_scale is None else float(grid.group_scale[row, col // grid.group])
        real[row, col] = float(grid.codes[row, col]) * steps * grid.scale[row]
    return (((w - real) @ x.T) ** 2).mean(1)


@pytest.mark.parametrize(("bits", "group"), PRECISIONS)
@settings(max_examples=15)
@example(rows=4, cols=20, rank=22, seed=340)  # where descent alone ends above nearest codes, in each precision
@given(rows=st.integers(1, 4), cols=st.integers(1, 70), rank=st.integers(1, 60), seed=st.integers(0, 99))
def test_gptq_is_never_worse_than_nearest(bits, group, rows, cols, rank, seed):
    """In any row, whatever the inputs: few of them, some channels dead, others loud."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (rank, cols)) * rng.choice([0.0, 1.0, 30.0], cols)
    w = rng.normal(0, 1e-3, (rows, cols))
    hessian = x.T @ x / len(x)
    found, plain = gptq(w, hessian, bits, group), nearest(w, bits, group)
    for grid in (found, plain):
        check_grid(grid, w, bits, group)
        np.testing.assert_allclose(
            weighted_error(w, grid, hessian), error_by_element(w, grid, x), rtol=1e-6, atol=1e-18
        )
    assert (weighted_error(w, found, hessian) <= weighted_error(w, plain, hessian)).all()


@pytest.mark.parametrize(("bits", "group", "share"), [(8, 0, 0.7), (4, 0, 0.75), (4, 32, 0.75), (4, 64, 0.75)])
def test_gptq_gains_on_inputs_that_go_together(bits, group, share):
    """172 channels of 40 sources and some noise: at most `share` of the error of rounding to nearest."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (600, 40)) @ rng.normal(0, 1, (40, 172)) + rng.normal(0, 1, (600, 172))
    w = rng.normal(0, 1, (24, 172))
    hessian = x.T @ x / len(x)
    errors = [weighted_error(w, to(), hessian).sum() for to in (
        lambda: gptq(w, hessian, bits, group), lambda: nearest(w, bits, group))]  # fmt: skip
    assert errors[0] < share * errors[1]


@pytest.mark.parametrize(("bits", "group"), PRECISIONS)
def test_a_matrix_of_zeros(bits, group):
    w = np.zeros((3, 40))
    grid = gptq(w, np.eye(40), bits, group)
    check_grid(grid, w, bits, group)
    assert not grid.values().any()


def test_weights_that_a_grid_holds_are_kept():
    rng = np.random.default_rng(1)
    codes = rng.integers(-7, 8, (5, 70)).astype(np.int8)
    codes[:, ::32] = -8
    steps = rng.integers(1, 128, (5, 3)).astype(np.int8)
    steps[:, 0] = 127
    w = Grid(codes, steps, np.array([1e-3, 1.0, 7.5, 2e-5, 3.0]), 4, 32).values()
    np.testing.assert_allclose(gptq(w, np.eye(70), 4, 32).values(), w, rtol=1e-9)


# ---------------------------------------------------------------- a model's matrices


def seen_by(model: Model, seed: int = 5) -> Calibration:
    config = model.config
    tokens = random_tokens(config, 24 * config.seq_len, seed)
    return calibrate(
        model, np.split(tokens, [config.seq_len, config.seq_len + 3, 9 * config.seq_len]), "random tokens"
    )


@pytest.mark.parametrize("shape", ["gqa", "mqa", "mha"])
@pytest.mark.parametrize("group", GROUPS)
def test_every_matrix_of_the_zoo(shape, group):
    """GQA, MQA and MHA, with a classifier of its own and shared, odd sizes: ranges, bounds, and the file."""
    model = model_of(SHAPES[shape])
    seen = seen_by(model)
    recipe = Recipe("r", Precision(4, group), "gptq", (("*.wk", INT8),))
    grids = rounded(model, seen, recipe)
    matrices = folded(model, seen)
    assert set(grids) == set(matrices) == {
        f"layers.{i}.{name}" for i in range(model.config.n_layers) for name in MATRICES
    }  # fmt: skip
    for label, part in matrices.items():
        check_grid(grids[label], part.w, *((8, 0) if label.endswith(".wk") else (4, group)))
    q = quantize(model, seen, recipe)
    assert q.recipe == f"{recipe.describe()}, calibrated on random tokens"
    for i, layer in enumerate(q.layers):
        for name in MATRICES:
            linear = getattr(layer, name)
            np.testing.assert_array_equal(linear.codes, grids[f"layers.{i}.{name}"].codes)
            assert accumulator_bound(linear) < 2 ** (linear.shift - 1)
    content = save_quantized(q)
    again = load_quantized(content)[0]
    assert save_quantized(again) == content
    lower(again, model.config.seq_len)


def test_grids_that_are_given_are_taken():
    model = model_of(SHAPES["gqa"])
    seen = seen_by(model)
    part = folded(model, seen)["layers.1.w2"]
    given = nearest(part.w, 4, 64)
    q = quantize(model, seen, grids={"layers.1.w2": given})
    assert (q.layers[1].w2.bits, q.layers[1].w2.group, q.layers[0].w2.bits) == (4, 64, 8)
    np.testing.assert_array_equal(q.layers[1].w2.codes, given.codes)


def test_folded_matrices_are_those_of_the_model():
    """Divided by their columns' factors, they are the checkpoint's."""
    model = model_of(SHAPES["gqa"])
    for label, part in folded(model, seen_by(model)).items():
        name, index = place(label)
        np.testing.assert_allclose(part.w / part.columns, model.weights[name][index], rtol=1e-6)
        assert part.out_scale.shape == part.w.shape[:1]


@pytest.mark.parametrize("windows", [(), (5, 0)])
def test_layers_in_order_see_what_the_whole_model_sees(windows):
    """Layer after layer, from sequences of several lengths: the values of the float model, where nothing is rounded."""
    config = dataclasses.replace(SHAPES["gqa"], layer_windows=windows, embedding_scale=1.5)
    model = model_of(config)
    sequences = [random_tokens(config, length, length) for length in (16, 3, 11, 16, 1, 7)]
    seen: dict[tuple[str, int], list[np.ndarray]] = {}
    for sequence in sequences:
        FloatDecoder(model, tap=lambda name, at, v: seen.setdefault((name, at), []).append(v[0])).forward(
            sequence[None]
        )
    values = {key: np.concatenate(parts) for key, parts in seen.items()}
    residual = 1.5 * model.weights["token_embedding_table"][np.concatenate(sequences)]
    for layer in range(config.n_layers):
        for name in set(INPUTS.values()):
            found = _values(_layer(model, layer), residual, [len(s) for s in sequences], name)
            np.testing.assert_allclose(found, values[name, layer], rtol=1e-4, atol=1e-5)
        residual = _values(_layer(model, layer), residual, [len(s) for s in sequences], "residual")


def test_the_target_takes_back_what_the_inputs_lost():
    rng = np.random.default_rng(3)
    x = rng.normal(0, 1, (500, 20))
    observed = x * 0.9 + rng.normal(0, 0.05, x.shape)
    w = rng.normal(0, 1, (6, 20))
    hessian = observed.T @ observed / len(observed)
    better = _retargeted(w, x - observed, observed, hessian)
    before, after = (((v @ observed.T - w @ x.T) ** 2).mean() for v in (w, better))
    assert after < 0.3 * before
    np.testing.assert_allclose(_retargeted(w, x * 0, observed, hessian), w)


def test_the_same_values_give_the_same_grids():
    model = model_of(SHAPES["mha"])
    one, other = (rounded(model, seen_by(model), W4) for _ in range(2))
    for label in one:
        np.testing.assert_array_equal(one[label].values(), other[label].values())


def test_progress_counts_matrices():
    model = model_of(SHAPES["mqa"])
    seen, told = seen_by(model), []
    round_in_order(model, folded(model, seen), seen.values, seen.sequences, W4.precision, lambda *n: told.append(n))
    assert told == [(done, 7) for done in range(1, 8)]


@pytest.mark.parametrize("board", ["host", "nucleo"])
def test_firmware_of_several_precisions_in_one_layer(board):
    """Bit for bit: int8, int4 in groups of 32 and 64 and by rows, side by side."""
    config = SHAPES["gqa"]
    model = model_of(config)
    overrides = {"*.wk": INT8, "*.w2": Precision(4, 64), "layers.1.wo": Precision(4), "layers.0.w1": INT8}
    q = quantize(model, seen_by(model), Recipe("r", Precision(4, 32), "gptq", tuple(overrides.items())))
    layer = q.layers[1]
    assert [(m.bits, m.group) for m in (layer.wq, layer.wk, layer.wo, layer.w2)] == [(4, 32), (8, 0), (4, 0), (4, 64)]
    layout = lay_out(q, random_tokenizer(config.vocab_size), load_board(board), 6, 3)
    tokens = random_tokens(config, 14).tolist()
    assert _weights(layout.graph) == "int4 and int8"
    machine = ladder.host_machine(layout) if board == "host" else ladder.nucleo_machine(layout)
    try:
        assert verify(machine, layout.graph, layout.plan, tokens, rung="rung", title="machine").difference is None
    finally:
        machine.close()
