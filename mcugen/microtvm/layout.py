"""A model laid out for the microTVM target: the graph with layouts that its kernels read, plan, project, and tar."""

from __future__ import annotations

from collections.abc import Mapping

from mcugen.families import TVM_FAMILIES
from mcugen.fit import demand_of
from mcugen.generate import suffix_tokens
from mcugen.ir import Board, Graph, Plan, Project, QuantizedModel, Tokenizer
from mcugen.layout import (
    MAX_TOKENS,
    OP_BYTES,
    STATIC_BYTES,
    Layout,
    Planned,
    fit_context,
    on_host,
    provenance,
    vocabulary_bytes,
)
from mcugen.lower import lower
from mcugen.microtvm.emitter import emit
from mcugen.microtvm.functions import functions_of
from mcugen.microtvm.render import PREFIX, RING_BYTES, render_microtvm
from mcugen.plain import check_plain
from mcugen.plan import plan_memory

# Of kernels, runtime and application: 14,219 at most for stories260K (gcc, int4, Cortex-M0+); twice that, since a
# model with matrices of more shapes has more functions.
CODE_BYTES = 32_000


def _planned(model: QuantizedModel, board: Board, context: int) -> tuple[Graph, Plan]:
    graph = lower(model, context, board.features, families=TVM_FAMILIES)
    return graph, plan_memory(graph, board)


def lay_out_microtvm(model: QuantizedModel, tokenizer: Tokenizer, board: Board, context: int | None = None) -> Layout:
    """Lower and plan for `context`, or for the largest context up to the trained one that fits the board.

    Raises UsageError for an impossible context or a model with ops of its own (mcugen.plain), DoesNotFitError where
    flash or RAM are too small.
    """
    check_plain(model, "microtvm")
    code = CODE_BYTES + vocabulary_bytes(tokenizer)

    def planned(slots: int) -> Planned:
        graph, plan = _planned(model, board, slots)
        calls = OP_BYTES * (len(graph.ops) + len(graph.rebase))
        return graph, plan, demand_of(graph, plan, code_bytes=code + calls, static_bytes=STATIC_BYTES + RING_BYTES)

    return fit_context(planned, tokenizer, board, context, model.config.seq_len)


def on_this_computer(layout: Layout) -> Layout:
    """The same model and context with kernels of portable C alone."""
    return on_host(layout, _planned)


def make_microtvm_project(layout: Layout, command: str, observed: bool = False) -> Project:
    """Let TVM make the kernels, and render the project around them. observed: for the verification of a host build.

    Raises ToolError where TVM is not installed, or is another version.
    """
    return render_microtvm(
        layout.graph,
        layout.plan,
        layout.board,
        layout.tokenizer,
        suffix_tokens(layout.tokenizer),
        provenance(layout, command),
        MAX_TOKENS,
        emit(functions_of(layout.graph), PREFIX),
        observed,
    )


def library_files(project: Project) -> Mapping[str, bytes]:
    """What of a project belongs to the Model Library: codegen/."""
    return {path: content for path, content in project.files.items() if path.startswith("codegen/")}
