"""Graph + Plan + Board -> Project: the standalone C target. Pure: nothing is read but mcugen's own folders.

Python computes names, sizes and argument lists; the templates only place them. Kernels and runtime are copied from
firmware/ as they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from mcugen.ctext import identifier, model_prefix, wrapped
from mcugen.ir import Board, Graph, Linear, Op, Plan, Project, Tokenizer
from mcugen.layouts import LAYOUTS
from mcugen.packing import pack
from mcugen.ports import port_files
from mcugen.rendering import (
    APPLICATION,
    INCLUDE_DIRS,
    Constants,
    Provenance,
    build_variables,
    fill,
    kernel_files,
    kernel_headers,
    kernel_sources,
    model_variables,
    offset_lines,
    op_comment,
    runtime_files,
    runtime_sources,
)
from mcugen.resources import data_dir


@dataclass(frozen=True, slots=True)
class _Call:
    """One kernel call as the forward pass shows it."""

    index: int
    comment: str
    text: str
    looped: bool  # over the tokens of a pass


def _linear(constants: Constants, op: Op, w: Linear, packing: str) -> str:
    """The C expression for a matrix."""
    name = identifier(op.label)
    rows, cols = w.codes.shape
    packed = pack(w, packing)
    groups = f", groups of {w.group}" if w.group else ""
    shape = f"int{w.bits} [{rows}][{cols}]{groups}, {packing.replace('_', '-')}"
    codes = constants.array(f"{name}_codes", packed.stream, w.codes, shape)
    multiplier = constants.array(f"{name}_multiplier", w.multiplier)
    return constants.struct(
        "mg_linear_t", name, codes=codes, multiplier=multiplier, rows=rows, cols=cols, shift=w.shift,
        chunk=packed.chunk, group=w.group,
    )  # fmt: skip


def _arguments(op: Op, graph: Graph, constants: Constants) -> list[str]:
    """The C arguments of an op, in the order of its prototype in kernels.h."""
    config, p = graph.model.config, op.parameters
    name = identifier(op.label)
    batch = _is_batched(op, graph)
    whole = op.kernel.startswith("linear")  # takes all tokens in one call
    token = "" if whole or not batch else " + t * "
    out = [_view(graph, buffer, token) for buffer in op.outputs]
    given = [_view(graph, buffer, token) for buffer in op.inputs]
    scratch = [_view(graph, buffer, "") for buffer in op.scratch]
    of_token = " + t" if batch else ""
    slot = [f"ring.slot{'' if whole else of_token}"] if op.row else []

    def rope(heads: int) -> str:
        zero = (
            constants.array(f"{identifier(op.label.rsplit('.', 1)[0])}_key_zero", p["zero"]) if "zero" in p else "0"
        )
        step = constants.array("rope_step", p["rope_step"])
        return constants.struct(
            "mg_rope_t", f"{name}_rope", step=step, zero=zero, heads=heads, head_dim=config.head_dim,
            shift=p.get("shift", 0),
        )  # fmt: skip

    match op.kernel:
        case "embed_s16":
            return [*out, "token[t]" if batch else "*token", _linear(constants, op, p["table"], graph.packing)]
        case "rmsnorm_s16":
            norm = p["norm"]
            gain = constants.array(f"{name}_gain", norm.gain)
            struct = constants.struct(
                "mg_norm_t", name, gain=gain, dim=len(norm.gain), gain_frac=norm.gain_frac, eps=p["eps"]
            )
            return [*out, *given, struct]
        case "block_s8":
            return [*out, *given, str(graph.buffers[op.inputs[0]].shape[0])]
        case kernel if kernel.startswith("linear"):
            tokens = "tokens" if batch else "1"
            return [*out, *slot, *given, tokens, _linear(constants, op, p["w"], graph.packing)]
        case "rope_s16":
            return [*out, *given, f"ring.position{of_token}", rope(config.n_heads)]
        case "rope_s8":
            return [*out, *slot, *given, f"ring.position{of_token}", rope(config.n_kv_heads)]
        case "rebase_s8":
            return [*out, *given, str(graph.context), str(p["delta"]), rope(config.n_kv_heads)]
        case "attention_s16":
            struct = constants.struct(
                "mg_attention_t", name, n_heads=config.n_heads, n_kv_heads=config.n_kv_heads,
                head_dim=config.head_dim, shift=p["score_shift"], drop=p["drop"],
            )  # fmt: skip
            return [*out, *given, *scratch, f"ring.length{of_token}", struct]
        case "swiglu_s16":
            return [*out, *given, str(graph.buffers[op.inputs[0]].shape[0]), str(p["gate_frac"]), str(p["shift"])]
    raise AssertionError(f"no C prototype is known for {op.kernel}")


def _is_batched(op: Op, graph: Graph) -> bool:
    """Whether an op computes several tokens of a forward pass."""
    return graph.batch > 1 and not op.last and op not in graph.rebase


_VIEWS = {"int8": "s8", "int16": "s16", "int32": "s32"}


def _view(graph: Graph, buffer: str, token: str) -> str:
    """A buffer as a typed pointer into the arena. token: "" or what steps on to one token, as in " + t * "."""
    b = graph.buffers[buffer]
    if buffer.endswith(".scale"):
        return f"scale({identifier(buffer).upper()}){token.removesuffix(' * ')}"
    stored = LAYOUTS[b.layout].dtype or b.dtype
    step = f"{token}{b.token_bytes // np.dtype(stored).itemsize}" if token and b.tokens > 1 else ""
    return f"{_VIEWS.get(stored, 'u8')}({identifier(buffer).upper()}){step}"


def _call(index: int, op: Op, graph: Graph, constants: Constants) -> _Call:
    arguments = _arguments(op, graph, constants)
    looped = _is_batched(op, graph) and not op.kernel.startswith("linear")
    head = f"{op.variant.symbol}("
    text = head + wrapped(arguments, len(head) + (8 if looped else 4)) + ");"
    return _Call(index, op_comment(op, graph), text, looped)


def render_c(
    graph: Graph,
    plan: Plan,
    board: Board,
    tokenizer: Tokenizer,
    suffix: list[int],
    provenance: Provenance,
    max_tokens: int,
    observed: bool = False,
) -> Project:
    """Render the standalone C project.

    suffix: tokens that follow every prompt. max_tokens: the application's longest answer.
    observed: link the op observer of the host build (op_done_host.c) instead of the empty one, and no application.
    """
    prefix = model_prefix(graph.model.name)
    constants = Constants(prefix, aligned=graph.family != "portable")
    calls = [_call(i, op, graph, constants) for i, op in enumerate(graph.ops)]
    rebase = [_call(len(graph.ops) + i, op, graph, constants) for i, op in enumerate(graph.rebase)]

    op_done = "runtime/op_done_host.c" if observed else "runtime/op_done.c"
    port = port_files(board)
    application = () if observed else ("main.c", "app/console.c")
    firmware = data_dir("firmware")
    copied = (op_done, *(() if observed else APPLICATION))
    files = kernel_files(graph) | runtime_files(tokenizer) | {path: (firmware / path).read_bytes() for path in copied}
    port_sources = () if observed else port.sources
    files |= {path: content for path, content in port.files.items() if path in port_sources or path.endswith(".h")}

    model_files = [f"{prefix}.c", f"{prefix}_weights.c", f"{prefix}_vocabulary.c"]
    runtime = runtime_sources(tokenizer)
    sources = (*port_sources, *application, *model_files, *kernel_sources(graph), *runtime, op_done)
    on_host = board.core == "host"
    variables = {
        **model_variables(graph, board, tokenizer, suffix, provenance, max_tokens),
        "arena_bytes": plan.arena_bytes,
        "offsets": offset_lines(graph, plan),
        "logits": identifier(graph.logits).upper(),
        "calls": [call for call, op in zip(calls, graph.ops, strict=True) if not op.last],
        "head_calls": [call for call, op in zip(calls, graph.ops, strict=True) if op.last],
        "rebase": rebase,
        "kernel_headers": kernel_headers(graph),
        "batch": graph.batch,
        "batched": graph.batch > 1,
        "views_u8": any(re.search(r"\bu8\(", call.text) for call in (*calls, *rebase)),
        "arrays": constants.arrays,
        "structs": constants.structs,
        **build_variables(board, plan, sources, (".", *INCLUDE_DIRS)),
    }
    rendered = {
        "c/model.h.j2": f"{prefix}.h",
        "c/model.c.j2": f"{prefix}.c",
        "c/weights.h.j2": f"{prefix}_weights.h",
        "c/weights.c.j2": f"{prefix}_weights.c",
        "c/vocabulary.c.j2": f"{prefix}_vocabulary.c",
    }
    if not observed:
        rendered |= {"c/main.c.j2": "main.c", "c/Makefile.j2": "Makefile", "c/README.md.j2": "README.md"}
        if not on_host:
            rendered["c/linker.ld.j2"] = "linker.ld"
    files |= fill(rendered, variables)
    return Project(
        name=prefix,
        board=board,
        files=dict(sorted(files.items())),
        sources=sources,
        include_dirs=(".", *INCLUDE_DIRS),
        linker_script=None if on_host else "linker.ld",
    )
