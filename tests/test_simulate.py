"""The simulator against one token at a time, by hand: prefill, ring and re-basing may not change an integer."""

from __future__ import annotations

import functools
import itertools
from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import SHAPES, configs, fc8, quantized, random_tokens, shapes

from mcugen import kernels as k
from mcugen.ir import Config, Graph, QuantizedModel
from mcugen.lower import lower
from mcugen.simulate import CHUNK, Simulator, greedy, simulate

LONG = Config(8, 12, 2, 2, 1, 30, 300, True)  # trained for more tokens than a prefill takes at once


class ByHand:
    """The decode step in the order of the Llama papers, from kernels alone; keys and values in plain queues."""

    def __init__(self, model: QuantizedModel, context: int) -> None:
        self.model, self.context, self.position = model, context, 0
        self.keys = [deque(maxlen=context) for _ in model.layers]
        self.values = [deque(maxlen=context) for _ in model.layers]

    def step(self, token: int) -> np.ndarray:
        m = self.model
        if self.position == m.max_position:
            self.turn_back()
        x = k.embed_s16(np.int64(token), m.embedding)
        for layer, keys, values in zip(m.layers, self.keys, self.values, strict=True):
            h = k.block_s8(k.rmsnorm_s16(x, layer.att_norm.gain, layer.att_norm.gain_frac, layer.att_norm.eps))
            position = np.int64(self.position)
            q = k.rope_s16(self.linear("s16", *h, layer.wq), position, m.rope_step)
            key = self.linear("s16", *h, layer.wk)
            keys.append(k.rope_s8(key, position, m.rope_step, layer.key_zero, layer.key_shift))
            values.append(self.linear("s8", *h, layer.wv))
            drop = next(d for d in range(16) if self.context * 2 ** (15 - d) * 127 < 2**31)
            out = k.attention_s16(
                q[None], np.array(keys), np.array(values), np.ones((1, len(keys)), bool),
                m.config.n_heads, m.config.n_kv_heads, layer.score_shift, drop,
            )[0]  # fmt: skip
            x = self.linear("add_s16", x, *k.block_s8(out), layer.wo)
            h = k.block_s8(k.rmsnorm_s16(x, layer.ffn_norm.gain, layer.ffn_norm.gain_frac, layer.ffn_norm.eps))
            hidden = k.swiglu_s16(
                self.linear("s16", *h, layer.w1),
                self.linear("s16", *h, layer.w3),
                layer.gate_frac,
                layer.swiglu_shift,
            )
            x = self.linear("add_s16", x, *k.block_s8(hidden), layer.w2)
        self.position += 1
        normed = k.rmsnorm_s16(x, m.final_norm.gain, m.final_norm.gain_frac, m.final_norm.eps)
        return k.linear_s32(*k.block_s8(normed), m.classifier)

    def linear(self, output: str, *operands: object) -> np.ndarray:
        """A matrix is the last operand."""
        *residual, x, scale, w = operands
        if w.fc is not None:
            return getattr(k, f"rescale_{output}")(*residual, k.fc_codes(x, w), scale, w)
        return getattr(k, f"linear{'4' if w.bits == 4 else ''}_{output}")(*operands)

    def turn_back(self) -> None:
        """The oldest key goes to position 0; all keep their distances."""
        for layer, keys in zip(self.model.layers, self.keys, strict=True):
            for i, key in enumerate(keys):
                turned = k.rebase_s8(
                    key[None], self.position - self.context, self.model.rope_step, layer.key_zero, layer.key_shift
                )
                keys[i] = turned[0]
        self.position = self.context


def assert_ring(state: dict[str, np.ndarray], by_hand: ByHand, count: int) -> None:
    """Token t lies in slot t % context of every ring; slots that no token reached are zero."""
    for i in range(len(by_hand.keys)):
        for name, queue in (("keys", by_hand.keys[i]), ("values", by_hand.values[i])):
            expected = np.zeros_like(state[f"layers.{i}.{name}"])
            for t, row in zip(range(count - len(queue), count), queue, strict=True):
                expected[t % by_hand.context] = row
            np.testing.assert_array_equal(state[f"layers.{i}.{name}"], expected)


def assert_equals_by_hand(graph: Graph, tokens: np.ndarray) -> None:
    by_hand, simulator = ByHand(graph.model, graph.context), Simulator(graph)
    expected = np.array([by_hand.step(token) for token in tokens.tolist()])
    logits = simulator.feed(tokens)
    assert logits.dtype == np.int32
    np.testing.assert_array_equal(logits, expected)
    assert_ring(simulator.state, by_hand, len(tokens))
    assert (simulator.count, simulator.position) == (len(tokens), by_hand.position)


