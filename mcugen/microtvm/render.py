"""Graph + Plan + emitted kernels -> Project: what microTVM calls codegen/host, and an application around it.

Pure: nothing is read but mcugen's own folders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from mcugen.ctext import identifier, model_prefix, wrapped
from mcugen.families import family_named
from mcugen.ir import Board, Graph, Op, Part, Plan, Project, Tokenizer
from mcugen.microtvm.functions import (
    TABLES,
    Argument,
    Buffer,
    Constant,
    Counter,
    Emitted,
    Integer,
    Parameter,
    Table,
    arguments,
    function_of,
    functions_of,
)
from mcugen.ports import port_files
from mcugen.rendering import (
    APPLICATION,
    KERNEL_HEADERS,
    Constants,
    Provenance,
    build_variables,
    declared_arenas,
    fill,
    model_variables,
    offset_lines,
    op_comment,
    runtime_headers,
    runtime_sources,
    with_build_id,
)
from mcugen.resources import data_dir

PREFIX = "tvmgen_default_"
INCLUDE, SOURCE = "codegen/host/include", "codegen/host/src"
POOL = "workspace"  # the member of tvmgen_default_workspace_pools
RING_BYTES = 12  # mg_ring_t, behind the plan
# Of the library, not of the application. The sampler reads a table, too.
SHARED_HEADERS = ("runtime/op_done.h", "runtime/ring.h", "kernels/tables.h")
INCLUDE_DIRS = (".", INCLUDE, "runtime", "ports", "app")

_VIEWS = {"int8": "s8", "int16": "s16", "int32": "s32"}


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of a function of default_lib1.c."""

    index: int
    comment: str
    text: str


def workspace_bytes(plan: Plan) -> int:
    """The plan's arena, and the ring's counters behind it."""
    return plan.arena_bytes + RING_BYTES


def _expression(argument: Argument, parameter: Parameter, graph: Graph, constants: Constants) -> str:
    """An argument in the C of default_lib0.c."""
    match argument:
        case Buffer(name) if name == graph.logits:
            return "(int32_t *)outputs->logits"
        case Buffer(name):
            return f"{_VIEWS[parameter.dtype]}(workspace, {identifier(name).upper()})"
        case Constant(name, values, owner, comment):
            return constants.array(name, values, owner, comment)
        case Table(name):
            return f"mg_{name}_q15"
        case Counter("token"):
            return "token"
        case Counter(name):
            return f"ring->{name}"
        case Integer(value):
            return f"INT64_C({value})" if parameter.dtype == "int64" else str(value)
    raise AssertionError(f"no C is known for {argument}")


def _call(index: int, op: Op, graph: Graph, constants: Constants) -> _Call:
    function = function_of(op, graph)
    pairs = zip(arguments(op, graph), function.parameters, strict=True)
    passed = [_expression(argument, parameter, graph, constants) for argument, parameter in pairs]
    head = f"{PREFIX}{function.name}("
    return _Call(index, op_comment(op, graph), head + wrapped(passed, len(head) + 4) + ");")


def _intrinsics(graph: Graph) -> dict[str, bytes]:
    """The hand-written kernels that functions call, and the headers of those in C, in the library's two folders."""
    firmware = data_dir("firmware")
    sources = sorted({source for op in graph.ops for source in op.variant.sources})
    in_c = any(path.endswith(".c") for path in sources)
    headers = (*KERNEL_HEADERS, *family_named(graph.family).headers) if in_c else ()
    found = {f"{SOURCE}/{PurePosixPath(path).name}": (firmware / path).read_bytes() for path in sources}
    found |= {f"{INCLUDE}/{PurePosixPath(path).name}": (firmware / path).read_bytes() for path in headers}
    assert len(found) == len(sources) + len(headers), "two files have one name"
    return found


