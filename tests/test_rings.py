"""Windows of single layers and attention sinks, on every rung: float, simulator, plan, generated C on each core.

The fixed points are independent: a float decoder that keeps its keys unrotated and turns all of them anew for every
token, as StreamingLLM describes it, and a step by hand that keeps every key ever written and picks what is seen.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import ladder
import numpy as np
import pytest
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from test_reference import close
from test_simulate import assert_same_steps

from mcugen import kernels as k
from mcugen.errors import UsageError
from mcugen.ir import Config, Graph, Ring
from mcugen.layout import plan_text
from mcugen.lower import check_sinks, lower, ring_slots
from mcugen.microtvm.layout import lay_out_microtvm
from mcugen.quantized_file import load_quantized, save_quantized
from mcugen.reference import FloatDecoder, rmsnorm, rope, rope_angles, silu, softmax
from mcugen.simulate import Simulator
from mcugen.tflm.layout import lay_out_tflm
from mcugen.verify import verify, verify_prompt

GQA = zoo.SHAPES["gqa"]
LOCAL = zoo.LOCAL["local"]
RINGED = {**zoo.LOCAL, "gqa": GQA, "mqa": zoo.SHAPES["mqa"]}


def ringed() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("config", RINGED.values(), ids=RINGED.keys())


def in_reach(config: Config, context: int, sinks: int) -> int:
    """As many of the sinks as this context and these layers can have."""
    return min(sinks, context - 1) if context in ring_slots(config, context) else 0


# ---------------------------------------------------------------- what a ring is


@pytest.mark.parametrize("ring", [Ring(1), Ring(5), Ring(5, 1), Ring(5, 4), Ring(9, 3)])
def test_a_ring_is_a_list_that_tokens_are_written_to(ring: Ring) -> None:
    slots: list[int | None] = [None] * ring.slots
    for token in range(4 * ring.slots):
        free = [i for i, kept in enumerate(slots) if kept is None]
        at = free[0] if free else slots.index(min(kept for kept in slots[ring.sinks :] if kept is not None))
        slots[at] = token
        assert int(ring.slot(np.array(token))) == at
        assert [other for other in range(token + 3) if ring.sees(np.array(token), np.array(other))] == sorted(
            kept for kept in slots if kept is not None
        )


# ---------------------------------------------------------------- float


def streaming_llm(model: zoo.Model, tokens: np.ndarray, window: int, sinks: int) -> np.ndarray:
    """Token by token, keys unrotated in a list; positions are counted within the list."""
    c, w = model.config, {name: tensor.astype(float) for name, tensor in model.weights.items()}
    kept: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(c.n_layers)]
    logits = []
    for token in tokens.tolist():
        x = w["token_embedding_table"][token]
        for layer, cache in enumerate(kept):
            size = min(window, c.window(layer) or window)
            h = rmsnorm(x, w["rms_att_weight"][layer], c.norm_eps)
            cache.append((w["wk"][layer] @ h, w["wv"][layer] @ h))
            if len(cache) > size:
                del cache[sinks if size == window else 0]
            angles = rope_angles(c, np.arange(len(cache)), layer)
            keys = rope(np.array([key for key, _ in cache]).reshape(len(cache), c.n_kv_heads, -1), angles)
            values = np.array([value for _, value in cache]).reshape(len(cache), c.n_kv_heads, -1)
            query = rope((w["wq"][layer] @ h).reshape(1, c.n_heads, -1), angles[-1:])[0]
            heads = []
            for head, q in enumerate(query):
                weight = softmax(keys[:, head // c.group_size] @ q / np.sqrt(c.head_dim))
                heads.append(weight @ values[:, head // c.group_size])
            x = x + w["wo"][layer] @ np.concatenate(heads)
            h = rmsnorm(x, w["rms_ffn_weight"][layer], c.norm_eps)
            x = x + w["w2"][layer] @ (silu(w["w1"][layer] @ h) * (w["w3"][layer] @ h))
        logits.append(w["wcls"] @ rmsnorm(x, w["rms_final_weight"], c.norm_eps))
    return np.array(logits)


@pytest.mark.parametrize("sinks", [0, 1, 3])
@ringed()
def test_the_float_decoder_streams_as_streaming_llm_says(config: Config, sinks: int) -> None:
    """In pieces of one token and of many; what no token sees any more is gone."""
    model, window = zoo.model_of(config), 6
    tokens = zoo.random_tokens(config, 40)
    sinks = in_reach(config, window, sinks)
    expected = streaming_llm(model, tokens, window, sinks)
    decoder = FloatDecoder(model, batch=2, window=window, sinks=sinks)
    both = np.stack([tokens, tokens[::-1]])
    cuts = [1, 2, 3, 9, 30]
    close(np.concatenate([decoder.forward(part)[0] for part in np.split(both, cuts, 1)]), expected)
    for layer, keys in enumerate(decoder._keys):
        assert keys.shape[1] == min(window, config.window(layer) or window) - 1


# ---------------------------------------------------------------- simulator


class ByHand:
    """One token at a time; every key and value that was ever written, and the slot it went to."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.model = graph, graph.model
        self.position, self.count = 0, 0
        self.slots = ring_slots(self.model.config, graph.context)
        self.rings = [[None] * n for n in self.slots]  # (token, raw key, key codes, value codes)

    def step(self, token: int) -> np.ndarray:
        m, config = self.model, self.model.config
        if self.position == m.max_position:
            self.turn_back()
        x = k.embed_s16(np.int64(token), m.embedding)
        for i, layer in enumerate(m.layers):
            local = config.window(i) and m.local_rope_step is not None
            rope_step = m.local_rope_step if local else m.rope_step
            zero, shift, ring = layer.key_zero, layer.key_shift, self.rings[i]
            h = k.block_s8(k.rmsnorm_s16(x, layer.att_norm.gain, layer.att_norm.gain_frac, layer.att_norm.eps))
            q = k.rope_s16(k.linear_s16(*h, layer.wq), np.int64(self.position), rope_step)
            raw = k.linear_s16(*h, layer.wk)
            key = k.rope_s8(raw, np.int64(self.position), rope_step, zero, shift)
            sinks = self.graph.sinks if len(ring) == self.graph.context else 0
            entry = [self.count, raw, key, k.linear_s8(*h, layer.wv)]
            if self.count < len(ring):
                ring[self.count] = entry
            else:
                ring[min(range(sinks, len(ring)), key=lambda slot: ring[slot][0])] = entry
                for s in range(sinks):
                    at = np.int64(self.position - (len(ring) - 1) + s)
                    ring[s][2] = k.rope_s8(ring[s][1], at, rope_step, zero, shift)
            used = [entry for entry in ring if entry]
            keys, values = (np.array([entry[part] for entry in used]) for part in (2, 3))
            drop = next(d for d in range(16) if len(ring) * 2 ** (15 - d) * 127 < 2**31)
            out = k.attention_s16(
                q[None], keys, values, np.ones((1, len(used)), bool),
                config.n_heads, config.n_kv_heads, layer.score_shift, drop,
            )[0]  # fmt: skip
            x = k.linear_add_s16(x, *k.block_s8(out), layer.wo)
            h = k.block_s8(k.rmsnorm_s16(x, layer.ffn_norm.gain, layer.ffn_norm.gain_frac, layer.ffn_norm.eps))
            gate, up = k.linear_s16(*h, layer.w1), k.linear_s16(*h, layer.w3)
            x = k.linear_add_s16(
                x, *k.block_s8(k.swiglu_s16(gate, up, layer.gate_frac, layer.swiglu_shift)), layer.w2
            )
        self.position += 1
        self.count += 1
        normed = k.rmsnorm_s16(x, m.final_norm.gain, m.final_norm.gain_frac, m.final_norm.eps)
        return k.linear_s32(*k.block_s8(normed), m.classifier)

    def turn_back(self) -> None:
        for i, (layer, ring) in enumerate(zip(self.model.layers, self.rings, strict=True)):
            delta = self.position - self.graph.context
            for entry in ring:
                entry[2] = k.rebase_s8(
                    entry[2][None], delta, self.model.layer_rope_step(i), layer.key_zero, layer.key_shift
                )[0]
        self.position = self.graph.context


