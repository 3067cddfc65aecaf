"""The .tflite and its ops in TFLite Micro's own interpreter, op by op and with the memory plan; what it refuses.

It runs in a process of its own: whatever happens there, the tests go on.
"""

from __future__ import annotations

import dataclasses
import re
import struct
from collections.abc import Callable

import numpy as np
import pytest
import tflm
import zoo

from mcugen.errors import MismatchError
from mcugen.integers import quantize_source
from mcugen.ir import Config, Firmware, VerificationReport
from mcugen.simulate import simulate
from mcugen.sources import open_source
from mcugen.tflm import rungs
from mcugen.tflm.arena import arena_demand
from mcugen.tflm.flatbuffer import write
from mcugen.tflm.interpreter import InterpreterFault, Job, Run, run_interpreter
from mcugen.tflm.layout import TflmLayout, lay_out_tflm
from mcugen.tflm.lowering import NEXT_TOKEN
from mcugen.tflm.model import OFFLINE_PLAN, Operator, Tensor, TfliteModel
from mcugen.verify import mismatch

SMALL = Config(16, 12, 2, 4, 2, 20, 8, False)  # max_position is 16
KINDS = ("int8", "int4", "fc8")


def climb(layout: TflmLayout, tokens: list[int]) -> list[VerificationReport]:
    """Both halves of the rung."""
    here, library = tflm.here(layout)
    apart = rungs.op_by_op(here, library, tokens, "apart")
    return [apart, rungs.as_planned(here, library, tokens, "planned")]


def check(layout: TflmLayout, tokens: list[int], wraps: int) -> None:
    assert len(tokens) >= (wraps + 1) * layout.layout.graph.context
    for report in climb(layout, tokens):
        assert report.difference is None, mismatch(report)
        assert report.tokens == len(tokens)


@pytest.mark.parametrize("kind", KINDS)
@zoo.shapes()
def test_every_shape_is_equal_op_by_op_and_as_planned(config: Config, kind: str) -> None:
    """Three wraps of the ring and more, then a reset, then the same again; most re-base their keys on the way."""
    context = max(1, config.seq_len - 3)
    layout = tflm.laid_out(config, context, kind=kind)
    tokens = zoo.random_tokens(config, max(4 * context, 2 * layout.layout.graph.model.max_position) + 3).tolist()
    assert simulate(layout.layout.graph, tokens).rebased
    check(layout, tokens, wraps=3)


@pytest.mark.parametrize("fc", ["custom", "builtin"])
def test_the_default_model_is_equal(fc: str) -> None:
    source = open_source(None, None)
    model = quantize_source(source, None, fc=fc)
    layout = lay_out_tflm(model, source.tokenizer, tflm.load_board("nucleo"), 48)
    check(layout, zoo.random_tokens(model.config, 200).tolist(), wraps=3)


@pytest.mark.parametrize("fc", ["custom", "builtin"])
def test_stories260k_is_equal(fc: str) -> None:
    zoo.stories()
    source = open_source(zoo.DATA / "stories260K.bin", zoo.DATA / "tok512.bin")
    model = quantize_source(source, None, fc=fc)
    layout = lay_out_tflm(model, source.tokenizer, tflm.load_board("nucleo"), 64)
    check(layout, [1, *zoo.stories_tokens()[:270].tolist()], wraps=3)


# ---------------------------------------------------------------- differences are found and named


def broken(here: TflmLayout, tensor: str, change: Callable[[bytes], bytes]) -> TflmLayout:
    """The layout with other content in a constant of the file; its graph remains."""
    tensors = tuple(
        dataclasses.replace(t, data=change(t.data)) if t.name == tensor and t.data is not None else t
        for t in here.model.tensors
    )
    assert tensors != here.model.tensors
    model = dataclasses.replace(here.model, tensors=tensors)
    return dataclasses.replace(here, model=model, tflite=write(model))


@pytest.mark.parametrize(
    ("name", "byte"),
    [("layers.0.wq.codes", 0), ("layers.1.w2.multiplier", 1), ("layers.0.key_zero", 2), ("rope_step", 3)],
)
def test_another_constant_is_found_where_it_is_first_read(name: str, byte: int) -> None:
    def flip(content: bytes) -> bytes:
        return bytes([*content[:byte], content[byte] ^ 32, *content[byte + 1 :]])

    here, library = tflm.here(tflm.laid_out(SMALL, 6))
    tokens = zoo.random_tokens(SMALL, 30).tolist()
    report = rungs.op_by_op(broken(here, name, flip), library, tokens, "machine")
    assert report.difference is not None
    label = {"layers.0.key_zero": "layers.0.keys", "rope_step": "layers.0.query"}.get(name, name.rpartition(".")[0])
    assert report.difference.label == label
    assert re.search(rf'machine differs .* op \d+ \(\w+ "{label}"\), ', str(mismatch(report)))


