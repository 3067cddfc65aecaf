"""Graph + Plan + Board -> Project: the standalone C target. Pure: nothing is read but mcugen's own folders.

Python computes names, sizes and argument lists; the templates only place them. Kernels and runtime are copied from
firmware/ as they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from mcugen.ctext import identifier, model_prefix, wrapped
from mcugen.families import family_named
from mcugen.ir import Bank, Board, Graph, Linear, Op, Plan, Project, Tokenizer
from mcugen.layouts import LAYOUTS
from mcugen.packing import pack
from mcugen.ports import port_files
from mcugen.rendering import (
    APPLICATION,
    INCLUDE_DIRS,
    Constants,
    Provenance,
    build_variables,
    copied_section,
    declared_arenas,
    fill,
    kernel_files,
    kernel_headers,
    kernel_sources,
    model_variables,
    offset_lines,
    op_comment,
    runtime_files,
    runtime_sources,
    with_build_id,
)
from mcugen.resources import data_dir


@dataclass(frozen=True, slots=True)
class _Call:
    """One kernel call as the forward pass shows it."""

    index: int
    comment: str
    text: str
    loop: str  # the head of the loop around it, or ""
    second: str = ""  # the call of the other half of its rows, which a second core makes


@dataclass(frozen=True, slots=True)
class _RingCounter:
    """The variable that counts the slots of all rings of one size. next: what opens a slot in it."""

    name: str
    slots: str
    next: str
    comment: str


def _linear(constants: Constants, op: Op, w: Linear, packing: str, rows: range | None = None) -> str:
    """The C expression for a matrix, or for some of its rows."""
    name = identifier(op.label)
    fields = _linear_fields(constants, name, w, packing)
    if rows is not None and rows.start:
        packed = pack(w, packing)
        fields["codes"] = f"{fields['codes']} + {rows.start // packed.cut_rows * packed.cut_size}"
        fields["multiplier"] = f"{fields['multiplier']} + {rows.start}"
    if rows is not None:
        fields["rows"] = len(rows)
        name += "_second" if rows.start else ""
    return constants.struct("mg_linear_t", name, **fields)


_HALVED = {
    "linear_s16",
    "linear_s32",
    "linear_add_s16",
    "linear4_s16",
    "linear4_add_s16",
}  # their rows lie one by one


def _halves(op: Op, packing: str, cores: int) -> tuple[range, ...]:
    """The rows of a matrix for each core; none where one core takes them all."""
    w = op.parameters.get("w")
    if cores == 1 or op.kernel not in _HALVED or not isinstance(w, Linear):
        return ()
    rows, unit = len(w.codes), pack(w, packing).cut_rows
    if not unit or rows <= unit:
        return ()
    first = (rows // unit + 1) // 2 * unit
    return range(first), range(first, rows)


def _linear_fields(constants: Constants, name: str, w: Linear, packing: str) -> dict[str, object]:
    rows, cols = w.codes.shape
    packed = pack(w, packing)
    groups = f", groups of {w.group}" if w.group else ""
    shape = f"int{w.bits} [{rows}][{cols}]{groups}, {packing.replace('_', '-')}"
    codes = constants.array(f"{name}_codes", packed.stream, w.codes, shape)
    multiplier = constants.array(f"{name}_multiplier", w.multiplier)
    return {"codes": codes, "multiplier": multiplier, "rows": rows, "cols": cols, "shift": w.shift,
            "chunk": packed.chunk, "group": w.group}  # fmt: skip


def _expert(constants: Constants, bank: Bank, choice: str, packing: str) -> str:
    """The C expression for the matrix that a choice names."""
    name = identifier(bank.label)
    rows = [_linear_fields(constants, f"{name}_{i}", w, packing) for i, w in enumerate(bank.matrices)]
    return f"&{constants.table('mg_linear_t', name, rows)}[{_element(choice, bank.rank)}]"


def _element(pointer: str, index: int) -> str:
    """The C expression for what a pointer has at an index."""
    return f"({pointer})[{index}]" if " " in pointer else f"{pointer}[{index}]"


def _arguments(op: Op, graph: Graph, constants: Constants, part: range | None = None) -> list[str]:
    """The C arguments of an op, in the order of its prototype in kernels.h. part: rows of a matrix, if not all."""
    config, p = graph.model.config, op.parameters
    name = identifier(op.label)
    batch = _is_batched(op, graph)
    whole = _takes_all(op) and part is None
    token = "" if whole or not batch else " + t * "
    out = [_view(graph, buffer, token) for buffer in op.outputs]
    given = [_view(graph, buffer, token) for buffer in op.inputs]
    scratch = [_view(graph, buffer, "") for buffer in op.scratch]
    of_token = " + t" if batch else ""
    slot = [f"{_counter(graph, op.outputs[0])}.slot{'' if whole else of_token}"] if op.row else []

    def norm(vectors: int = 1) -> str:
        made = p["norm"]
        return constants.struct(
            "mg_norm_t", name, gain=constants.array(f"{name}_gain", made.gain), dim=len(made.gain) // vectors,
            gain_frac=made.gain_frac, eps=made.eps,
        )  # fmt: skip

    def length() -> str:
        return str(graph.buffers[op.inputs[0]].shape[0])

    def rope(heads: int) -> str:
        zero = (
            constants.array(f"{identifier(op.label.rsplit('.', 1)[0])}_key_zero", p["zero"]) if "zero" in p else "0"
        )
        local = p["rope_step"] is not graph.model.rope_step
        step = constants.array("local_rope_step" if local else "rope_step", p["rope_step"])
        return constants.struct(
            "mg_rope_t", f"{name}_rope", step=step, zero=zero, heads=heads, head_dim=config.head_dim,
            shift=p.get("shift", 0),
        )  # fmt: skip

    match op.kernel:
        case "embed_s16":
            return [*out, "token[t]" if batch else "*token", _linear(constants, op, p["table"], graph.packing)]
        case "rmsnorm_s16":
            return [*out, *given, norm()]
        case "headnorm_s16":
            rmsnorm = family_named(graph.family).variant("rmsnorm_s16").symbol
            return [*out, *given, str(p["heads"]), norm(p["heads"]), rmsnorm]
        case "block_s8":
            return [*out, *given, length()]
        case "add_s16":
            bias = [constants.vector(name, p["bias"])] if "bias" in p else []
            return [*out, *given, *bias, length()]
        case "scale_s16":
            return [*out, given[0], length(), _element(given[1], p["rank"])]
        case "route_s32":
            return [*out, *given, length(), str(graph.buffers[op.outputs[0]].shape[0])]
        case kernel if kernel.startswith("linear") and isinstance(p["w"], Bank):
            *residual, choice, codes, scale = given
            return [*out, *residual, codes, scale, "1", _expert(constants, p["w"], choice, graph.packing)]
        case kernel if kernel.startswith("linear") and part is not None:
            *residual, codes, scale = given
            y, *residual = (f"{view} + {part.start}" if part.start else view for view in (*out, *residual))
            return [y, *residual, codes, scale, "1", _linear(constants, op, p["w"], graph.packing, part)]
        case kernel if kernel.startswith("linear"):
            tokens = "tokens" if batch else "1"
            return [*out, *slot, *given, tokens, _linear(constants, op, p["w"], graph.packing)]
        case "rope_s16":
            return [*out, *given, f"ring.position{of_token}", rope(config.n_heads)]
        case "keep_s16":
            rows, size = graph.buffers[op.outputs[0]].shape
            row = f"ring.length - 1{of_token}"
            return [_view(graph, op.outputs[0], ""), str(rows), row, *given, str(size)]
        case "rope_s8" if op.slots:
            position = f"ring.position - {graph.context - 1} + s"
            return [*out, "s", f"{given[0]} + s * {config.kv_dim}", position, rope(config.n_kv_heads)]
        case "rope_s8":
            return [*out, *slot, *given, f"ring.position{of_token}", rope(config.n_kv_heads)]
        case "rebase_s8":
            slots = str(graph.ring(op.outputs[0]).slots)
            return [*out, *given, slots, str(p["delta"]), rope(config.n_kv_heads)]
        case "attention_s16" | "attention4_s16":
            struct = constants.struct(
                "mg_attention_t", name, n_heads=config.n_heads, n_kv_heads=config.n_kv_heads,
                head_dim=config.head_dim, shift=p["score_shift"], drop=p["drop"],
            )  # fmt: skip
            return [*out, *given, *scratch, f"{_counter(graph, op.inputs[1])}.length{of_token}", struct]
        case "values4_s16":
            return [*out, *slot, *given, length()]
        case "swiglu_s16" | "geglu_s16" | "geglu_tanh_s16":
            return [*out, *given, length(), str(p["gate_frac"]), str(p["shift"])]
        case "reglu_s16" | "relu2glu_s16":
            return [*out, *given, length(), str(p["shift"])]
    raise AssertionError(f"no C prototype is known for {op.kernel}")


def _takes_all(op: Op) -> bool:
    """Whether one call computes all tokens of a pass: a matrix that is the same for each."""
    return op.kernel.startswith("linear") and not isinstance(op.parameters["w"], Bank)


def _is_batched(op: Op, graph: Graph) -> bool:
    """Whether an op computes several tokens of a forward pass."""
    return graph.batch > 1 and not op.last and not op.slots and op not in graph.rebase


def _counter(graph: Graph, ring: str) -> str:
    """The variable that counts a ring's slots: "ring" for the largest ones, "ring_64" for others of 64 slots."""
    slots = graph.ring(ring).slots
    return "ring" if slots == max(graph.rings).slots else f"ring_{slots}"