def assert_equals_by_hand(graph: Graph, tokens: np.ndarray) -> None:
    by_hand, simulator = ByHand(graph), Simulator(graph)
    expected = np.array([by_hand.step(token) for token in tokens.tolist()])
    np.testing.assert_array_equal(simulator.feed(tokens), expected)
    assert (simulator.count, simulator.position) == (len(tokens), by_hand.position)
    for i, ring in enumerate(by_hand.rings):
        for name, part in (("keys", 2), ("values", 3)):
            state = simulator.state[f"layers.{i}.{name}"]
            np.testing.assert_array_equal(state, [e[part] if e else np.zeros_like(state[0]) for e in ring])


@pytest.mark.parametrize("sinks", [0, 1, 4])
@pytest.mark.parametrize("context", [2, 9, 16])
@ringed()
def test_prefill_equals_the_step_by_hand(config: Config, context: int, sinks: int) -> None:
    """Over many wraps of each ring and several re-basings."""
    context = min(context, config.seq_len)
    graph = lower(zoo.quantized(config), context, sinks=in_reach(config, context, sinks))
    assert_equals_by_hand(graph, zoo.random_tokens(config, 5 * config.seq_len + 3))


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(RINGED)), st.data())
def test_results_do_not_depend_on_how_tokens_are_fed(name: str, data: st.DataObject) -> None:
    """Every output of every op, what sinks were turned to among them, and the state."""
    config = RINGED[name]
    context = data.draw(st.integers(1, config.seq_len))
    sinks = in_reach(config, context, data.draw(st.integers(0, 8)))
    count = data.draw(st.integers(1, 5 * config.seq_len))
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=8)))
    graph = lower(zoo.quantized(config), context, sinks=sinks)
    assert_same_steps(graph, zoo.random_tokens(config, count), cuts)


