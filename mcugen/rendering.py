"""What the renderers of every target share: Jinja, constants as C, the vocabulary, the files of the runtime."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import jinja2
import numpy as np
from numpy.typing import NDArray

from mcugen.cores import CORES, GCC_PREFIXES
from mcugen.ctext import C_TYPES, array_body, identifier, model_prefix, string_literal, wrapped
from mcugen.families import family_named
from mcugen.flags import (
    KERNEL_FOLDERS,
    KERNEL_OPTIMISATION,
    OPTIMISATION,
    assemble_flags,
    compile_flags,
    link_flags,
)
from mcugen.ir import Board, Buffer, Graph, Op, Part, Placement, Plan, Tokenizer
from mcugen.resources import data_dir
from mcugen.split import SPLITS
from mcugen.tokenizer import TokenizerTables, tokenizer_tables

LONGEST_PROMPT = 160  # bytes: a line of the console
PROMPT_TOKENS = LONGEST_PROMPT + 2  # before merging: one per byte, bos and the space in front

RUNTIME_HEADERS = ("runtime/generate.h", "runtime/sampler.h", "runtime/tokenizer.h", "runtime/ring.h",
                   "runtime/op_done.h")  # fmt: skip
APPLICATION = ("app/console.c", "app/console.h")
ATTENTION_HEADER = dict.fromkeys(("kernels/attention.c", "kernels/attention4.c"), "kernels/attention.h")
KERNEL_HEADERS = ("kernels/kernels.h", "kernels/fixedpoint.h", "kernels/tables.h")
INCLUDE_DIRS = ("kernels", "runtime", "ports", "app")
BUILD_ID_HEADER = "build_id.h"
_BUILD_ID_DIGITS = 16
NO_PLACEMENT = Placement()
_KERNELS = "*kernels/*.o"  # as the linker knows their objects
_CODE_BUT_KERNELS = f"*(EXCLUDE_FILE({_KERNELS}) .text EXCLUDE_FILE({_KERNELS}) .text.*)"


@dataclass(frozen=True, slots=True)
class Provenance:
    """What every generated file says of its origin."""

    version: str
    command: str
    checkpoint_sha256: str
    board_sha256: str


@dataclass(frozen=True, slots=True)
class Array:
    """A constant array: declaration without value, its value, and what the value is."""

    declaration: str
    body: str
    comment: str


@dataclass(frozen=True, slots=True)
class Struct:
    """A constant structure: type, name, and its fields as designated initialisers."""

    type: str
    name: str
    fields: str


class Constants:
    """Collects arrays and structures; an array that two ops share is emitted once."""

    def __init__(self, prefix: str, aligned: bool = False, sections: Mapping[str, str] | None = None) -> None:
        """aligned: every array begins at a word, for kernels that read several elements at once. sections: name of an
        array -> the section that it goes to, if not to the others."""
        self._prefix = prefix
        self._aligned = aligned
        self._sections = sections or {}
        self._names: dict[int, str] = {}
        self.arrays: list[Array] = []
        self.structs: list[Struct] = []

    def array(self, name: str, values: NDArray[np.integer], key: object | None = None, comment: str = "") -> str:
        """The C name of an array. key: the object that stands for it, where `values` was derived from that."""
        owner = id(values if key is None else key)
        if owner not in self._names:
            self._names[owner] = f"{self._prefix}_{name}"
            attribute = "__attribute__((aligned(4))) " if self._aligned and values.itemsize < 4 else ""
            if name in self._sections:
                attribute = f'__attribute__((section("{self._sections[name]}"))) {attribute}'
            declaration = f"{attribute}{C_TYPES[values.dtype.name]} {self._names[owner]}[{values.size}]"
            self.arrays.append(Array(declaration, array_body(values), comment))
        return self._names[owner]

    def struct(self, type_name: str, name: str, **fields: object) -> str:
        """The C expression for a structure's address. fields: in the order of the C type."""
        full = f"{self._prefix}_{name}"
        self.structs.append(Struct(type_name, full, initialisers(fields)))
        return f"&{full}"

    def vector(self, name: str, values: NDArray[np.int16]) -> str:
        """The C name of an array that a call takes by itself, outside any structure."""
        full = f"{self._prefix}_{name}"
        self.structs.append(Struct(C_TYPES[values.dtype.name], f"{full}[{values.size}]", array_body(values).lstrip()))
        return full

    def table(self, type_name: str, name: str, rows: Sequence[Mapping[str, object]]) -> str:
        """The C name of an array of structures. rows: the fields of each; two tables of one name are one."""
        full = f"{self._prefix}_{name}"
        head = f"{full}[{len(rows)}]"
        if all(struct.name != head for struct in self.structs):
            bodies = (f"{{{initialisers(fields, 5)}}}" for fields in rows)
            self.structs.append(Struct(type_name, head, ",\n    ".join(bodies)))
        return full


