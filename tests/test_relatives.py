"""What close relatives of Llama add, from float to the board: biases, gates, norms, heads of any size, experts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import ladder
import numpy as np
import pytest
import test_simulate
import zoo
from test_quantize import cost
from test_verify import broken_machine, climb, prompted

from mcugen import kernels as k
from mcugen.bench import PARTS, _weights, part_of
from mcugen.boards import load_board
from mcugen.emulate.elf import parse_elf
from mcugen.errors import InputError, InternalError, UsageError
from mcugen.families import MORE_BYTES, choose_family
from mcugen.fc8 import to_fc8
from mcugen.ir import Bank, Config, Linear, Norm, QuantizedLayer
from mcugen.layout import OP_BYTES, vocabulary_bytes
from mcugen.lower import check_graph, lower
from mcugen.microtvm.layout import lay_out_microtvm
from mcugen.plan import plan_memory
from mcugen.quantize import calibrate, quantize
from mcugen.simulate import Simulator, simulate
from mcugen.tflm.layout import lay_out_tflm

Block = tuple[np.ndarray, np.ndarray]  # codes and their scale
ALL, MOE, MOE1 = (zoo.ARCHITECTURES[name] for name in ("all", "moe2", "moe1"))
BOARDS = ("nucleo", "mps2-an383", "mps3-an547", "qemu-virt-rv32")  # a Cortex-M4, M0+ and M55, and RISC-V

# ---------------------------------------------------------------- rung 2: against float

# Nats of KL(float || integers) and the share of tokens with the same likeliest one, with int8 and int4 weights. A
# mixture's router is a close call now and then, and with one expert per token such a call is all.
BUDGET = {
    "qwen2": (0.003, 0.94, 0.07, 0.79), "qwen3": (0.004, 0.94, 0.13, 0.73), "gemma": (0.003, 0.94, 0.10, 0.73),
    "gelu": (0.003, 0.94, 0.10, 0.77), "reglu": (0.004, 0.94, 0.12, 0.77), "relu2": (0.006, 0.93, 0.19, 0.70),
    "moe1": (0.04, 0.93, 0.34, 0.72), "moe2": (0.01, 0.94, 0.15, 0.82), "all": (0.004, 0.94, 0.12, 0.76),
}  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_budget(name: str, seed: int) -> None:
    """Over the trained context, then far past it in a ring that wraps and is turned back."""
    config = zoo.ARCHITECTURES[name]
    nats8, same8, nats4, same4 = BUDGET[name]
    model = zoo.model_of(config, seed)
    within = list(zoo.random_tokens(config, 12 * config.seq_len, 99).reshape(12, -1))
    far = zoo.random_tokens(config, 100, 98)
    for bits, nats, agreement in ((8, nats8, same8), (4, nats4, same4)):
        q = zoo.quantized(config, seed, bits)
        kl, same = cost(model, lower(q, config.seq_len), within)
        assert kl.mean() < nats
        assert same.mean() > agreement
        kl, _ = cost(model, lower(q, config.seq_len // 2), [far])
        assert kl.mean() < 1.5 * nats


@pytest.mark.parametrize("factor", [1e-3, 30.0])
@pytest.mark.parametrize("name", ["bq", "bk", "bv", "bo", "b1", "b3", "b2"])
def test_biases_of_any_size(name: str, factor: float) -> None:
    """30 times as large as what they are added to: none is cut off on the way, and gates that they keep shut take no
    bits of the others."""
    config = dataclasses.replace(zoo.ARCHITECTURES["gelu"], attention_bias=True, activation="silu")
    model = zoo.model_of(config)
    weights = {**model.weights, name: (model.weights[name] * factor).astype(np.float32)}
    model = dataclasses.replace(model, weights=weights)
    tokens = zoo.random_tokens(config, 8 * config.seq_len).reshape(8, -1)
    kl, _ = cost(model, lower(quantize(model, calibrate(model, tokens, "tokens")), 16), list(tokens[:4]))
    assert kl.mean() < 0.003


@pytest.mark.parametrize("factor", [1e-4, 1e3])
@pytest.mark.parametrize("name", ["wq", "wk", "wo", "w2"])
def test_what_a_norm_follows_may_have_any_size(name: str, factor: float) -> None:
    model = zoo.model_of(dataclasses.replace(ALL, attention_bias=False, mlp_bias=False))
    weights = {**model.weights, name: (model.weights[name] * factor).astype(np.float32)}
    model = dataclasses.replace(model, weights=weights)
    tokens = zoo.random_tokens(ALL, 8 * ALL.seq_len).reshape(8, -1)
    kl, _ = cost(model, lower(quantize(model, calibrate(model, tokens, "tokens")), 16), list(tokens[:4]))
    assert kl.mean() < 0.006


@pytest.mark.parametrize("factor", [0.01, 100.0])
@pytest.mark.parametrize("activation", ["relu", "relu2"])
def test_gates_without_a_table_have_any_format(activation: str, factor: float) -> None:
    """Their bits are all there where every gate is far below 1."""
    config = dataclasses.replace(zoo.ARCHITECTURES["relu2"], activation=activation)
    model = zoo.model_of(config)
    weights = {**model.weights, "w1": (model.weights["w1"] * factor).astype(np.float32)}
    power = factor ** (2 if activation == "relu2" else 1)
    weights["w2"] = (model.weights["w2"] / power).astype(np.float32)
    model = dataclasses.replace(model, weights=weights)
    tokens = zoo.random_tokens(config, 8 * config.seq_len).reshape(8, -1)
    q = quantize(model, calibrate(model, tokens, "tokens"))
    assert q.layers[0].gate_frac == zoo.quantized(config).layers[0].gate_frac - round(np.log2(factor))
    kl, _ = cost(model, lower(q, 16), list(tokens[:4]))
    assert kl.mean() < 0.006


def test_scales_are_those_of_the_weights() -> None:
    """embedding_scale and logit_scale are in the multipliers alone: a model with scaled weights is the same."""
    config = zoo.ARCHITECTURES["qwen3"]
    model = zoo.model_of(config)
    scaled = {
        name: tensor * np.float32({"token_embedding_table": 4, "wcls": 0.5}.get(name, 1))
        for name, tensor in model.weights.items()
    }
    tokens = zoo.random_tokens(config, 8 * config.seq_len).reshape(8, -1)
    one = dataclasses.replace(model, weights=scaled)
    two = dataclasses.replace(model, config=dataclasses.replace(config, embedding_scale=4.0, logit_scale=0.5))
    logits = [Simulator(lower(quantize(m, calibrate(m, tokens, "")), 16)).feed(tokens[0]) for m in (one, two)]
    np.testing.assert_array_equal(*logits)


# ---------------------------------------------------------------- integers


def test_zero_biases_cost_nothing() -> None:
    config = dataclasses.replace(ALL, qk_norm=False)
    model = zoo.model_of(config)
    weights = {name: tensor * (name[0] != "b") for name, tensor in model.weights.items()}
    model = dataclasses.replace(model, weights=weights)
    tokens = zoo.random_tokens(config, 4 * config.seq_len).reshape(4, -1)
    graph = lower(quantize(model, calibrate(model, tokens, "")), 16)
    assert [op.label for op in graph.ops if "bias" in op.parameters] == []
    biased = lower(zoo.quantized(config), 16)
    assert [op.label for op in biased.ops if "bias" in op.parameters][:6] == [
        f"layers.0.{name}_bias" for name in ("query", "key", "out", "gate", "up", "down")
    ]


def test_biases_of_experts_are_refused() -> None:
    model = zoo.model_of(dataclasses.replace(MOE, mlp_bias=True))
    with pytest.raises(InputError) as caught:
        quantize(model, calibrate(model, [zoo.random_tokens(MOE, 16)], ""))
    assert str(caught.value) == (
        "biases of experts are not known here\n"
        "  where: model random0, mlp_bias with n_experts 4\n"
        "  try:   take a mixture of experts without them, as Mixtral is"
    )


def test_an_expert_that_calibration_never_chose_is_safe() -> None:
    """Its weights are 50 times those of the others; it has their units, and saturates. Of the others, two and two have
    opposite logits, so that one is always larger than its 0."""
    model = zoo.model_of(MOE1)
    router, w1 = model.weights["router"].copy(), model.weights["w1"].copy()
    router[:, 0], router[:, 2], router[:, 4] = 0, -router[:, 1], -router[:, 3]
    w1[:, 0] *= 50
    model = dataclasses.replace(model, weights={**model.weights, "router": router, "w1": w1})
    tokens = zoo.random_tokens(MOE1, 8 * MOE1.seq_len).reshape(8, -1)
    seen = calibrate(model, tokens, "")
    assert min(seen.values["router", i].argmax(-1).min() for i in range(2)) > 0
    q = quantize(model, seen)
    # with all logits 0, the lowest id is the first one's
    layers = tuple(dataclasses.replace(layer, router=_without_codes(layer.router)) for layer in q.layers)
    layout = ladder.laid_out(MOE1, 12, board="host")
    graph = lower(dataclasses.replace(q, name="random", layers=layers), 12)
    layout = dataclasses.replace(layout, graph=graph, plan=plan_memory(graph, layout.board))
    outputs = dict(zip([op.label for op in graph.ops], simulate(graph, tokens[0].tolist()).outputs, strict=True))
    assert (outputs["layers.0.choice"][0] == 0).all()
    assert np.abs(outputs["layers.0.rank0.w1"][0].astype(int)).max() >= 32767
    assert climb(ladder.host_machine(layout), layout, 30).difference is None


def _without_codes(w: Linear) -> Linear:
    return dataclasses.replace(w, codes=np.zeros_like(w.codes))


class ByHand(test_simulate.ByHand):
    """The decode step with all that relatives of Llama add, from kernels alone."""

    def step(self, token: int) -> np.ndarray:
        m, config = self.model, self.model.config
        if self.position == m.max_position:
            self.turn_back()
        at = np.int64(self.position)
        x = k.embed_s16(np.int64(token), m.embedding)
        for layer, keys, values in zip(m.layers, self.keys, self.values, strict=True):
            h = k.block_s8(_norm(x, layer.att_norm))
            q = _plus(self.linear("s16", *h, layer.wq), layer.query_bias)
            key = _plus(self.linear("s16", *h, layer.wk), layer.key_bias)
            if config.qk_norm:
                q = np.concatenate([_norm(q, layer.query_norm, i, config.head_dim) for i in range(config.n_heads)])
                key = np.concatenate(
                    [_norm(key, layer.key_norm, i, config.head_dim) for i in range(config.n_kv_heads)]
                )
            keys.append(k.rope_s8(key, at, m.rope_step, layer.key_zero, layer.key_shift))
            values.append(self.linear("s8", *h, layer.wv))
            out = k.attention_s16(
                k.rope_s16(q, at, m.rope_step)[None], np.array(keys), np.array(values), np.ones((1, len(keys)), bool),
                config.n_heads, config.n_kv_heads, layer.score_shift, 0,
            )[0]  # fmt: skip
            x = self.joined(x, [(k.block_s8(out), layer.wo)], layer.out_bias, layer.post_att_norm)
            x = self.joined(x, list(self.hidden(x, layer)), layer.down_bias, layer.post_ffn_norm)
        self.position += 1
        return k.linear_s32(*k.block_s8(_norm(x, m.final_norm)), m.classifier)

    def hidden(self, x: np.ndarray, layer: QuantizedLayer) -> Iterator[tuple[Block, Linear]]:
        """What is multiplied with which w2: once, or for each expert that is chosen."""
        h = k.block_s8(_norm(x, layer.ffn_norm))
        if not layer.experts:
            gate = _plus(self.linear("s16", *h, layer.w1), layer.gate_bias)
            up = _plus(self.linear("s16", *h, layer.w3), layer.up_bias)
            yield k.block_s8(self.gated(gate, up, layer)), layer.w2
            return
        choice, weight = k.route_s32(k.linear_s32(*h, layer.router), self.model.config.experts_per_token)
        for expert, share in zip(choice, weight, strict=True):
            w = layer.experts[expert]
            hidden = self.gated(self.linear("s16", *h, w.w1), self.linear("s16", *h, w.w3), layer)
            yield k.block_s8(k.scale_s16(hidden, share) if len(choice) > 1 else hidden), w.w2

    def gated(self, gate: np.ndarray, up: np.ndarray, layer: QuantizedLayer) -> np.ndarray:
        frac, shift = layer.gate_frac, layer.swiglu_shift
        match self.model.config.activation:
            case "silu":
                return k.swiglu_s16(gate, up, frac, shift)
            case "gelu":
                return k.geglu_s16(gate, up, frac, shift)
            case "gelu_tanh":
                return k.geglu_tanh_s16(gate, up, frac, shift)
            case "relu":
                return k.reglu_s16(gate, up, shift)
        return k.relu2glu_s16(gate, up, shift)

    def joined(
        self, x: np.ndarray, products: Sequence[tuple[Block, Linear]], bias: np.ndarray | None, norm: Norm | None
    ) -> np.ndarray:
        if norm is None:
            for block, w in products:
                x = self.linear("add_s16", x, *block, w)
            return _plus(x, bias)
        (first, w), *others = products
        added = self.linear("s16", *first, w)
        for block, w in others:
            added = self.linear("add_s16", added, *block, w)
        return k.add_s16(x, _norm(_plus(added, bias), norm))


def _norm(x: np.ndarray, norm: Norm, head: int | None = None, dim: int = 0) -> np.ndarray:
    """head: the one of `dim` values that is normed, if not all of x is."""
    if head is None:
        return k.rmsnorm_s16(x, norm.gain, norm.gain_frac, norm.eps)
    own = slice(head * dim, (head + 1) * dim)
    return k.rmsnorm_s16(x[own], norm.gain[own], norm.gain_frac, norm.eps)


def _plus(x: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    return x if bias is None else k.add_s16(x, bias)


# A mixture whose output is normed is in no model so far; nothing keeps it from being one.
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    "config", [*zoo.ARCHITECTURES.values(), dataclasses.replace(MOE, post_norms=True)],
    ids=[*zoo.ARCHITECTURES, "normed mixture"],
)  # fmt: skip
def test_the_simulator_equals_the_step_by_hand(config: Config, bits: int) -> None:
    """Through wraps of the ring and re-basings."""
    graph = lower(zoo.quantized(config, bits=bits), 9)
    by_hand, simulator = ByHand(graph.model, 9), Simulator(graph)
    tokens = zoo.random_tokens(config, 3 * config.seq_len + 1)
    expected = np.array([by_hand.step(token) for token in tokens.tolist()])
    np.testing.assert_array_equal(simulator.feed(tokens), expected)
    test_simulate.assert_ring(simulator.state, by_hand, len(tokens))


def test_experts_that_are_not_alike_do_not_pass_the_gate() -> None:
    graph = lower(zoo.quantized(MOE), 8)
    index = next(i for i, op in enumerate(graph.ops) if op.label == "layers.0.rank0.w2")
    op = graph.ops[index]
    bank: Bank = op.parameters["w"]
    wide = lower(zoo.quantized(MOE, bits=4), 8).ops[index].parameters["w"].matrices[1]
    for matrices, what in (
        ((*bank.matrices[:-1], wide), "the experts' matrices layers.0.w2 are not alike"),
        ((*bank.matrices[:-1], dataclasses.replace(bank.matrices[-1], shift=15)), "a shift of 15 is not in [16, 32]"),
    ):
        broken = dataclasses.replace(op, parameters={"w": dataclasses.replace(bank, matrices=matrices)})
        with pytest.raises(InternalError) as caught:
            check_graph(dataclasses.replace(graph, ops=(*graph.ops[:index], broken, *graph.ops[index + 1 :])))
        assert caught.value.what == what
        assert caught.value.where == f"graph, op {index} (linear_add_s16, layers.0.rank0.w2)"


def test_several_tokens_at_once_need_an_even_dim() -> None:
    """dim / n_heads being no head's size, it may be odd."""
    model = zoo.quantized(dataclasses.replace(zoo.ARCHITECTURES["qwen3"], dim=35))
    assert lower(model, 8, batch=2).batch == 2
    with pytest.raises(UsageError) as caught:
        lower(model, 8, load_board("nucleo").features, batch=2)
    assert str(caught.value) == (
        "2 tokens at once need a dim that is even, for kernels that read two values at a time; random0 has 35\n"
        "  where: --prefill\n"
        "  try:   --prefill 1"
    )