def render_microtvm(
    graph: Graph,
    plan: Plan,
    board: Board,
    tokenizer: Tokenizer,
    suffix: list[int],
    provenance: Provenance,
    max_tokens: int,
    kernels: Emitted,
    observed: bool = False,
) -> Project:
    """Render the project.

    suffix: tokens that follow every prompt. max_tokens: the application's longest answer. kernels: of
    functions_of(graph). observed: link the op observer of the host build instead of the empty one, and no
    application.
    """
    prefix = model_prefix(graph.model.name)
    firmware = data_dir("firmware")
    constants = Constants(prefix, aligned=True)
    calls = [_call(i, op, graph, constants) for i, op in enumerate(graph.ops)]
    rebase = [_call(len(graph.ops) + i, op, graph, constants) for i, op in enumerate(graph.rebase)]

    intrinsics = _intrinsics(graph)
    op_done = "op_done_host.c" if observed else "op_done.c"
    library = [f"{SOURCE}/{name}" for name in ("default_lib0.c", "default_lib1.c", op_done, "tables.c")]
    library += [path for path in intrinsics if path.startswith(SOURCE)]
    files = {f"{INCLUDE}/{PurePosixPath(path).name}": (firmware / path).read_bytes() for path in SHARED_HEADERS}
    files |= intrinsics | {f"{SOURCE}/{op_done}": (firmware / "runtime" / op_done).read_bytes()}
    files[f"{SOURCE}/tables.c"] = (firmware / "kernels/tables.c").read_bytes()
    files[f"{SOURCE}/default_lib1.c"] = kernels.source.encode()

    application: Sequence[str] = () if observed else APPLICATION
    headers = (path for path in runtime_headers(tokenizer) if path not in SHARED_HEADERS)
    copied = (*runtime_sources(tokenizer), *headers, *application)
    files |= {path: (firmware / path).read_bytes() for path in copied}
    port = port_files(board)
    port_sources = () if observed else port.sources
    files |= {path: content for path, content in port.files.items() if path in port_sources or path.endswith(".h")}
    own = (f"{prefix}.c", f"{prefix}_vocabulary.c", *(() if observed else ("main.c", "app/console.c")))
    sources = (*port_sources, *own, *runtime_sources(tokenizer), *library)
    on_host = board.core == "host"
    variables = {
        **model_variables(graph, board, tokenizer, suffix, provenance, max_tokens),
        "tvm_version": kernels.tvm_version,
        "vocab_size": graph.model.config.vocab_size,
        "batched": False,
        "arena_bytes": workspace_bytes(plan),
        "arenas_declared": declared_arenas((Part("ram", 0, workspace_bytes(plan)),), prefix),
        "workspace_bytes": workspace_bytes(plan),
        "logits_offset": plan.offsets[graph.logits],
        "ring_offset": plan.arena_bytes,
        "pool": POOL,
        "offsets": offset_lines(graph, plan),
        "calls": calls,
        "rebase": rebase,
        "prototypes": [function.prototype(PREFIX) for function in functions_of(graph)],
        "arrays": constants.arrays,
        "has_intrinsics": bool(intrinsics),
        **build_variables(board, plan, sources, INCLUDE_DIRS),
    }
    rendered = {
        "microtvm/tvmgen_default.h.j2": f"{INCLUDE}/tvmgen_default.h",
        "microtvm/default_kernels.h.j2": f"{INCLUDE}/default_kernels.h",
        "microtvm/default_lib0.c.j2": f"{SOURCE}/default_lib0.c",
        "microtvm/model.c.j2": f"{prefix}.c",
        "c/model.h.j2": f"{prefix}.h",
        "c/vocabulary.c.j2": f"{prefix}_vocabulary.c",
    }
    if not observed:
        rendered |= {"c/main.c.j2": "main.c", "c/Makefile.j2": "Makefile", "microtvm/README.md.j2": "README.md"}
        if not on_host:
            rendered["c/linker.ld.j2"] = "linker.ld"
    files |= fill(rendered, variables)
    return Project(
        name=prefix,
        board=board,
        files=files if observed else with_build_id(files),
        sources=sources,
        include_dirs=INCLUDE_DIRS,
        linker_script=None if on_host else "linker.ld",
    )


def constants_bytes(graph: Graph) -> int:
    """What the constants of default_lib0.c take."""
    seen: dict[int, int] = {}
    for op in (*graph.ops, *graph.rebase):
        for argument in arguments(op, graph):
            if isinstance(argument, Constant):
                seen[id(argument.owner)] = np.asarray(argument.values).nbytes
    return sum(seen.values()) + sum(table.nbytes for table in TABLES.values())