# ---------------------------------------------------------------- against the step by hand


@pytest.mark.parametrize("integers", [quantized, functools.partial(quantized, bits=4), fc8], ids=["8", "4", "fc8"])
@pytest.mark.parametrize("share", ["one", "half", "whole"])
@shapes()
def test_prefill_equals_the_step_by_hand(config, share, integers):
    """Over many wraps of the ring and at least two re-basings; also with a context of 1 and of the trained length."""
    context = {"one": 1, "half": config.seq_len // 2 + 1, "whole": config.seq_len}[share]
    tokens = random_tokens(config, 4 * config.seq_len + 3)
    assert_equals_by_hand(lower(integers(config), context), tokens)


@settings(max_examples=20)
@given(configs(), st.integers(0, 3), st.sampled_from([8, 4]), st.data())
def test_prefill_equals_the_step_by_hand_in_any_shape(config, seed, bits, data):
    context = data.draw(st.integers(1, config.seq_len))
    count = data.draw(st.integers(1, 3 * config.seq_len + 2))
    batch = data.draw(st.integers(1, 8))  # what the firmware takes at once changes nothing here
    graph = lower(quantized(config, seed, bits), context, batch=batch)
    assert_equals_by_hand(graph, random_tokens(config, count, seed))


@pytest.mark.parametrize("context", [100, 200, 300])
def test_prefill_in_chunks_equals_the_step_by_hand(context):
    """Runs end at CHUNK tokens, at the ring's size and at the position that must not be reached."""
    assert CHUNK < 200
    assert_equals_by_hand(lower(quantized(LONG), context), random_tokens(LONG, 1000))


@pytest.mark.parametrize("context", [3, 8])
def test_keys_are_turned_back_when_due(context):
    """First at max_position, then whenever the slack is used up; the trace keeps the rings as they then were."""
    model = quantized(SHAPES["mqa"])
    tokens = random_tokens(model.config, 60)
    trace = simulate(lower(model, context), tokens.tolist())
    assert list(trace.rebased) == list(range(16, 60, 16 - context))
    by_hand = ByHand(model, context)
    for count, token in enumerate(tokens.tolist()):
        if count in trace.rebased:
            by_hand.turn_back()
            (ring,) = trace.rebased[count]
            assert ring.dtype == np.int8
            state = {"layers.0.keys": ring, "layers.0.values": by_hand_ring(by_hand, count)}
            assert_ring(state, by_hand, count)
        by_hand.step(token)


def by_hand_ring(by_hand: ByHand, count: int) -> np.ndarray:
    rows = np.zeros((by_hand.context, by_hand.model.config.kv_dim), np.int8)
    for t, row in zip(range(count - len(by_hand.values[0]), count), by_hand.values[0], strict=True):
        rows[t % by_hand.context] = row
    return rows


def test_turning_back_changes_the_keys_and_nothing_else():
    graph = lower(quantized(SHAPES["mqa"]), 8)
    simulator, seen = Simulator(graph), []
    simulator.feed(random_tokens(graph.model.config, 16))
    before = {name: ring.copy() for name, ring in simulator.state.items()}
    simulator.feed([0], rebased=lambda _: seen.append({name: ring.copy() for name, ring in simulator.state.items()}))
    (after,) = seen
    assert (after["layers.0.keys"] != before["layers.0.keys"]).any()
    np.testing.assert_array_equal(after["layers.0.values"], before["layers.0.values"])


# ---------------------------------------------------------------- how tokens are fed


def steps(graph: Graph, tokens: np.ndarray, cuts: list[int]) -> tuple[np.ndarray, list, list, dict]:
    """Feed tokens cut at `cuts`: logits, every op's outputs, the tokens before which keys were turned back, rings."""
    simulator, kept, turned, fed = Simulator(graph), [[] for _ in graph.ops], [], 0
    logits = []
    for part in np.split(tokens, cuts):
        logits.append(simulator.feed(part, lambda i, o: kept[i].append(o), lambda t, fed=fed: turned.append(fed + t)))
        fed += len(part)
    outputs = [tuple(np.concatenate(parts) for parts in zip(*runs, strict=True)) for runs in kept]
    return np.concatenate(logits), outputs, turned, simulator.state


def assert_same_steps(graph: Graph, tokens: np.ndarray, cuts: list[int]) -> None:
    expected = simulate(graph, tokens.tolist())
    logits, outputs, turned, state = steps(graph, tokens, cuts)
    assert turned == list(expected.rebased)
    for op, observed, wanted in zip(graph.ops, outputs, expected.outputs, strict=True):
        for one, other in zip(observed, wanted, strict=True):
            np.testing.assert_array_equal(one, other, op.label)
    np.testing.assert_array_equal(logits, expected.outputs[-1][0])
    for name, ring in expected.state.items():
        np.testing.assert_array_equal(state[name], ring, name)


@pytest.mark.parametrize("share", ["one", "half", "whole"])
@shapes()
def test_one_token_at_a_time_equals_one_prefill(config, share):
    """Every output of every op, logits and rings."""
    context = {"one": 1, "half": config.seq_len // 2 + 1, "whole": config.seq_len}[share]
    count = 4 * config.seq_len + 3
    assert_same_steps(lower(quantized(config), context), random_tokens(config, count), list(range(1, count)))


@settings(max_examples=25)
@given(st.sampled_from(["mqa", "mha", "narrow"]), st.data())
def test_results_do_not_depend_on_how_tokens_are_fed(name, data):
    config = SHAPES[name]
    context = data.draw(st.integers(1, config.seq_len))
    count = data.draw(st.integers(1, 5 * config.seq_len))
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=8)))  # empty parts too
    assert_same_steps(lower(quantized(config), context), random_tokens(config, count), cuts)


