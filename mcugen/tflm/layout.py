"""A model laid out for TFLite Micro on a board: graph, plan, .tflite and arena, and the project that they give."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mcugen import __version__
from mcugen.families import choose_family
from mcugen.fit import demand_of
from mcugen.generate import suffix_tokens
from mcugen.ir import Board, Graph, Plan, Project, QuantizedModel, Tokenizer
from mcugen.layout import (
    MAX_TOKENS,
    STATIC_BYTES,
    Layout,
    Planned,
    fit_context,
    on_host,
    provenance,
    vocabulary_bytes,
)
from mcugen.lower import lower
from mcugen.plain import check_plain
from mcugen.plan import plan_memory
from mcugen.tflm.arena import ArenaDemand, arena_demand, recommended
from mcugen.tflm.flatbuffer import write
from mcugen.tflm.lowering import to_tflite
from mcugen.tflm.model import ALIGNMENT, TfliteModel
from mcugen.tflm.render import TflmProject, render_op_library, render_tflm

# What an interpreter needs beside its arena. Its code is not ours, and estimated: TFLM states 16 KB for its core on a
# Cortex-M3. Its object and the resolver's table: measured with the stand-in, whose structures are as large.
INTERPRETER_CODE, INTERPRETER_STATICS = 16_384, 1_024


@dataclass(frozen=True, slots=True, eq=False)
class TflmLayout:
    """layout: its plan's KV rings are TFLM's to place; the rest is the memory plan in the file. arena: what TFLM asks
    for on the board."""

    layout: Layout
    model: TfliteModel
    tflite: bytes
    arena: ArenaDemand

    @property
    def arena_bytes(self) -> int:
        return _arena_bytes(self.arena, self.layout.board)


def _arena_bytes(demand: ArenaDemand, board: Board) -> int:
    return recommended(demand, mve="mve" in board.features)


def _describe(graph: Graph) -> str:
    return f"mcugen {__version__}: {graph.model.name}, context {graph.context}, {graph.family} kernels"


def _planned(model: QuantizedModel, board: Board, context: int) -> tuple[Graph, Plan]:
    graph = lower(model, context, board.features)
    return graph, plan_memory(graph, board, ALIGNMENT)


def lay_out_tflm(model: QuantizedModel, tokenizer: Tokenizer, board: Board, context: int | None = None) -> TflmLayout:
    """Lower and plan for `context`, or for the largest context up to the trained one that fits the board.

    Raises UsageError for an impossible context or a model with ops of its own (mcugen.plain), DoesNotFitError where
    flash or RAM are too small.
    """
    check_plain(model, "tflm")
    graph, plan = _planned(model, board, 1)
    tables = len(write(to_tflite(graph, plan, ""))) - sum(size for _, size in plan.flash)  # as large at any context
    code = choose_family(board.features).code_bytes + vocabulary_bytes(tokenizer) + INTERPRETER_CODE + tables

    def planned(slots: int) -> Planned:
        graph, plan = _planned(model, board, slots)
        arena = arena_demand(to_tflite(graph, plan, ""), _pointer_size(board))
        interpreter = _arena_bytes(arena, board) - plan.arena_bytes + INTERPRETER_STATICS
        demand = demand_of(graph, plan, code_bytes=code, static_bytes=STATIC_BYTES + interpreter)
        return graph, plan, demand

    layout = fit_context(planned, tokenizer, board, context, model.config.seq_len)
    return _tflm_layout(layout)


def on_this_computer(tflm: TflmLayout) -> TflmLayout:
    """The same model and context with the portable kernels."""
    return _tflm_layout(on_host(tflm.layout, _planned))


def _tflm_layout(layout: Layout) -> TflmLayout:
    model = to_tflite(layout.graph, layout.plan, _describe(layout.graph))
    return TflmLayout(layout, model, write(model), arena_demand(model, _pointer_size(layout.board)))


def _pointer_size(board: Board) -> int:
    return 8 if board.core == "host" else 4


def for_standin(tflm: TflmLayout) -> Layout:
    """The layout with a plan as the stand-in interpreter keeps it: KV rings, the counter, then what passes."""
    layout = tflm.layout
    buffers = layout.graph.buffers
    offsets = {name: at + (0 if buffers[name].state else ALIGNMENT) for name, at in layout.plan.offsets.items()}
    plan = replace(layout.plan, offsets=offsets, arena_bytes=layout.plan.arena_bytes + ALIGNMENT)
    return replace(layout, plan=plan)


def make_tflm_project(tflm: TflmLayout, command: str) -> TflmProject:
    """Render the C++ around the model."""
    layout = tflm.layout
    return render_tflm(
        layout.graph,
        tflm.tflite,
        layout.board,
        layout.tokenizer,
        suffix_tokens(layout.tokenizer),
        provenance(layout, command),
        MAX_TOKENS,
        tflm.arena_bytes,
        layout.plan.stack_bytes,
    )


def make_op_library(tflm: TflmLayout, command: str) -> Project:
    """Render the custom ops alone, for the Python interpreter; of a layout on this computer."""
    return render_op_library(tflm.layout.graph, tflm.layout.board, provenance(tflm.layout, command))