# ---------------------------------------------------------------- the plan


def test_all_experts_are_in_flash_once() -> None:
    graph = lower(zoo.quantized(MOE), 8)
    items = plan_memory(graph, load_board("host")).flash
    flash = dict(items)
    assert len(flash) == len(items)
    codes = [name for name in flash if name.startswith("layers.1.w2.") and name.endswith(".codes")]
    assert codes == [f"layers.1.w2.{i}.codes" for i in range(4)]
    assert all(flash[name] == MOE.dim * MOE.hidden_dim for name in codes)
    assert flash["layers.1.w2.table"] == 4 * 28
    assert sum(name.endswith(".table") for name in flash) == 2 * 3


def test_kernels_that_not_every_model_has_are_counted() -> None:
    plain = ladder.laid_out(zoo.SHAPES["gqa"], 8).graph
    found: set[str] = set()
    for config in zoo.ARCHITECTURES.values():
        layout = ladder.laid_out(config, 8)
        own = {op.kernel for op in layout.graph.ops} - {op.kernel for op in plain.ops}
        calls = OP_BYTES * (len(layout.graph.ops) + len(layout.graph.rebase))
        code = choose_family(layout.board.features).code_bytes + vocabulary_bytes(layout.tokenizer)
        assert layout.demand.code == code + calls + sum(MORE_BYTES[kernel] for kernel in own)
        found |= own
    assert found == set(MORE_BYTES)