def test_no_tokens_give_no_logits():
    graph = lower(quantized(SHAPES["mqa"]), 8)
    simulator = Simulator(graph)
    assert simulator.feed([]).shape == (0, 11)
    assert (simulator.count, simulator.position) == (0, 0)


def test_reset_forgets_everything():
    graph = lower(quantized(SHAPES["mha"]), 7)
    simulator, tokens = Simulator(graph), random_tokens(SHAPES["mha"], 50)
    first = simulator.feed(tokens)
    assert (simulator.feed(tokens) != first).any()
    simulator.reset()
    assert (simulator.count, simulator.position) == (0, 0)
    assert not any(ring.any() for ring in simulator.state.values())
    np.testing.assert_array_equal(simulator.feed(tokens), first)


def test_two_simulators_share_nothing():
    graph = lower(quantized(SHAPES["mha"]), 7)
    tokens = random_tokens(SHAPES["mha"], 20)
    expected = Simulator(graph).feed(tokens)
    one, other = Simulator(graph), Simulator(graph)
    other.feed(tokens[::-1])
    np.testing.assert_array_equal(one.feed(tokens), expected)


def test_what_left_the_ring_is_forgotten():
    """Before any re-basing, two histories that agree in the last `context` tokens of a one-layer model agree."""
    graph = lower(quantized(SHAPES["mqa"]), 4)
    one, other = random_tokens(SHAPES["mqa"], 12), random_tokens(SHAPES["mqa"], 12, seed=1)
    other[-4:] = one[-4:]
    assert (one[:8] != other[:8]).any()
    a, b = Simulator(graph).feed(one), Simulator(graph).feed(other)
    np.testing.assert_array_equal(a[-1], b[-1])
    other[-4] = (other[-4] + 1) % 11
    assert (Simulator(graph).feed(other)[-1] != a[-1]).any()


# ---------------------------------------------------------------- the trace


@shapes()
def test_a_trace_holds_what_the_buffers_hold(config):
    graph = lower(quantized(config), config.seq_len)
    tokens = random_tokens(config, 5).tolist()
    trace = simulate(graph, tokens)
    assert trace.tokens == tuple(tokens)
    assert len(trace.outputs) == len(graph.ops)
    for op, outputs in zip(graph.ops, trace.outputs, strict=True):
        for name, output in zip(op.outputs, outputs, strict=True):
            buffer = graph.buffers[name]
            shape = buffer.shape[1:] if op.row else buffer.shape
            assert (str(output.dtype), output.shape) == (buffer.dtype, (5, *shape)), op.label
            if op.row:  # the slot written
                np.testing.assert_array_equal(trace.state[name][np.arange(5) % graph.context][-1], output[-1])
    for name, ring in trace.state.items():
        assert (str(ring.dtype), ring.shape) == (graph.buffers[name].dtype, graph.buffers[name].shape)


def test_greedy_is_the_largest_logit_of_each_step():
    graph = lower(quantized(SHAPES["gqa"]), 16)
    prompt = [1, 30, 5]
    story = list(itertools.islice(greedy(graph, prompt), 20))
    assert len(set(story)) > 5  # not one token over and over
    logits = Simulator(graph).feed(prompt + story)
    assert story == logits[len(prompt) - 1 : -1].argmax(-1).tolist()