def test_sinks_are_seen_after_all_else_is_forgotten() -> None:
    """Of a model with one layer: two histories that agree in the sinks and in the last tokens agree, as in a ring, and
    sinks that differ make a difference, for ever."""
    config = zoo.SHAPES["mqa"]
    graph = lower(zoo.quantized(config), 6, sinks=2)
    one, other = zoo.random_tokens(config, 60), zoo.random_tokens(config, 60, seed=1)
    other[:2], other[-4:] = one[:2], one[-4:]
    # re-basing codes keys again: histories must have it at the same token, as they do
    expected = Simulator(graph).feed(one)[-1]
    np.testing.assert_array_equal(Simulator(graph).feed(other)[-1], expected)
    other[0] = (other[0] + 1) % 11
    assert (Simulator(graph).feed(other)[-1] != expected).any()


def test_a_window_of_all_the_context_is_none() -> None:
    """The same numbers and the same bytes of RAM, whether a layer's window is the context or larger."""
    config = dataclasses.replace(GQA, layer_windows=(9, 12))
    plain, windowed = (zoo.quantized(c) for c in (GQA, config))
    graph = lower(dataclasses.replace(plain, config=config), 9, sinks=2)
    tokens = zoo.random_tokens(config, 80)
    assert set(graph.rings) == {Ring(9, 2)}
    np.testing.assert_array_equal(Simulator(graph).feed(tokens), Simulator(lower(plain, 9, sinks=2)).feed(tokens))
    assert windowed.local_rope_step is None


# ---------------------------------------------------------------- RoPE per layer