@pytest.mark.parametrize("toolchain", ["zig", pytest.param("gcc", marks=pytest.mark.slow)])
def test_kernels_take_no_more_than_is_counted(toolchain: str) -> None:
    """On RISC-V, whose code is the largest but for the M55's vectorised loops."""
    for config in (ALL, MOE):
        elf = parse_elf(ladder.board_firmware(ladder.laid_out(config, 8, board="qemu-virt-rv32"), toolchain).image)
        sizes = {symbol.name: symbol.size for symbol in elf.symbols}
        for kernel in MORE_BYTES:
            assert sizes.get(f"mg_{kernel}", 0) <= MORE_BYTES[kernel]


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("toolchain", ["zig", pytest.param("gcc", marks=pytest.mark.slow)])
@pytest.mark.parametrize("config", [ALL, MOE], ids=["all", "moe2"])
def test_the_firmware_is_no_larger_than_its_plan_says(config: Config, toolchain: str, board: str) -> None:
    layout = ladder.laid_out(config, 12, board=board, bits=4, batch=4)
    firmware = ladder.board_firmware(layout, toolchain)
    assert firmware.flash_bytes <= layout.demand.flash


# ---------------------------------------------------------------- rungs 3 and 4


@pytest.mark.parametrize("bits", [8, 4])
@zoo.architectures()
def test_every_op_is_equal_on_the_host(config: Config, bits: int) -> None:
    """With sanitizers: token by token through a re-basing, and prompts of four tokens at once."""
    layout = ladder.laid_out(config, 12, board="host", bits=bits, batch=4)
    assert climb(ladder.host_machine(layout), layout, 2 * config.seq_len + 5).difference is None
    assert prompted(ladder.host_machine(layout), layout, 11).difference is None


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize(("config", "bits"), [(ALL, 8), (MOE, 4)], ids=["all", "moe2"])
def test_every_op_is_equal_on_the_boards(config: Config, bits: int, board: str) -> None:
    layout = ladder.laid_out(config, 12, board=board, bits=bits, batch=4)
    assert climb(ladder.board_machine(layout), layout, 20).difference is None
    assert prompted(ladder.board_machine(layout), layout, 11).difference is None


