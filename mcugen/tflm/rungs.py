"""Rung 3 of the TFLite Micro target: TFLM's own interpreter on this computer, against the simulator.

Twice: once with all tensors kept apart, to compare op by op; once as on a board, with the memory plan and no byte of
arena more than predicted, over a reset.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mcugen.errors import MismatchError, ToolError
from mcugen.ir import Difference, Firmware, Graph, Trace, VerificationReport
from mcugen.ladder import Rungs
from mcugen.simulate import Simulator, simulate
from mcugen.tflm.arena import arena_demand
from mcugen.tflm.flatbuffer import write
from mcugen.tflm.interpreter import Job, find_interpreter, run_interpreter
from mcugen.tflm.interpreter_worker import IntArray
from mcugen.tflm.layout import TflmLayout, make_op_library, on_this_computer
from mcugen.tflm.lowering import head_bytes
from mcugen.toolchain import build, find_toolchain
from mcugen.verify import compare

RUNG = "rung 3, TFLite Micro"
_POINTER_SIZE = 8  # of the interpreter's package
_APART = 1 << 20  # bytes of arena beyond the tensors themselves, where each has its own memory


def interpreter_rung(rungs: Rungs, tflm: TflmLayout, command: str) -> None:
    """Climb rung 3; `rungs` takes the reports, or that it was skipped for want of a tool."""
    here = on_this_computer(tflm)
    try:
        version = find_interpreter()
        toolchain = find_toolchain("auto", here.layout.board)
    except ToolError as error:
        return rungs.skip(RUNG, error)
    rungs.toolchain = toolchain.title
    title = f"TFLite Micro {version} (ops by {toolchain.title})"
    rungs.progress(RUNG, 0, 2)
    library = build(make_op_library(here, command), toolchain, shared=True)
    rungs.reports.append(op_by_op(here, library, rungs.tokens, f"{title}, tensors apart"))
    rungs.progress(RUNG, 1, 2)
    if not rungs.differs():
        rungs.reports.append(as_planned(here, library, rungs.tokens, f"{title}, memory plan, reset between two runs"))
    rungs.progress(RUNG, 2, 2)


def op_by_op(here: TflmLayout, library: Firmware, tokens: list[int], title: str) -> VerificationReport:
    """Every output of every op, every slot written, every re-based ring, and the rings in the end."""
    graph = here.layout.graph
    index = {tensor.name: i for i, tensor in enumerate(here.model.tensors)}
    outputs = [[index[name] for name in op.outputs] for op in graph.ops]
    rings = {name: index[name] for name, buffer in graph.buffers.items() if buffer.state}
    job = Job(
        write(replace(here.model, metadata=())),
        "",
        sum(tensor.nbytes for tensor in here.model.tensors) + _APART,
        (tuple(tokens),),
        keep=tuple(tensor for op in outputs for tensor in op),
        rings=frozenset(rings.values()),
        context=graph.context,
        rebased={len(graph.ops) + i: index[op.outputs[0]] for i, op in enumerate(graph.rebase)},
        state=tuple(rings.values()),
    )
    (found,) = run_interpreter(job, library).sequences
    kept = iter(found.kept)
    observed = Trace(
        tuple(tokens),
        tuple(tuple(next(kept) for _ in op) for op in outputs),
        {t: tuple(ring.astype(np.int8) for ring in turned) for t, turned in found.rebased.items()},
        dict(zip(rings, found.state, strict=True)),
    )
    expected = simulate(graph, tokens)
    reached = (ring[: len(tokens)] for ring in expected.state.values())
    values = sum(a.size for op in expected.outputs for a in op) + sum(ring.size for ring in reached)
    difference = compare(graph, expected, observed)
    return VerificationReport(RUNG, title, len(tokens), len(graph.ops), values, difference)


def as_planned(here: TflmLayout, library: Firmware, tokens: list[int], title: str) -> VerificationReport:
    """Logits and next token, read twice with a reset between, in exactly the arena that was predicted.

    Raises MismatchError where the interpreter's head is not the plan's.
    """
    graph, plan = here.layout.graph, here.layout.plan
    demand = arena_demand(here.model, _POINTER_SIZE, recording=True)
    run = run_interpreter(Job(here.tflite, "", demand.total, (tuple(tokens), tuple(tokens))), library)
    planned = head_bytes(graph, plan)
    if run.arena["head"] != planned:
        raise MismatchError(
            f"the interpreter's head takes {run.arena['head']:,} B, and the memory plan {planned:,} B",
            where=RUNG,
            hint="compare the offsets in OfflineMemoryAllocation with memory.json",
        )
    logits = Simulator(graph).feed(tokens)
    expected = {graph.logits: logits, "next_token": logits.argmax(1)}
    difference = None
    for sequence in run.sequences:
        observed = {graph.logits: sequence.logits, "next_token": sequence.next_token}
        difference = difference or _first(graph, expected, observed)
    values = len(run.sequences) * sum(a.size for a in expected.values())
    return VerificationReport(RUNG, title, len(tokens), len(graph.ops), values, difference)


def _first(graph: Graph, expected: dict[str, IntArray], observed: dict[str, IntArray]) -> Difference | None:
    """The first difference, by token and then in the order of `expected`."""
    rows = {name: (e.reshape(len(e), -1), observed[name].reshape(len(e), -1)) for name, e in expected.items()}
    wrong = {name: (e != o).any(1) for name, (e, o) in rows.items()}
    token = min((int(w.argmax()) for w in wrong.values() if w.any()), default=None)
    if token is None:
        return None
    name = next(name for name, w in wrong.items() if w[token])
    e, o = (row[token] for row in rows[name])
    element = int((e != o).argmax())
    last = len(graph.ops) - 1
    return Difference(token, last, graph.ops[last].label, graph.ops[last].kernel, name, element,
                      int(e[element]), int(o[element]))  # fmt: skip