def initialisers(fields: Mapping[str, object], indent: int = 4) -> str:
    return wrapped((f".{name} = {value}" for name, value in fields.items()), indent)


def runtime_sources(tokenizer: Tokenizer) -> tuple[str, ...]:
    """The files in firmware/ around a model, in link order: of the tokenizers, only what its vocabulary needs."""
    own = ["tokenizer.c"] if tokenizer.merges is None else ["tokenizer_pairs.c"]
    own += ["split.c"] if tokenizer.split in SPLITS else []
    return tuple(f"runtime/{name}" for name in ("generate.c", "sampler.c", *own))


def runtime_headers(tokenizer: Tokenizer) -> tuple[str, ...]:
    pairs = () if tokenizer.merges is None else ("runtime/tokenizer_pairs.h", "runtime/split.h")
    return (*RUNTIME_HEADERS, *pairs)


def vocabulary_variables(tables: TokenizerTables, suffix: list[int], prefix: str) -> Mapping[str, object]:
    constants = Constants(prefix)
    pieces = constants.array("piece_bytes", tables.bytes)
    offsets = constants.array("piece_offsets", tables.offsets)
    ranks = constants.array("piece_ranks", tables.ranks) if tables.pairs is None else "0"
    order = constants.array("piece_order", tables.order)
    fields = {
        "bytes": pieces, "offsets": offsets, "ranks": ranks, "order": order, "vocab_size": tables.vocab_size,
        "first_byte": tables.first_byte, "dummy_prefix": tables.dummy_prefix, "unk": tables.unk, "bos": tables.bos,
        "eos": tables.eos, "lowercase": tables.lowercase,
    }  # fmt: skip
    if tables.pairs is not None:
        fields = {f"base.{name}": value for name, value in fields.items()} | _pair_fields(constants, tables)
    return {
        "vocabulary_header": None if tables.pairs is None else "tokenizer_pairs.h",
        "tokenizer_type": "mg_tokenizer_t" if tables.pairs is None else "mg_pairs_t",
        "tokenizer_base": "" if tables.pairs is None else ".base",
        "vocabulary_arrays": constants.arrays,
        "vocabulary_structs": constants.structs,
        "tokenizer_fields": initialisers(fields),
        "suffix": suffix,
        "suffix_values": ", ".join(map(str, suffix)) or "0",
        "suffix_size": max(len(suffix), 1),
    }


def _pair_fields(constants: Constants, tables: TokenizerTables) -> dict[str, object]:
    """The fields of mg_pairs_t behind its base."""
    p = tables.pairs
    assert p is not None

    def array(name: str, values: NDArray[np.integer] | None) -> str:
        return "0" if values is None or not len(values) else constants.array(name, values)

    split = "0"
    if p.split is not None:
        split = constants.struct(
            "mg_split_t", "split", starts=constants.array("kind_starts", p.kinds.starts),
            kinds=constants.array("kinds", p.kinds.kinds), planes=constants.array("kind_planes", p.kinds.planes),
            plane_count=len(p.kinds.planes) - 1, **{name: int(value) for name, value in asdict(p.split).items()},
        )  # fmt: skip
    return {
        "pairs": array("pairs", p.pairs), "ranks": array("pair_ranks", p.ranks),
        "ranks_high": array("pair_ranks_high", p.ranks_high), "results": array("pair_results", p.results),
        "merges": len(p.pairs), "first_result": p.first_result, "symbols": len(tables.order),
        "byte_level": p.byte_level, "prefix": p.prefix, "whole_words": p.whole_words, "fuse_unk": p.fuse_unk,
        "spaces": p.spaces, "word_end": "0" if p.split is None else "mg_word_end", "split": split,
    }  # fmt: skip


def environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_dir("templates")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )


def generate_prototype(prefix: str) -> str:
    head = f"int32_t {prefix}_generate("
    parameters = ("mg_sampler_t *sampler", "const char *prompt", "int32_t length", "int32_t max_tokens",
                  "mg_emit_t emit", "void *context")  # fmt: skip
    return head + wrapped(parameters, len(head)) + ")"


def fill(templates: Mapping[str, str], variables: Mapping[str, object]) -> dict[str, bytes]:
    """Template -> the path of what it becomes; returns path -> content."""
    jinja = environment()
    return {path: jinja.get_template(name).render(variables).encode() for name, path in templates.items()}


def with_build_id(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """A project's files by path, and build_id.h, which says their build id."""
    variables = {"build_id": build_id(files)}
    return dict(sorted({**files, **fill({"c/build_id.h.j2": BUILD_ID_HEADER}, variables)}.items()))


def build_id(files: Mapping[str, bytes]) -> str:
    """What a project's files are known by: a hash of all but build_id.h. The compiler is not in it."""
    hashes = {path: hashlib.sha256(content).hexdigest() for path, content in files.items() if path != BUILD_ID_HEADER}
    lines = "".join(f"{digest} {path}\n" for path, digest in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:_BUILD_ID_DIGITS]


def kernel_sources(graph: Graph) -> list[str]:
    """The files in firmware/ that hold a graph's kernels, and the tables that these read."""
    ops = (*graph.ops, *graph.rebase)
    return sorted({source for op in ops for source in op.variant.sources} | {"kernels/tables.c"})


def kernel_files(graph: Graph) -> dict[str, bytes]:
    """A graph's kernels, and the headers of these and of the runtime, as they are in firmware/."""
    sources, firmware = kernel_sources(graph), data_dir("firmware")
    attention = [header for source, header in ATTENTION_HEADER.items() if source in sources]
    headers = (*KERNEL_HEADERS, *family_named(graph.family).headers, *attention, *RUNTIME_HEADERS)
    return {path: (firmware / path).read_bytes() for path in (*sources, *headers)}


def runtime_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """The runtime around a model, with the headers of its tokenizer, as they are in firmware/."""
    firmware = data_dir("firmware")
    paths = (*runtime_sources(tokenizer), *runtime_headers(tokenizer))
    return {path: (firmware / path).read_bytes() for path in paths}


def kernel_headers(graph: Graph) -> list[str]:
    """The headers with the prototypes of a graph's kernels, as C includes them."""
    own = family_named(graph.family).headers[:1]
    return [path.removeprefix("kernels/") for path in ("kernels/kernels.h", *own)]


def _shape(buffer: Buffer) -> str:
    """int8[128][32]; with the tokens of a forward pass in front, and the layout behind, where there are several."""
    tokens = f"[{buffer.tokens}]" if buffer.tokens > 1 else ""
    layout = "" if buffer.layout == "plain" else f" ({buffer.layout.replace('_', ' ')})"
    return f"{buffer.dtype}{tokens}[{']['.join(map(str, buffer.shape))}]{layout}"


def op_comment(op: Op, graph: Graph) -> str:
    """What an op does to which shapes: "layers.0.wq: int8[64], int32[2] -> int16[64]"."""

    def shapes(names: tuple[str, ...]) -> str:
        return ", ".join(_shape(graph.buffers[name]) for name in names)

    if op.row:
        part = " (one slot)"
    else:
        part = f" (its first {op.slots} slots)" if op.slots > 1 else " (its first slot)" if op.slots else ""
    return f"{op.label}: {shapes(op.inputs) or 'token'} -> {shapes(op.outputs)}{part}"


def offset_lines(graph: Graph, plan: Plan) -> list[str]:
    """The enumerators of the arena, by offset, each with what lies there."""
    ordered = sorted(plan.offsets.items(), key=lambda item: item[::-1])
    names = [f"{identifier(name).upper()} = {offset}," for name, offset in ordered]
    names[-1] = names[-1][:-1]
    width = max(map(len, names))
    buffers = [graph.buffers[name] for name, _ in ordered]
    kept = [", kept from token to token" if buffer.state else "" for buffer in buffers]
    rows = zip(names, buffers, kept, strict=True)
    return [f"{name.ljust(width)} /* {_shape(buffer)}{note} */" for name, buffer, note in rows]


def model_variables(
    graph: Graph, board: Board, tokenizer: Tokenizer, suffix: list[int], provenance: Provenance, max_tokens: int
) -> dict[str, object]:
    """What the interface of a model places, its application and its vocabulary.

    suffix: tokens that follow every prompt. max_tokens: the application's longest answer.
    """
    prefix = model_prefix(graph.model.name)
    return {
        "prefix": prefix,
        "PREFIX": prefix.upper(),
        "name": prefix,
        "title": string_literal(f"{graph.model.name} on {board.name}"),
        "provenance": provenance,
        "config": graph.model.config,
        "context": graph.context,
        "sinks": graph.sinks,
        "max_position": graph.model.max_position,
        "max_tokens": max_tokens,
        "prompt_tokens": PROMPT_TOKENS + len(suffix),
        "longest_prompt": LONGEST_PROMPT,
        "generate": generate_prototype(prefix),
        **vocabulary_variables(tokenizer_tables(tokenizer), suffix, prefix),
    }


def build_variables(
    board: Board, plan: Plan, sources: Sequence[str], include_dirs: Sequence[str]
) -> dict[str, object]:
    """What Makefile.j2 and linker.ld.j2 place, and README.md.j2 of it."""
    on_host = board.core == "host"
    script = [] if on_host else ["-T", "linker.ld"]
    return {
        **memory_map(board, plan.stack_bytes, plan.placement),
        "sources": sources,
        "include_dirs": include_dirs,
        "linker_script": "linker.ld",
        "is_host": on_host,
        "opt": OPTIMISATION,
        "kernel_opt": KERNEL_OPTIMISATION,
        "kernel_folders": [folder for folder in KERNEL_FOLDERS if any(s.startswith(folder) for s in sources)],
        "gcc_prefix": GCC_PREFIXES.get(CORES[board.core].family, ""),
        "has_assembly": any(source.endswith(".S") for source in sources),
        "cflags": flags_text(compile_flags(board, "gcc")),
        "asflags": flags_text(assemble_flags(board, "gcc")),
        "ldflags": flags_text([*script, *link_flags(board, "gcc")]),
        "zig_cflags": flags_text(compile_flags(board, "zig")),
        "zig_asflags": flags_text(assemble_flags(board, "zig")),
        "zig_ldflags": flags_text([*script, *link_flags(board, "zig")]),
    }


def flags_text(flags: list[str]) -> str:
    """A Makefile's value: one line, or several that begin on a line of their own."""
    lines = textwrap.wrap(" ".join(flags), 100, break_long_words=False, break_on_hyphens=False)
    return (" \\\n    ").join(lines if len(lines) < 2 else ["\\\n    " + lines[0], *lines[1:]])


def _hexadecimal(value: int) -> str:
    return f"0x{value:08X}"


@dataclass(frozen=True, slots=True)
class _Copied:
    """An output section that startup copies: address, if it is given; what goes in; its region; and what startup is
    told. All as the linker writes it."""

    name: str
    address: str
    comment: str
    inputs: str
    region: str
    source: str
    begin: str
    end: str


def copied_section(memory: str) -> str:
    """The input section of the constants that are copied to a memory."""
    return f".copied.{memory}"


def arena_section(memory: str) -> str:
    """The input section of the part of the arena that lies in a memory beside the main one."""
    return f".bss.arena_{memory}"


@dataclass(frozen=True, slots=True)
class Arena:
    """The array that is a part of the arena. size: the name of its size. attribute: where it goes. offset: in the
    array, of an offset in the arena. behind: where the next part begins, 0 for the last one."""

    name: str
    size: str
    nbytes: int
    attribute: str
    offset: str
    behind: int


def declared_arenas(parts: Sequence[Part], prefix: str) -> list[Arena]:
    """In order; the last one, with the buffers of a step, has the name that verification and debuggers look for."""
    found = []
    for part in parts:
        last = part is parts[-1]
        attribute = "" if part.memory == "ram" else f'__attribute__((section("{arena_section(part.memory)}"))) '
        suffix = "" if last else f"_{part.memory}"
        size = f"{prefix.upper()}_ARENA{suffix.upper()}_BYTES"
        offset = f"(offset - {part.begin})" if part.begin else "offset"
        nbytes = part.end - part.begin
        found.append(Arena(f"{prefix}_arena{suffix}", size, nbytes, attribute, offset, 0 if last else part.end))
    return found


def memory_map(board: Board, stack_bytes: int, placement: Placement = NO_PLACEMENT) -> dict[str, object]:
    """What linker.ld.j2 places."""
    separate = placement.kernels == "ram" and board.ram_code is not None
    kernels = "" if placement.kernels == "flash" else "CODE" if separate else placement.kernels.upper()
    arenas = [part.memory for part in placement.parts if part.memory != "ram"]
    weights = [name for name in ("ram", *(m.name for m in board.memories)) if name in placement.weights.values()]
    used = {placement.kernels, *arenas, *weights}
    memories = [
        {"region": memory.name.upper(), "access": "rwx" if "code" in memory.holds else "rw", "comment": "",
         "origin": _hexadecimal(memory.region.origin), "size": memory.region.size}
        for memory in board.memories if memory.name in used
    ]  # fmt: skip
    if separate:
        comment = " /* the same RAM, on the bus for code */"
        memories.append({"region": "CODE", "access": "rx", "comment": comment,
                         "origin": _hexadecimal(board.ram_code or 0), "size": board.ram.size})  # fmt: skip
    return {
        "memories": memories,
        "kernels_apart": bool(kernels),
        "code_inputs": _CODE_BUT_KERNELS if kernels else "*(.text .text.*)",
        "copied": [*_copied_kernels(board, kernels), *(_copied_weights(board, memory) for memory in weights)],
        "arenas": [{"name": memory, "region": memory.upper()} for memory in arenas],
        "constants_region": "FLASH" if board.flash_data is None else "DATA AT > FLASH",
        "board_name": board.name,
        "flash_origin": _hexadecimal(board.flash.origin),
        "flash_size": board.flash.size,
        "flash_data_origin": "" if board.flash_data is None else _hexadecimal(board.flash_data),
        "ram_origin": _hexadecimal(board.ram.origin),
        "ram_size": board.ram.size,
        "stack_size": stack_bytes,
    }


def _copied_kernels(board: Board, region: str) -> list[_Copied]:
    if not region:
        return []
    address = " ORIGIN(CODE) + SIZEOF(.stack)" if region == "CODE" else ""
    as_data = " - ORIGIN(CODE) + ORIGIN(RAM)" if region == "CODE" else ""
    begin = f"ADDR(.kernels){as_data}"
    return [
        _Copied(
            ".kernels", address, "The kernels, which run from here.", f"{_KERNELS}(.text .text.*)", region,
            _loaded(board, ".kernels"), begin, f"{begin} + SIZEOF(.kernels)",
        )
    ]  # fmt: skip


def _copied_weights(board: Board, memory: str) -> _Copied:
    name = f".weights_{memory}"
    inputs, begin = f"*({copied_section(memory)})", f"ADDR({name})"
    comment = "Matrices, which are read from here."
    source = _loaded(board, name)
    return _Copied(name, "", comment, inputs, memory.upper(), source, begin, f"{begin} + SIZEOF({name})")


def _loaded(board: Board, section: str) -> str:
    """Where the core reads what is programmed for a section."""
    address = f"LOADADDR({section})"
    return address if board.flash_data is None else f"{address} - ORIGIN(FLASH) + ORIGIN(DATA)"


def render_linker_script(board: Board, keep: Sequence[str]) -> bytes:
    """The linker script of firmware without a model. keep: functions that stay although nothing calls them."""
    script = fill({"c/linker.ld.j2": "linker.ld"}, memory_map(board, board.stack_bytes))["linker.ld"]
    return f"EXTERN({' '.join(keep)})\n".encode() + script
