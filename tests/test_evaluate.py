"""Rung 2: what the integers cost, against the float model, within a stated budget."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from zoo import DATA, NEAREST, SHAPES, model_of, quantized, random_tokens, stories, stories_tokenizer

from mcugen.errors import InputError, UsageError
from mcugen.evaluate import clean_text, evaluate, greedy_agreement
from mcugen.lower import lower
from mcugen.quantize import quantize, text_calibration
from mcugen.reference import FloatDecoder
from mcugen.simulate import Simulator, greedy
from mcugen.tokenizer import encode

CONFIG = SHAPES["gqa"]
MODEL = model_of(CONFIG)
GRAPH = lower(quantized(CONFIG), CONFIG.seq_len)
TOKENS = random_tokens(CONFIG, 70, seed=5)


def probabilities(logits: np.ndarray) -> np.ndarray:
    weight = np.exp(logits - logits.max())
    return weight / weight.sum()


def by_hand(tokens: np.ndarray, length: int, context: int) -> list[tuple[float, float, float, bool, int]]:
    """Float loss, integer loss, KL, agreement and sequence of every predicted token, one token at a time."""
    graph = lower(quantized(CONFIG), context)
    rows = []
    for start in range(0, len(tokens), length - 1):
        part = tokens[start : start + length - 1]
        decoder, simulator = FloatDecoder(MODEL, window=context), Simulator(graph)
        previous = 1
        for token in part:
            p = probabilities(decoder.forward(np.array([[previous]]))[0, 0])
            q = probabilities(simulator.feed([previous])[0] / 65536)
            kl = sum(a * (np.log(a) - np.log(b)) for a, b in zip(p, q, strict=True))
            rows.append((-np.log(p[token]), -np.log(q[token]), kl, p.argmax() == q.argmax(), start))
            previous = token
    return rows


@pytest.mark.parametrize(("length", "context"), [(16, 16), (9, 16), (16, 5)])
def test_it_measures_what_a_loop_over_tokens_measures(length: int, context: int) -> None:
    graph = lower(quantized(CONFIG), context)
    found = evaluate(MODEL, graph, TOKENS, length=length)
    rows = by_hand(TOKENS, length, context)
    floats, integers, kl, agree, starts = map(np.array, zip(*rows, strict=True))
    assert (found.tokens, found.sequences) == (70, -(-70 // (length - 1)))
    assert (found.length, found.context) == (length, context)
    assert found.float_perplexity == pytest.approx(np.exp(floats.mean()), rel=1e-9)
    assert found.integer_perplexity == pytest.approx(np.exp(integers.mean()), rel=1e-9)
    ratio = np.exp(integers.mean() - floats.mean())
    assert found.perplexity_change == pytest.approx(ratio - 1, abs=1e-9)
    assert found.kl == pytest.approx(kl.mean(), rel=1e-6)
    assert found.top1 == agree.mean()

    change = integers - floats
    groups = [change[starts == start] for start in np.unique(starts)]
    spread = sum((g - change.mean()).sum() ** 2 for g in groups) * len(groups) / (len(groups) - 1)
    assert found.standard_error == pytest.approx(ratio * np.sqrt(spread) / 70, rel=1e-6)


def test_intervals_are_those_of_sums_by_sequence() -> None:
    found = evaluate(MODEL, GRAPH, TOKENS, length=16)
    floats, integers, kl, agree, starts = map(np.array, zip(*by_hand(TOKENS, 16, 16), strict=True))
    assert found.intervals is not None
    low, high = found.intervals.perplexity_change
    assert found.standard_error is not None
    assert low < found.perplexity_change < high
    assert (high - low) / 2 == pytest.approx(2.7764 * found.standard_error, rel=1e-3)  # t of 4 degrees of freedom
    for name, values, back in (
        ("kl", kl, float),
        ("float_perplexity", floats, np.log),
        ("integer_perplexity", integers, np.log),
    ):
        groups = [values[starts == start] for start in np.unique(starts)]
        spread = sum((g - values.mean()).sum() ** 2 for g in groups) * 5 / 4
        half = 2.7764 * np.sqrt(spread) / 70
        low, high = map(back, getattr(found.intervals, name))
        assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), rel=1e-6), name
    low, high = found.intervals.top1
    assert 0 < low < agree.mean() < high < 1


def test_the_worst_tokens_are_those_with_the_largest_kl() -> None:
    found = evaluate(MODEL, GRAPH, TOKENS, length=16)
    rows = by_hand(TOKENS, 16, 16)
    order = sorted(range(70), key=lambda at: -rows[at][2])[:10]
    assert [worst.index for worst in found.worst] == order
    for worst in found.worst:
        floats, integers, kl, agree, start = rows[worst.index]
        assert (worst.kl, worst.float_loss, worst.integer_loss) == pytest.approx((kl, floats, integers), rel=1e-6)
        assert (worst.float_token == worst.integer_token) == agree
        assert worst.token == TOKENS[worst.index]
        assert worst.before == tuple(TOKENS[start : worst.index])


def test_one_sequence_has_neither_standard_error_nor_intervals() -> None:
    found = evaluate(MODEL, GRAPH, TOKENS, length=71)
    assert (found.sequences, found.tokens, found.standard_error, found.intervals) == (1, 70, None, None)


def test_bos_opens_every_sequence() -> None:
    tokens = TOKENS[:32]
    found = evaluate(MODEL, GRAPH, tokens, length=2, bos=7)
    logits = FloatDecoder(MODEL).forward(np.array([[7]]))[0, 0]
    loss = -np.log(probabilities(logits)[tokens]).mean()
    assert found.sequences == 32
    assert found.float_perplexity == pytest.approx(np.exp(loss), rel=1e-9)


def test_progress_counts_the_sequences() -> None:
    seen: list[tuple[int, int]] = []
    evaluate(MODEL, GRAPH, TOKENS, length=16, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_a_list_of_tokens_will_do_and_nothing_varies() -> None:
    assert evaluate(MODEL, GRAPH, TOKENS.tolist(), length=16) == evaluate(MODEL, GRAPH, TOKENS, length=16)


def test_greedy_runs_are_followed_by_each_side_itself() -> None:
    found = greedy_agreement(MODEL, GRAPH, 24, bos=3)
    decoder, mine = FloatDecoder(MODEL, window=GRAPH.context), [3]
    for _ in range(24):
        mine.append(int(decoder.forward(np.array([[mine[-1]]]))[0, -1].argmax()))
    theirs = [3, *itertools.islice(greedy(GRAPH, [3]), 24)]
    same = [a == b for a, b in zip(mine[1:], theirs[1:], strict=True)]
    assert (found.tokens, found.equal) == (24, sum(same))
    assert all(same[: found.prefix]) and (found.prefix == 24 or not same[found.prefix])


def test_greedy_runs_that_part() -> None:
    classifier = np.roll(GRAPH.model.classifier.codes, 1, 0)  # every token becomes its neighbour
    other = dataclasses.replace(GRAPH.model, classifier=dataclasses.replace(GRAPH.model.classifier, codes=classifier))
    assert greedy_agreement(MODEL, lower(other, GRAPH.context), 5).prefix == 0


@pytest.mark.parametrize(
    ("tokens", "length", "error", "text"),
    [
        (
            TOKENS,
            1,
            UsageError,
            "sequences of 1 token(s) predict nothing\n"
            "  where: evaluation\n"
            "  try:   use a length of at least 2: BOS and one token to predict",
        ),
        (
            TOKENS[:15],
            16,
            InputError,
            "the text has 15 tokens; at least 16 are needed\n"
            "  where: evaluation\n"
            "  try:   give a longer text; some 10,000 tokens measure a change of 0.1 %",
        ),
        (
            [*range(299), 300],
            16,
            InputError,
            "token 300 at index 299 is not in the vocabulary of 300\n"
            "  where: evaluation\n"
            "  try:   encode the text with the tokenizer that belongs to the model",
        ),
        (
            [0] * 20 + [-1],
            16,
            InputError,
            "token -1 at index 20 is not in the vocabulary of 300\n"
            "  where: evaluation\n"
            "  try:   encode the text with the tokenizer that belongs to the model",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(tokens: list[int], length: int, error: type, text: str) -> None:
    with pytest.raises(error) as caught:
        evaluate(MODEL, GRAPH, tokens, length=length)
    assert str(caught.value) == text


def test_clean_text_drops_paragraphs_beyond_ascii() -> None:
    text = "One day.\nIt rained.\n\nâ€œHello,â€ he said.\n\n\nThe end.\n \nÉmile\n"
    assert clean_text(text) == "One day.\nIt rained.\n\nThe end."
    assert clean_text("a\r\n\r\nb\u00e9\r\n\r\nc") == "a\n\nc"
    assert clean_text("") == ""
    assert clean_text("plain") == "plain"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bits", "change", "error", "kl", "top1"),
    [(8, 0.005, 0.002, 0.0045, 0.96), (4, 0.095, 0.008, 0.12, 0.83)],
    ids=["int8", "int4"],
)
def test_stories_keeps_its_budget(bits: int, change: float, error: float, kl: float, top1: float) -> None:
    """W8A8KV8 costs at most 0.5 % of perplexity on 10,200 tokens that calibration did not see; W4A8KV8, in groups of
    32 columns and without any training, at most 9.5 %."""
    model = stories()
    text = clean_text((DATA / "tinystories.txt").read_text(encoding="utf-8"))
    tokens = np.array(encode(stories_tokenizer(), text[:45_000], bos=False))
    graph = lower(quantize(model, text_calibration(model, tokens[12_000:]), NEAREST[bits]), 256)
    found = evaluate(model, graph, tokens[:10_200])
    assert (found.tokens, found.sequences) == (10_200, 40)
    assert 4 < found.float_perplexity < 6
    assert found.perplexity_change <= change
    assert found.standard_error is not None and found.standard_error < error
    assert found.kl < kl
    assert found.top1 > top1