def test_a_key_ring_that_is_turned_back_wrongly_is_named() -> None:
    """Another zero point, which only re-basing reads: the node that writes keys has a constant of its own here."""
    here, library = tflm.here(tflm.laid_out(SMALL, 6))
    model = here.model
    zero = next(i for i, t in enumerate(model.tensors) if t.name == "layers.1.key_zero")
    data = model.tensors[zero].data
    assert data is not None
    tensors = (*model.tensors, dataclasses.replace(model.tensors[zero], name="other", data=bytes(len(data))))
    first, *rest = model.operators
    swapped = tuple(len(model.tensors) if i == zero else i for i in first.inputs)
    operators = (dataclasses.replace(first, inputs=swapped), *rest)
    changed = dataclasses.replace(here, model=dataclasses.replace(model, tensors=tensors, operators=operators))
    report = rungs.op_by_op(changed, library, zoo.random_tokens(SMALL, 40).tolist(), "machine")
    assert report.difference is not None
    assert (report.difference.label, report.difference.token_index) == ("layers.1.rebase", 16)


def moved(here: TflmLayout, tensor: str, place: Callable[[dict[str, int]], int]) -> TflmLayout:
    """The layout with another offset for a tensor in the file's memory plan."""
    names = [t.name for t in here.model.tensors]
    ((_, plan),) = here.model.metadata
    words = np.frombuffer(plan, "<i4").copy()
    words[3 + names.index(tensor)] = place(dict(zip(names, words[3:].tolist(), strict=True)))
    model = dataclasses.replace(here.model, metadata=((OFFLINE_PLAN, words.tobytes()),))
    return dataclasses.replace(here, model=model, tflite=write(model))


def test_overlapping_tensors_are_found_by_the_planned_run() -> None:
    """Two vectors at one place: each tensor apart is right, and the plan is not."""
    here, library = tflm.here(tflm.laid_out(SMALL, 6))
    layout = moved(here, "layers.0.w3", lambda plan: plan["layers.0.w1"])
    tokens = zoo.random_tokens(SMALL, 12).tolist()
    assert rungs.op_by_op(layout, library, tokens, "apart").difference is None
    found = rungs.as_planned(layout, library, tokens, "planned").difference
    assert found is not None
    assert (found.token_index, found.output) == (0, "logits")