def test_each_layer_turns_by_its_own_steps() -> None:
    far, three = (zoo.quantized(zoo.LOCAL[name]) for name in ("far", "three rings"))
    turns = 2.0**32 / (2 * np.pi)
    frequency = 10_000.0 ** -(np.arange(4) / 4)
    np.testing.assert_array_equal(far.layer_rope_step(0), np.round(frequency / (1, 2.5, 8, 8) * turns))
    np.testing.assert_array_equal(far.layer_rope_step(1), np.round(frequency * turns))
    pairs = np.arange(4) / 4
    np.testing.assert_array_equal(three.layer_rope_step(1), np.round(100.0**-pairs * turns))
    np.testing.assert_array_equal(three.layer_rope_step(2), np.round(10_000.0**-pairs * turns))


def test_keys_are_centred_for_the_angles_of_their_layer() -> None:
    """The first layer, whose keys no angle has touched before, is that of a model with its base everywhere."""
    config = zoo.LOCAL["three rings"]
    ours, near, far = (
        zoo.quantized(c).layers[0]
        for c in (
            config,
            dataclasses.replace(config, rope_theta=100.0, local_rope_theta=0.0),
            dataclasses.replace(config, local_rope_theta=0.0),
        )
    )
    np.testing.assert_array_equal(ours.key_zero, near.key_zero)
    np.testing.assert_array_equal(ours.wk.multiplier, near.wk.multiplier)
    assert (ours.key_zero != far.key_zero).any()


@pytest.mark.parametrize("name", zoo.LOCAL)
def test_the_quantised_file_keeps_windows_and_steps(name: str) -> None:
    model = zoo.quantized(zoo.LOCAL[name])
    loaded, _ = load_quantized(save_quantized(model))
    assert loaded.config == model.config
    for layer in range(model.config.n_layers):
        np.testing.assert_array_equal(loaded.layer_rope_step(layer), model.layer_rope_step(layer))
    assert save_quantized(loaded) == save_quantized(model)


# ---------------------------------------------------------------- plan


def test_a_window_saves_the_ram_of_what_is_not_seen() -> None:
    """keys and values, int8; a sink keeps an int16 key beside its slot."""
    with_sinks = ladder.laid_out(LOCAL, 12, sinks=3, board="host")
    assert with_sinks.demand.ring == 2 * 16 * (4 + 12 + 4) + 2 * 3 * 16
    assert ladder.laid_out(LOCAL, 12, board="host").demand.ring == 2 * 16 * (4 + 12 + 4)
    text = plan_text(with_sinks)
    assert (
        "KV rings\n"
        "  layer  slots  sinks  bytes\n"
        "  0          4      0    128\n"
        "  1         12      3    480\n"
        "  2          4      0    128\n"
    ) in text
    assert "each slot of the context costs 32 B of ring" in text
    assert "KV rings\n" not in plan_text(ladder.laid_out(GQA, 12, board="host"))


# ---------------------------------------------------------------- refusals


def refusal(config: Config, context: int, sinks: int) -> str:
    with pytest.raises(UsageError) as caught:
        check_sinks(zoo.quantized(config), context, sinks)
    return str(caught.value)


def test_sinks_that_a_context_has_no_room_for() -> None:
    assert refusal(GQA, 16, 9) == (
        "9 sinks are outside 0 to 8, for a context of 16 tokens\n  where: --sinks\n  try:   --sinks 8"
    )
    assert refusal(GQA, 4, 4) == (
        "4 sinks are outside 0 to 3, for a context of 4 tokens\n  where: --sinks\n  try:   --sinks 3"
    )
    assert refusal(GQA, 16, -1) == (
        "-1 sinks are outside 0 to 8, for a context of 16 tokens\n  where: --sinks\n  try:   --sinks 0"
    )
    with pytest.raises(UsageError, match="4 sinks are outside 0 to 3"):
        ladder.laid_out(GQA, 4, sinks=4)
    with pytest.raises(UsageError, match="9 sinks are outside 0 to 8"):
        ladder.laid_out(GQA, None, sinks=9)  # type: ignore[arg-type]


def test_sinks_where_no_layer_sees_all_of_the_context() -> None:
    assert refusal(zoo.LOCAL["all local"], 8, 1) == (
        "sinks are for layers that see all of the context, and those of random0 see 3 of its 8 tokens at most\n"
        "  where: --sinks\n"
        "  try:   leave --sinks out, or --context 3"
    )
    assert ladder.laid_out(zoo.LOCAL["all local"], 3, sinks=1).graph.sinks == 1