def _ring_counters(graph: Graph, prefix: str) -> list[_RingCounter]:
    """The largest rings' first."""
    context = f"{prefix.upper()}_CONTEXT"
    unique = {_counter(graph, op.outputs[0]): graph.ring(op.outputs[0]) for op in graph.rebase}
    counters = []
    for name, ring in sorted(unique.items(), key=lambda item: -item[1].slots):
        slots = context if ring.slots == graph.context else str(ring.slots)
        behind = f"mg_ring_next_behind(&{name}, {slots}, {prefix.upper()}_SINKS);"
        comment = "" if name == "ring" else f" /* of the layers whose tokens see {slots} */"
        counters.append(
            _RingCounter(name, slots, behind if ring.sinks else f"mg_ring_next(&{name}, {slots});", comment)
        )
    return counters


_VIEWS = {"int8": "s8", "int16": "s16", "int32": "s32"}


def _view(graph: Graph, buffer: str, token: str) -> str:
    """A buffer as a typed pointer into the arena. token: "" or what steps on to one token, as in " + t * "."""
    b = graph.buffers[buffer]
    if buffer.endswith(".scale"):
        return f"scale({identifier(buffer).upper()}){token.removesuffix(' * ')}"
    stored = LAYOUTS[b.layout].dtype or b.dtype
    step = f"{token}{b.token_bytes // np.dtype(stored).itemsize}" if token and b.tokens > 1 else ""
    return f"{_VIEWS.get(stored, 'u8')}({identifier(buffer).upper()}){step}"


