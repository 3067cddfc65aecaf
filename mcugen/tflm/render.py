"""Graph + TfliteModel -> Project: the C++ around a .tflite. Pure: nothing is read but mcugen's own folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from mcugen.ctext import array_body, model_prefix
from mcugen.ir import Board, Graph, Op, Project, Tokenizer
from mcugen.ports import port_files
from mcugen.rendering import (
    APPLICATION,
    INCLUDE_DIRS,
    Provenance,
    fill,
    kernel_files,
    kernel_headers,
    kernel_sources,
    memory_map,
    model_variables,
    render_linker_script,
    runtime_files,
    runtime_sources,
    with_build_id,
)
from mcugen.resources import data_dir
from mcugen.tflm.interpreter_worker import REGISTERER
from mcugen.tflm.lowering import NEXT_TOKEN, custom_code, next_slot_code

OPS_HEADER = "mcugen_ops.h"
STANDIN = "tflm/standin"  # in firmware/: TFLM's headers and a small interpreter, for verification alone

# Graph kernel -> the class of mcugen_ops.h that calls it.
_CLASSES: Mapping[str, str] = {
    "embed_s16": "Embed",
    "rmsnorm_s16": "Norm",
    "block_s8": "Block",
    "linear_s8": "LinearRing",
    "linear_s16": "Linear",
    "linear_s32": "Linear",
    "linear_add_s16": "LinearAdd",
    "linear4_s8": "LinearRing",
    "linear4_s16": "Linear",
    "linear4_add_s16": "LinearAdd",
    "fc_s16": "Rescale",
    "fc_add_s16": "RescaleAdd",
    "rope_s16": "Rope",
    "rope_s8": "RopeRing",
    "attention_s16": "Attention",
    "swiglu_s16": "Swiglu",
}


@dataclass(frozen=True, slots=True)
class TflmProject:
    """A rendered project and its model. tflite: the file's bytes, with the memory plan. ops: names of the custom ops
    that the resolver adds."""

    project: Project
    tflite: bytes
    ops: tuple[str, ...]


def added_ops(graph: Graph) -> dict[str, str]:
    """Name of each custom op of a graph -> the class that computes it, in order of first use."""

    def by_class(name: str, op: Op) -> str:
        return f"{name}<{op.variant.symbol}>"

    found = {next_slot_code(graph): by_class("NextSlot", graph.rebase[0])}
    for op in graph.ops:
        found.setdefault(custom_code(op), by_class(_CLASSES[op.kernel], op))
    return {**found, NEXT_TOKEN: "NextToken"}


def _is_builtin(graph: Graph) -> bool:
    return any(op.kernel.startswith("fc_") for op in graph.ops)


def _ops_variables(graph: Graph, provenance: Provenance) -> dict[str, object]:
    prefix = model_prefix(graph.model.name)
    added = [f'Add<{glue}>(resolver, "{code}") == kTfLiteOk' for code, glue in added_ops(graph).items()]
    return {
        "prefix": prefix,
        "PREFIX": prefix.upper(),
        "provenance": provenance,
        "family": graph.family,
        "kernel_headers": kernel_headers(graph),
        "op_kinds": len(added),
        "added_ops": " &&\n           ".join(added),
    }


def render_tflm(
    graph: Graph,
    tflite: bytes,
    board: Board,
    tokenizer: Tokenizer,
    suffix: list[int],
    provenance: Provenance,
    max_tokens: int,
    arena_bytes: int,
    stack_bytes: int,
) -> TflmProject:
    """Render the project that runs `tflite` in TFLite Micro.

    graph: what the file was made from. suffix: tokens that follow every prompt. max_tokens: the application's longest
    answer. arena_bytes: of the interpreter, a multiple of 16.
    """
    prefix = model_prefix(graph.model.name)
    firmware = data_dir("firmware")
    op_done = "runtime/op_done.c"
    port = port_files(board)
    copied = (op_done, *APPLICATION)
    files = kernel_files(graph) | runtime_files(tokenizer) | {path: (firmware / path).read_bytes() for path in copied}
    files |= {OPS_HEADER: (firmware / "tflm" / OPS_HEADER).read_bytes(), f"{prefix}.tflite": tflite, **port.files}

    model_files = [f"{prefix}.cc", f"{prefix}_tflite.cc", f"{prefix}_vocabulary.c"]
    library = (*model_files, *kernel_sources(graph), *runtime_sources(tokenizer), op_done)
    ops = added_ops(graph)
    variables = {
        **model_variables(graph, board, tokenizer, suffix, provenance, max_tokens),
        **_ops_variables(graph, provenance),
        "arena_bytes": arena_bytes,
        "tflite_bytes": len(tflite),
        "tflite_values": array_body(np.frombuffer(tflite, np.uint8)),
        "fully_connected": _is_builtin(graph),
        "resolver_size": len(ops) + _is_builtin(graph),
        "version": provenance.version,
        "c_sources": [path for path in library if path.endswith(".c")],
        "cc_sources": [path for path in library if path.endswith(".cc")],
        "s_sources": [path for path in library if path.endswith(".S")],
        "has_assembly": any(path.endswith(".S") for path in library),
        "include_dirs": [".", "kernels", "runtime"],
        **memory_map(board, stack_bytes),
    }
    rendered = {
        "tflm/model.h.j2": f"{prefix}.h",
        "tflm/model.cc.j2": f"{prefix}.cc",
        "tflm/ops.h.j2": f"{prefix}_ops.h",
        "tflm/tflite.cc.j2": f"{prefix}_tflite.cc",
        "tflm/main.c.j2": "main.c",
        "tflm/README.md.j2": "README.md",
        "tflm/INTEGRATION.md.j2": "INTEGRATION.md",
        "c/vocabulary.c.j2": f"{prefix}_vocabulary.c",
    }
    on_host = board.core == "host"
    if not on_host:
        rendered["c/linker.ld.j2"] = "linker.ld"
    files |= fill(rendered, variables)
    project = Project(
        name=prefix,
        board=board,
        files=with_build_id(files),
        sources=(*port.sources, "main.c", "app/console.c", *library),
        include_dirs=(".", *INCLUDE_DIRS),
        linker_script=None if on_host else "linker.ld",
    )
    return TflmProject(project, tflite, tuple(ops))


def _standin_files() -> dict[str, bytes]:
    folder = data_dir("firmware") / STANDIN
    paths = (path for pattern in ("*.h", "*.cc") for path in sorted(folder.rglob(pattern)))
    return {f"standin/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in paths}


def with_standin(project: Project) -> Project:
    """A project with the stand-in for TFLM, so that it links and runs where TFLM is not."""
    standin = _standin_files()
    return replace(
        project,
        files={**project.files, **standin},
        sources=(*project.sources, *(path for path in standin if path.endswith(".cc"))),
        include_dirs=(*project.include_dirs, "standin"),
    )


def render_op_library(graph: Graph, board: Board, provenance: Provenance) -> Project:
    """The custom ops and their kernels alone: on this computer a library that the Python interpreter of TFLM loads,
    where each op that is done calls back (runtime/op_done_host.c); for a board an image to measure their size.
    """
    prefix = model_prefix(graph.model.name)
    firmware = data_dir("firmware")
    on_host = board.core == "host"
    op_done = "runtime/op_done_host.c" if on_host else "runtime/op_done.c"
    headers = {path: content for path, content in _standin_files().items() if path.endswith(".h")}
    files = kernel_files(graph) | headers | {op_done: (firmware / op_done).read_bytes()}
    files[OPS_HEADER] = (firmware / "tflm" / OPS_HEADER).read_bytes()
    rendered = {"tflm/ops.h.j2": f"{prefix}_ops.h", "tflm/register.cc.j2": "register.cc"}
    files |= fill(rendered, _ops_variables(graph, provenance))
    needed: list[str] = []
    if not on_host:  # what the interpreter and the C library would bring: access to tensors, memcpy
        port = port_files(board)
        needed = [path for path in port.sources if path.startswith("ports/freestanding/")] + ["standin/standin.cc"]
        files |= port.files | _standin_files() | {"linker.ld": render_linker_script(board, keep=[REGISTERER])}
    return Project(
        name=prefix,
        board=board,
        files=dict(sorted(files.items())),
        sources=("register.cc", *kernel_sources(graph), op_done, *needed),
        include_dirs=(".", *INCLUDE_DIRS, "standin"),
        linker_script=None if on_host else "linker.ld",
    )
