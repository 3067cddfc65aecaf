"""Distillation: the decoder in torch is the float reference, a trained student is on its grid, and closer to float."""

from __future__ import annotations

import importlib
import os
from dataclasses import replace

import numpy as np
import pytest
import zoo

from mcugen.boards import load_board
from mcugen.errors import UsageError
from mcugen.ir import Config, Model
from mcugen.ladder import climb
from mcugen.layout import lay_out
from mcugen.quantize import Calibration, calibrate, folded, quantize
from mcugen.recipes import Precision
from mcugen.reference import FloatDecoder
from mcugen.rounding import Grid, nearest

if os.environ.get("MCUGEN_REQUIRE_TOOLS") != "1":
    pytest.importorskip("torch", reason="torch is not installed; pip install 'mcugen[train]'")
torch = importlib.import_module("torch")
distill = importlib.import_module("mcugen.distill")

CONFIG = zoo.SHAPES["gqa"]
INT4, INT8 = Precision(4, 32), Precision(8)
FEATURES = {
    "plain": {},
    "shared classifier": {"shared_classifier": True},
    "heads": {"head_size": 12, "qk_norm": True},
    "windows": {"layer_windows": (3, 0), "local_rope_theta": 100.0, "rope_factors": (1.0, 2.0, 2.0, 4.0)},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "norms and scales": {"post_norms": True, "embedding_scale": 3.0, "logit_scale": 0.5},
    **{name: {"activation": name} for name in ("gelu", "gelu_tanh", "relu", "relu2")},
}


def calibrated(model: Model) -> Calibration:
    tokens = zoo.random_tokens(model.config, 16 * model.config.seq_len).reshape(16, -1)
    return calibrate(model, tokens, "random tokens")


def to_nearest(model: Model, seen: Calibration, precision: Precision = INT4) -> dict[str, Grid]:
    return {label: nearest(part.w, precision.bits, precision.group) for label, part in folded(model, seen).items()}


@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES.keys())
def test_the_decoder_is_the_float_reference(features: dict[str, object]) -> None:
    """At once, and token by token with a past."""
    model = zoo.model_of(replace(CONFIG, **features))
    tokens = zoo.random_tokens(CONFIG, 24).reshape(2, 12)
    expected = FloatDecoder(model, batch=2).forward(tokens)
    decoder = distill._Decoder(model)
    with torch.no_grad():
        assert np.abs(decoder.forward(torch.from_numpy(tokens)).numpy() - expected).max() < 2e-4
        past = distill._Past(model.config, 2, 12)
        parts = [decoder.forward(torch.from_numpy(part), past).numpy() for part in np.split(tokens, [5, 6, 7], 1)]
    assert np.abs(np.concatenate(parts, 1) - expected).max() < 2e-4


def test_samples_follow_the_model() -> None:
    """First tokens are drawn as softmax(logits) has it: chi-squared of 4,000 draws; bos opens, and follows eos."""
    model = zoo.model_of(zoo.SHAPES["mqa"])
    decoder = distill._Decoder(model)
    tokens = decoder.sample(4000, 3, np.random.default_rng(0), 1, 2)
    assert tokens.shape == (4000, 3) and (tokens[:, 0] == 1).all()
    assert (tokens[tokens[:, 1] == 2, 2] == 1).all() and (tokens[:, 1] == 2).any()
    logits = FloatDecoder(model).forward(np.array([[1]]))[0, 0]
    expected = np.exp(logits - logits.max())
    expected *= 4000 / expected.sum()
    found = np.bincount(tokens[:, 1], minlength=11)
    assert ((found - expected) ** 2 / expected).sum() < 30  # 10 degrees of freedom: 0.1 % are beyond


@pytest.mark.parametrize("precision", [INT4, Precision(4, 64), Precision(4, 0), INT8], ids=str)
def test_without_a_step_the_grids_come_back(precision: Precision) -> None:
    model = zoo.model_of(CONFIG)
    seen = calibrated(model)
    grids = to_nearest(model, seen, precision)
    result = distill.distill(model, seen, grids, steps=0)
    assert result.losses == () and set(result.grids) == set(grids)
    for label, grid in grids.items():
        after = result.grids[label]
        assert (after.bits, after.group) == (grid.bits, grid.group)
        assert np.array_equal(after.codes, grid.codes), label
        assert np.allclose(after.values(), grid.values(), rtol=1e-6, atol=0)
    for name, values in model.weights.items():
        assert np.array_equal(result.model.weights[name], values)


def test_a_student_multiplies_by_what_its_codes_stand_for() -> None:
    model = zoo.model_of(CONFIG)
    seen = calibrated(model)
    parts, grids = folded(model, seen), to_nearest(model, seen)
    student = distill._Student(model, parts, grids)
    for label, part in parts.items():
        _, layer, name = label.split(".")
        found = student.matrix(name, int(layer)).detach().numpy() * part.columns
        assert np.allclose(found, grids[label].values(), rtol=1e-5, atol=0), label
    tokens = zoo.random_tokens(CONFIG, 12)[None]
    fine = distill._Student(model, parts, to_nearest(model, seen, INT8))
    error = fine.forward(torch.from_numpy(tokens)).detach().numpy() - FloatDecoder(model).forward(tokens)
    assert 0 < np.sqrt((error**2).mean()) < 0.06  # of logits with a standard deviation near 2


