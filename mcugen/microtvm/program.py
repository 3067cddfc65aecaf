"""A graph as plain data that another process can run: functions, calls, and where everything lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mcugen.ir import Graph, Op, Plan
from mcugen.microtvm.functions import Argument, Constant, Function, arguments, function_of, functions_of


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """function: its index in Program.functions; arguments: in the order of its parameters."""

    function: int
    arguments: tuple[Argument, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """calls: of every token, one for each op; rebase: those before them when the position is max_position.

    offsets: buffer name -> bytes from the beginning of the arena. context: slots of the KV ring.
    """

    functions: tuple[Function, ...]
    calls: tuple[Call, ...]
    rebase: tuple[Call, ...]
    offsets: Mapping[str, int]
    arena_bytes: int
    context: int
    max_position: int


def program_of(graph: Graph, plan: Plan) -> Program:
    """The calls of a graph, with its buffers where the plan has them."""
    functions = functions_of(graph)

    def call(op: Op) -> Call:
        # who owns a constant does not matter here, and would be sent along
        passed = [replace(a, owner=None) if isinstance(a, Constant) else a for a in arguments(op, graph)]
        return Call(functions.index(function_of(op, graph)), tuple(passed))

    return Program(
        functions,
        tuple(call(op) for op in graph.ops),
        tuple(call(op) for op in graph.rebase),
        dict(plan.offsets),
        plan.arena_bytes,
        graph.context,
        graph.model.max_position,
    )