@pytest.mark.parametrize(
    ("lay_out", "title"), [(lay_out_tflm, "TensorFlow Lite Micro"), (lay_out_microtvm, "microTVM")]
)
def test_targets_with_one_ring_refuse_windows(lay_out: Callable[..., object], title: str) -> None:
    model, vocabulary = zoo.quantized(LOCAL), zoo.random_tokenizer(300)
    with pytest.raises(UsageError) as caught:
        lay_out(model, vocabulary, ladder.HOST, 8)
    assert str(caught.value) == (
        f"the {title} target does not compute layer_windows {LOCAL.layer_windows}, which random0 has\n"
        "  where: --target\n"
        "  try:   --target c"
    )


# ---------------------------------------------------------------- generated C


SMALLER = Config(32, 20, 2, 4, 2, 20, 16, True, layer_windows=(4, 0))  # max_position is 32

CASES = {
    "sink": (dataclasses.replace(SMALLER, layer_windows=()), 1),
    "sinks": (dataclasses.replace(SMALLER, layer_windows=()), 4),
    "window": (SMALLER, 0),
    "both": (dataclasses.replace(SMALLER, rope_factors=(1.0, 2.0, 4.0, 4.0)), 4),
}
cases = functools.partial(pytest.mark.parametrize, ("config", "sinks"), CASES.values(), ids=CASES.keys())


def climbed(layout: ladder.Layout, machine: ladder.Emulator | ladder.HostMachine, count: int) -> None:
    """Op by op, then a prompt at once, and one that no ring has room for."""
    tokens = zoo.random_tokens(layout.graph.model.config, count, seed=3).tolist()
    try:
        report = verify(machine, layout.graph, layout.plan, tokens, rung="rung", title="machine")
        assert report.difference is None
        assert (report.tokens, report.ops) == (count, len(layout.graph.ops))
        for prompt in (tokens[: layout.graph.context], tokens[:40]):
            found = verify_prompt(machine, layout.graph, layout.plan, prompt, rung="rung", title="machine")
            assert found.difference is None
    finally:
        machine.close()


@pytest.mark.parametrize("batch", [1, 3])
@cases()
def test_every_op_is_equal_on_the_host(config: Config, sinks: int, batch: int) -> None:
    layout = ladder.laid_out(config, 11, board="host", sinks=sinks, batch=batch)
    climbed(layout, ladder.host_machine(layout), 650 if batch == 1 else 120)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", zoo.LOCAL)
def test_every_shape_is_equal_on_the_host(name: str, batch: int) -> None:
    config = zoo.LOCAL[name]
    context = config.seq_len - 3
    layout = ladder.laid_out(config, context, board="host", sinks=in_reach(config, context, 2), batch=batch)
    climbed(layout, ladder.host_machine(layout), 120)


BOARDS = ("nucleo", "mps2-an385", "mps2-an383", "mps3-an547", "qemu-virt-rv32")  # M4, M3, M0+, M55, RV32


@pytest.mark.parametrize("board", [board for board in BOARDS if board != "mps2-an385"])  # whose rings are the M0+'s
def test_every_op_is_equal_on_each_core(board: str) -> None:
    """Rings of two sizes, sinks, RoPE per layer, several tokens at once."""
    config, sinks = CASES["both"]
    layout = ladder.laid_out(config, 11, board=board, sinks=sinks, batch=3)
    climbed(layout, ladder.board_machine(layout), 56)


@pytest.mark.slow
@pytest.mark.parametrize("toolchain", ["zig", "gcc"])
@pytest.mark.parametrize("board", BOARDS)
@cases()
def test_every_op_is_equal_for_600_tokens(config: Config, sinks: int, board: str, toolchain: str) -> None:
    layout = ladder.laid_out(config, 11, board=board, sinks=sinks)
    climbed(layout, ladder.board_machine(layout, toolchain), 600)