def test_a_reset_that_leaves_something_behind_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run is right, and the second goes on where it ended."""
    here, library = tflm.here(tflm.laid_out(SMALL, 6))
    tokens = zoo.random_tokens(SMALL, 12).tolist()

    def forgetful(job: Job, library: Firmware) -> Run:
        once = run_interpreter(dataclasses.replace(job, sequences=((*tokens, *tokens),)), library)
        (both,) = once.sequences
        parts = [(both.logits[:12], both.next_token[:12]), (both.logits[12:], both.next_token[12:])]
        cut = tuple(dataclasses.replace(both, logits=a, next_token=b) for a, b in parts)
        return dataclasses.replace(once, sequences=cut)

    monkeypatch.setattr(rungs, "run_interpreter", forgetful)
    found = rungs.as_planned(here, library, tokens, "planned").difference
    assert found is not None
    assert (found.token_index, found.output) == (0, "logits")


def test_a_head_that_is_not_the_plans_is_an_error() -> None:
    here, library = tflm.here(tflm.laid_out(SMALL, 6))
    layout = moved(here, "next_token", lambda plan: plan["next_token"] + 32)
    head = here.arena.head
    with pytest.raises(MismatchError) as found:
        rungs.as_planned(layout, library, zoo.random_tokens(SMALL, 5).tolist(), "planned")
    assert f"the interpreter's head takes {head + 32:,} B, and the memory plan {head:,} B" in str(found.value)


# ---------------------------------------------------------------- what the interpreter refuses


def refusal(job: Job, library: Firmware | None) -> str:
    with pytest.raises(InterpreterFault) as found:
        run_interpreter(job, library)
    assert found.value.exit_code == 6
    return str(found.value)


def job_for(here: TflmLayout, **changes: object) -> Job:
    arena = arena_demand(here.model, 8, recording=True).total
    return dataclasses.replace(Job(here.tflite, "", arena, ((1, 2, 3),)), **changes)  # type: ignore[arg-type]


def test_one_step_less_than_the_predicted_arena_is_too_small() -> None:
    here, library = tflm.here(tflm.laid_out(SMALL, 6))
    job = job_for(here)
    run_interpreter(job, library)
    assert (
        "failed to allocate" in refusal(dataclasses.replace(job, arena_bytes=job.arena_bytes - 16), library).lower()
    )
    assert "failed to allocate" in refusal(dataclasses.replace(job, arena_bytes=1024), library).lower()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(share: float) -> None:
    here, library = tflm.here(tflm.laid_out(SMALL, 6))
    text = refusal(job_for(here, tflite=here.tflite[: int(share * len(here.tflite))]), library)
    assert text.startswith(("the interpreter refuses the model: ", "the interpreter ended: SIG"))


def test_ops_of_another_model_are_missing() -> None:
    """The file asks for int8 kernels, and the resolver has int4 ones."""
    here, _ = tflm.here(tflm.laid_out(SMALL, 6))
    _, other = tflm.here(tflm.laid_out(SMALL, 6, kind="int4"))
    assert "Failed to get registration from op code CUSTOM" in refusal(job_for(here), other)
    assert "Failed to get registration from op code CUSTOM" in refusal(job_for(here), None)


def test_options_of_another_size_are_refused_when_tensors_are_allocated() -> None:
    """Every kind of op: what it reads lies in its own options, not behind them."""
    here, library = tflm.here(tflm.laid_out(SMALL, 6))
    kinds = {op.code: i for i, op in enumerate(here.model.operators)}
    assert len(kinds) == 13
    for code, index in kinds.items():
        operators = list(here.model.operators)
        operators[index] = dataclasses.replace(operators[index], options=operators[index].options[:-4])
        model = dataclasses.replace(here.model, operators=tuple(operators))
        text = refusal(job_for(here, tflite=write(model)), library)
        assert f"Node {code} (number {index}) failed to prepare" in text


def test_nodes_with_other_tensors_are_refused_when_tensors_are_allocated() -> None:
    """One input or output less, or one more: a node of another version of the ops."""
    here, library = tflm.here(tflm.laid_out(SMALL, 6))
    kinds = {op.code: i for i, op in enumerate(here.model.operators)}
    for code, index in kinds.items():
        op = here.model.operators[index]
        changes: list[dict[str, object]] = [{"inputs": op.inputs[:-1]}, {"inputs": (*op.inputs, op.inputs[0])}]
        changes += [{"outputs": (*op.outputs, op.outputs[0])}] if op.outputs else []
        for change in changes:
            operators = list(here.model.operators)
            operators[index] = dataclasses.replace(op, **change)  # type: ignore[arg-type]
            model = dataclasses.replace(here.model, operators=tuple(operators))
            text = refusal(job_for(here, tflite=write(model)), library)
            assert f"Node {code} (number {index}) failed to prepare" in text


@pytest.mark.parametrize(
    ("logits", "token"), [([3, 7, 7, 1], 1), ([5, 5], 0), ([-(2**31), -(2**31), 0], 2), ([2**31 - 1, -1], 0)]
)
def test_of_equally_likely_tokens_the_lowest_is_next(logits: list[int], token: int) -> None:
    """As Simulator's argmax has it; ties are too rare to be met by chance."""
    _, library = tflm.here(tflm.laid_out(SMALL, 6))
    tensors = (
        Tensor("token", "int32", (1,)),
        Tensor("logits", "int32", (1, len(logits)), np.array(logits, "<i4").tobytes()),
        Tensor("next_token", "int32", (1,)),
    )
    node = Operator(NEXT_TOKEN, (1,), (2,), struct.pack("<2i", 0, len(logits)))
    model = TfliteModel(tensors, (node,), (0,), (2, 2), (), "argmax alone")
    (found,) = run_interpreter(Job(write(model), "", 1 << 16, ((0,),)), library).sequences
    assert found.next_token.tolist() == [token] == [int(np.argmax(logits))]


def test_a_token_beyond_the_vocabulary_fails() -> None:
    here, library = tflm.here(tflm.laid_out(SMALL, 6))
    for token in (-1, SMALL.vocab_size):
        text = refusal(job_for(here, sequences=((1, token),)), library)
        assert "Node MCUGEN_EMBED_S16 (number 1) failed to invoke" in text


def test_ops_that_crash_end_their_process_alone() -> None:
    here, library = tflm.here(tflm.laid_out(SMALL, 6))
    operators = list(here.model.operators)
    index, op = next((i, o) for i, o in enumerate(operators) if o.code == "MCUGEN_RMSNORM_S16")
    options = np.frombuffer(op.options, "<i4").copy()
    options[1] = 1 << 28  # dim: half a gigabyte of vector
    operators[index] = dataclasses.replace(op, options=options.tobytes())
    model = dataclasses.replace(here.model, operators=tuple(operators))
    assert refusal(job_for(here, tflite=write(model)), library).startswith("the interpreter ended: SIGSEGV")


def test_a_run_without_end_is_stopped() -> None:
    here, library = tflm.here(tflm.laid_out(SMALL, 6))
    with pytest.raises(InterpreterFault, match=r"the interpreter is still running after 0\.01 s"):
        run_interpreter(job_for(here), library, timeout=0.01)
