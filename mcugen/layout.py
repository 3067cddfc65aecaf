"""A model laid out on a board: graph and plan, and the C project and firmware they give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from mcugen import __version__
from mcugen.boards import list_boards, load_board
from mcugen.ctext import model_prefix
from mcugen.families import MORE_BYTES, choose_family
from mcugen.fit import Demand, check_fits, demand_of, largest_context
from mcugen.generate import suffix_tokens
from mcugen.ir import Board, Firmware, Graph, Plan, Project, QuantizedModel, Tokenizer
from mcugen.lower import check_sinks, lower, ring_slots
from mcugen.placement import check_placement, place
from mcugen.plan import check_plan, plan_memory
from mcugen.plan_report import plan_json, plan_report
from mcugen.render import render_c
from mcugen.rendering import PROMPT_TOKENS, Provenance
from mcugen.sources import Progress, silent
from mcugen.tokenizer import tokenizer_tables
from mcugen.toolchain import build, find_toolchain

OP_BYTES = 85  # of an op's call and its structure: 65 on Arm, 85 on RISC-V
STATIC_BYTES = 2 * PROMPT_TOKENS + 192  # prompt tokens, the console's line, the ring's counters
SECOND_STACK_BYTES = 1024  # of a second core: firmware/ports/rp2/second_core.c
MAX_TOKENS = 256  # the application's longest answer, unless told otherwise


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """A model laid out on a board."""

    board: Board
    tokenizer: Tokenizer
    graph: Graph
    plan: Plan
    demand: Demand
    largest_context: int

    @property
    def name(self) -> str:
        """The prefix of the generated C."""
        return model_prefix(self.graph.model.name)


def lay_out(
    model: QuantizedModel,
    tokenizer: Tokenizer,
    board: Board,
    context: int | None = None,
    batch: int = 1,
    sinks: int = 0,
) -> Layout:
    """Lower and plan for `context`, or for the largest context up to the trained one that fits the board.

    batch: tokens of a prompt that a forward pass takes at once. sinks: first tokens of a sequence that are kept.
    Raises UsageError for an impossible context, DoesNotFitError where flash or RAM are too small.
    """
    family = choose_family(board.features)
    code = family.code_bytes + vocabulary_bytes(tokenizer)
    static = STATIC_BYTES + (board.cores - 1) * SECOND_STACK_BYTES

    def planned(slots: int) -> Planned:
        kept = min(sinks, slots - 1) if slots in ring_slots(model.config, slots) else 0  # to look at any context
        graph = lower(model, slots, board.features, batch, sinks=kept)
        plan = plan_memory(graph, board)
        calls = OP_BYTES * (len(graph.ops) + len(graph.rebase))
        more = sum(MORE_BYTES.get(kernel, 0) for kernel in {op.kernel for op in graph.ops})
        if board.core != "host":
            other = plan.stack_bytes + static
            placed = place(graph, plan, board, other_ram=other, kernel_bytes=family.code_bytes + more)
            plan = replace(plan, placement=placed)
        return graph, plan, demand_of(graph, plan, code_bytes=code + calls + more, static_bytes=static)

    layout = fit_context(planned, tokenizer, board, context, model.config.seq_len)
    check_sinks(model, layout.graph.context, sinks)
    return layout


Planned = tuple[Graph, Plan, Demand]
Planner = Callable[[QuantizedModel, Board, int], tuple[Graph, Plan]]  # a model on a board, for a context


def vocabulary_bytes(tokenizer: Tokenizer) -> int:
    """What a vocabulary takes of the flash."""
    return tokenizer_tables(tokenizer).nbytes


def fit_context(
    planned: Callable[[int], Planned], tokenizer: Tokenizer, board: Board, context: int | None, trained: int
) -> Layout:
    """The layout for `context`, or for the largest context up to the trained one that fits the board.

    planned: graph, plan and demand for a context. Raises DoesNotFitError where flash or RAM are too small.
    """
    largest = largest_context(lambda slots: planned(slots)[2].ram <= board.ram.size, trained)
    graph, plan, demand = planned(max(largest, 1) if context is None else context)
    check_plan(graph, plan)
    check_placement(graph, plan, board)
    check_fits(graph, plan, board, demand, ram_at=lambda slots: planned(slots)[2].ram, boards=list_boards())
    return Layout(board, tokenizer, graph, plan, demand, largest)


def plan_text(layout: Layout) -> str:
    return plan_report(layout.graph, layout.plan, layout.board, layout.demand, layout.largest_context)


def plan_facts(layout: Layout) -> dict[str, object]:
    facts = plan_json(layout.graph, layout.plan, layout.board, layout.demand)
    return {**facts, "largest_context": layout.largest_context}


def on_host(layout: Layout, planned: Planner | None = None) -> Layout:
    """The same model and context on this computer, with the portable kernels.

    planned: graph and plan, if they are not the standalone target's.
    """
    board = load_board("host")
    model, context = layout.graph.model, layout.graph.context
    if planned is None:
        graph = lower(model, context, board.features, layout.graph.batch, sinks=layout.graph.sinks)
        plan = plan_memory(graph, board)
    else:
        graph, plan = planned(model, board, context)
    check_plan(graph, plan)
    return replace(layout, board=board, graph=graph, plan=plan)


def provenance(layout: Layout, command: str) -> Provenance:
    """What generated files say of their origin."""
    return Provenance(__version__, command, layout.graph.model.sha256, layout.board.sha256)


def make_project(layout: Layout, command: str, observed: bool = False) -> Project:
    """Render a layout's C. observed: for the verification of a host build (render_c)."""
    return render_c(
        layout.graph,
        layout.plan,
        layout.board,
        layout.tokenizer,
        suffix_tokens(layout.tokenizer),
        provenance(layout, command),
        MAX_TOKENS,
        observed,
    )


def make_firmware(layout: Layout, toolchain: str, command: str, progress: Progress = silent) -> Firmware:
    """Compile and link the application for the layout's board."""
    return compile_project(make_project(layout, command), toolchain, progress)


def compile_project(project: Project, toolchain: str, progress: Progress = silent) -> Firmware:
    """Compile and link a project with the C compiler `toolchain`."""
    progress("compile", 0, 1)
    firmware = build(project, find_toolchain(toolchain, project.board))
    progress("compile", 1, 1)
    return firmware