def _sections(plan: Plan) -> dict[str, str]:
    """The section of each array that is copied at start."""
    return {
        identifier(f"{label}.{part}"): copied_section(memory)
        for label, memory in plan.placement.weights.items()
        for part in ("codes", "multiplier")
    }


def _call(index: int, op: Op, graph: Graph, constants: Constants, cores: int) -> _Call:
    first, *others = _halves(op, graph.packing, cores) or (None,)
    arguments = _arguments(op, graph, constants, first)
    loop = ""
    if op.slots:
        loop = "for (int32_t s = 0; s < sinks; s++)"
    elif _is_batched(op, graph) and (first is not None or not _takes_all(op)):
        loop = "for (int32_t t = 0; t < tokens; t++)"
    head = f"{op.variant.symbol}("
    text = head + wrapped(arguments, len(head) + (8 if loop else 4)) + ");"
    second = "".join(head + wrapped(_arguments(op, graph, constants, rows), len(head) + 4) + ");" for rows in others)
    return _Call(index, op_comment(op, graph), text, loop, second)


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
    constants = Constants(prefix, graph.family != "portable", _sections(plan))
    calls = [_call(i, op, graph, constants, board.cores) for i, op in enumerate(graph.ops)]
    rebase = [_call(len(graph.ops) + i, op, graph, constants, board.cores) for i, op in enumerate(graph.rebase)]

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
    counters = _ring_counters(graph, prefix)
    variables = {
        **model_variables(graph, board, tokenizer, suffix, provenance, max_tokens),
        "arenas_declared": declared_arenas(plan.parts, prefix),
        "offsets": offset_lines(graph, plan),
        "logits": identifier(graph.logits).upper(),
        "calls": [call for call, op in zip(calls, graph.ops, strict=True) if not op.last],
        "head_calls": [call for call, op in zip(calls, graph.ops, strict=True) if op.last],
        "rebase": rebase,
        "second_calls": [call for call in calls if call.second],
        "rings": counters,
        "smallest": counters[-1],
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
        files=files if observed else with_build_id(files),
        sources=sources,
        include_dirs=(".", *INCLUDE_DIRS),
        linker_script=None if on_host else "linker.ld",
    )