@pytest.mark.slow
@pytest.mark.parametrize("toolchain", ["zig", "gcc"])
@pytest.mark.parametrize("board", [*BOARDS, "mps2-an385", "mps2-an500"])
@zoo.architectures()
def test_every_op_of_every_relative_is_equal_on_every_core(config: Config, board: str, toolchain: str) -> None:
    layout = ladder.laid_out(config, 12, board=board)
    assert climb(ladder.board_machine(layout, toolchain), layout, 2 * config.seq_len + 5).difference is None


FAULTS = [  # kernel, config, file, what it reads, what it reads then
    ("add_s16", ALL, "elementwise.c", "x[i] + b[i]", "x[i] + b[i & ~1]"),
    ("headnorm_s16", ALL, "headnorm.c", "        head.gain += head.dim;\n", ""),
    ("headnorm_s16", ALL, "headnorm.c", "        x += head.dim;\n", ""),
    ("geglu_s16", ALL, "geglu.c", "gate_frac, shift, mg_phi_q15", "gate_frac, shift, mg_phi_tanh_q15"),
    ("geglu_s16", ALL, "geglu.c", "mg_round_shift_s32(gelu * up[i], shift)", "(gelu * up[i]) >> shift"),
    ("reglu_s16", zoo.ARCHITECTURES["reglu"], "reglu.c", "(gate[i] > 0) ? gate[i] : 0", "gate[i]"),
    ("relu2glu_s16", zoo.ARCHITECTURES["relu2"], "reglu.c", "open * open, 15", "open * open, 14"),
    ("route_s32", MOE, "route.c", "near * 1477", "near * 1478"),
    ("route_s32", MOE, "route.c", "((logits[i] == logit) && (i > id))", "((logits[i] == logit) && (i >= id))"),
    ("scale_s16", MOE, "elementwise.c", "x[i] * weight, 15", "x[i] * (weight & ~63), 15"),
]