def test_no_group_falls_silent() -> None:
    """A step that rounds to 0 is 1, and a group that begins with 0 begins with 1."""
    model = zoo.model_of(CONFIG)
    part = folded(model, calibrated(model))["layers.0.wq"]
    grid = nearest(part.w, 4, 32)
    group_scale = grid.group_scale.copy()
    group_scale[0, 0] = 0
    codes = distill._Codes(part, replace(grid, group_scale=group_scale))
    with torch.no_grad():
        codes.scale[1, 0] = -0.003
        found = codes.grid().group_scale
    assert found[0, 0] == found[1, 0] == 1
    assert np.array_equal(found[2:], grid.group_scale[2:])


def kl(model: Model, grids: dict[str, Grid], student: Model, seen: Calibration) -> float:
    """KL(float || integers) in nats per token, of the integer simulator on fresh tokens."""
    from mcugen.evaluate import evaluate
    from mcugen.lower import lower

    integers = quantize(student, seen, grids=grids)
    tokens = distill._Decoder(model).sample(8, 16, np.random.default_rng(99), 1, 2)[:, 1:].reshape(-1)
    return evaluate(model, lower(integers, model.config.seq_len), tokens, length=16).kl


def test_a_student_learns_and_stays_on_its_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """With int4 and int8 matrices side by side: the loss falls, the integers come closer to float, C agrees."""
    monkeypatch.setattr(distill, "SAMPLES", 64)
    model = zoo.model_of(Config(32, 40, 2, 4, 2, 60, 16, True))
    seen = calibrated(model)
    grids = to_nearest(model, seen)
    grids |= {label: grid for label, grid in to_nearest(model, seen, INT8).items() if label.endswith("wk")}
    done: list[tuple[int, int]] = []

    threads = torch.get_num_threads()
    result = distill.distill(model, seen, grids, steps=60, seed=3, progress=lambda i, n, loss: done.append((i, n)))
    assert torch.get_num_threads() == threads
    assert done == [(i + 1, 60) for i in range(60)] and len(result.losses) == 60
    assert np.mean(result.losses[-10:]) < 0.7 * np.mean(result.losses[:3])
    before, after = kl(model, grids, model, seen), kl(model, result.grids, result.model, seen)
    assert after < 0.8 * before

    for label, grid in result.grids.items():
        assert grid.codes.dtype == np.int8 and grid.codes.shape == grids[label].codes.shape
        low, high = (-8, 7) if grid.bits == 4 else (-127, 127)
        assert grid.codes.min() >= low and grid.codes.max() <= high
        assert grid.bits == (8 if label.endswith("wk") else 4)
        if grid.group_scale is not None:
            assert grid.group_scale.dtype == np.int8 and np.abs(grid.group_scale.astype(int)).min() > 0
        assert (grid.codes != grids[label].codes).any(), label
    for name, values in result.model.weights.items():
        trained = name.startswith("rms_") or name in ("token_embedding_table", "wcls")
        assert np.array_equal(values, model.weights[name]) != trained, name
    assert result.model.weights["wcls"] is result.model.weights["token_embedding_table"]

    layout = lay_out(
        quantize(result.model, seen, grids=result.grids), zoo.random_tokenizer(60), load_board("host"), 16
    )
    assert climb(layout, None, 20, "test").passed


def test_the_same_arguments_give_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill, "SAMPLES", 16)
    model = zoo.model_of(Config(32, 40, 1, 4, 2, 60, 16, True))
    seen = calibrated(model)
    grids = to_nearest(model, seen)
    one, two, other = (distill.distill(model, seen, grids, steps=8, seed=seed) for seed in (0, 0, 1))
    assert one.losses == two.losses != other.losses
    for label, grid in one.grids.items():
        assert np.array_equal(grid.codes, two.grids[label].codes)
        assert np.array_equal(grid.scale, two.grids[label].scale)


def test_a_text_is_half_of_what_is_read() -> None:
    """Windows of 8 tokens from a text of one token, and the other half from samples."""
    model = zoo.model_of(replace(CONFIG, seq_len=8))
    text = np.full(50, 299)
    (tokens,) = distill._windows(distill._Decoder(model), 1, 0, (1, 2), text)
    assert tokens.shape == (distill.BATCH, 8) and (tokens[:, 0] == 1).all()
    assert (tokens[distill.BATCH // 2 :, 1:] == 299).all()
    assert not (tokens[: distill.BATCH // 2, 1:] == 299).all(1).any()


def test_a_pruned_student_learns_from_the_whole_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from mcugen.prune import prune
    from mcugen.recipes import PruneBudget

    monkeypatch.setattr(distill, "SAMPLES", 64)
    model = zoo.model_of(Config(32, 40, 1, 4, 2, 60, 16, True))
    pruned = prune(model, calibrated(model), PruneBudget(hidden=0.7))
    seen = calibrated(pruned)
    result = distill.distill(pruned, seen, to_nearest(pruned, seen), teacher=model, steps=40)
    assert np.mean(result.losses[-8:]) < 0.8 * np.mean(result.losses[:3])
    assert result.model.config.hidden_dim == 28


def test_experts_are_refused() -> None:
    model = zoo.model_of(replace(CONFIG, n_experts=2, experts_per_token=1))
    with pytest.raises(UsageError) as caught:
        distill.distill(model, calibrated(model), {}, steps=1)
    assert str(caught.value) == (
        "random0 has a mixture of experts, which is not trained\n  where: --distill\n  try:   leave it out"
    )