@pytest.mark.parametrize(("kernel", "config", "file", "old", "new"), FAULTS, ids=[f"{f[0]} {f[3]}" for f in FAULTS])
def test_a_broken_kernel_is_named(kernel: str, config: Config, file: str, old: str, new: str) -> None:
    layout = ladder.laid_out(config, 12, board="host")
    found = climb(broken_machine(layout, old, new, f"kernels/{file}"), layout, 30).difference
    assert found is not None
    assert (found.kernel, layout.graph.ops[found.op_index].label) == (kernel, found.label)


@pytest.mark.parametrize(
    ("old", "new", "label"),
    [
        ("&random_layer1_w3[s32(LAYER1_CHOICE)[1]]", "&random_layer1_w3[s32(LAYER1_CHOICE)[0]]", "layers.1.rank1.w3"),
        ("s16(LAYER0_WEIGHT)[1]", "s16(LAYER0_WEIGHT)[0]", "layers.0.rank1.scaled"),
    ],
)
def test_a_wrong_expert_is_found_at_the_op_that_reads_it(old: str, new: str, label: str) -> None:
    layout = ladder.laid_out(MOE, 12, board="host")
    found = climb(broken_machine(layout, old, new, "random.c"), layout, 30).difference
    assert found is not None
    assert found.label == label


@pytest.mark.parametrize(
    ("old", "new"),
    [("(s32(LAYER0_CHOICE) + t * 2)[0]", "s32(LAYER0_CHOICE)[0]"), ("(s16(LAYER0_WEIGHT) + t * 2)[1]", "s16(LAYER0_WEIGHT)[1]")],
)  # fmt: skip
def test_a_prompt_whose_tokens_share_one_choice_is_found(old: str, new: str) -> None:
    layout = ladder.laid_out(MOE, 12, board="host", batch=4)
    assert climb(broken_machine(layout, old, new, "random.c"), layout, 30).difference is None
    assert prompted(broken_machine(layout, old, new, "random.c"), layout, 11).difference is not None


# ---------------------------------------------------------------- whoever reads graphs


@zoo.architectures()
def test_bench_knows_whose_work_every_op_is(config: Config) -> None:
    graph = lower(zoo.quantized(config), 8)
    assert {part_of(op) for op in graph.ops} <= set(PARTS)
    assert _weights(graph) == "int8"
    assert _weights(lower(zoo.quantized(config, bits=4), 8)) == "int4"


REFUSED = {
    "head_size 8": {"head_size": 8}, "activation gelu": {"activation": "gelu"}, "qk_norm True": {"qk_norm": True},
    "attention_bias True": {"attention_bias": True}, "mlp_bias True": {"mlp_bias": True},
    "post_norms True": {"post_norms": True}, "n_experts 4": {"n_experts": 4, "experts_per_token": 2},
}  # fmt: skip


@pytest.mark.parametrize(("field", "added"), REFUSED.items(), ids=REFUSED)
def test_the_other_targets_refuse_what_they_do_not_compute(field: str, added: dict[str, Any]) -> None:
    model = zoo.quantized(Config(12, 10, 1, 2, 1, 20, 8, True, **added))
    board, tokenizer = load_board("nucleo"), zoo.random_tokenizer(20)
    for lay_out, name in ((lay_out_tflm, "TensorFlow Lite Micro"), (lay_out_microtvm, "microTVM")):
        with pytest.raises(UsageError) as caught:
            lay_out(model, tokenizer, board, 4)
        assert str(caught.value) == (
            f"the {name} target does not compute {field}, which random0 has\n  where: --target\n  try:   --target c"
        )
    with pytest.raises(UsageError, match=f"the TensorFlow Lite Micro target does not compute {field}"):
        to_fc8(model)


def test_the_other_targets_refuse_int4_values() -> None:
    model = dataclasses.replace(zoo.quantized(zoo.SHAPES["gqa"]), value_bits=4)
    for lay_out in (lay_out_tflm, lay_out_microtvm):
        with pytest.raises(UsageError, match="does not compute value_bits 4, which random0 has"):
            lay_out(model, zoo.random_tokenizer(300), load_board("nucleo"), 4)


def test_the_other_targets_take_scales_and_a_head_size_that_is_no_news() -> None:
    model = zoo.quantized(Config(12, 10, 1, 2, 1, 20, 8, True, head_size=6, embedding_scale=2.0, logit_scale=0.5))
    board, tokenizer = load_board("nucleo"), zoo.random_tokenizer(20)
    assert lay_out_tflm(model, tokenizer, board, 4).layout.graph.context == 4
    assert lay_out_microtvm(model, tokenizer, board, 4).graph.context == 4
