"""What the commands do, as functions: type a prompt, fill the build folder, measure quality.

With sources, layout and ladder the only place that composes passes; the command line is a thin layer over them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

from mcugen import __version__
from mcugen.cases import ExactMatch, exact_match, read_cases
from mcugen.console import answers, sampler_line
from mcugen.emulate import host_console
from mcugen.emulate.machines import open_machine
from mcugen.errors import UsageError
from mcugen.evaluate import Evaluation, GreedyAgreement, clean_text, evaluate, greedy_agreement
from mcugen.export import check_export, export_library, library_of
from mcugen.images import to_bin, to_hex, to_uf2
from mcugen.ir import Firmware, Graph, Model, Project, QuantizedModel
from mcugen.ladder import Ladder, Rungs, climb, ladder_text
from mcugen.layer_errors import LayerErrors, OpError
from mcugen.layout import Layout, compile_project, make_project, plan_facts, plan_text, provenance
from mcugen.project import MARKER, check_replaceable, write_folder
from mcugen.quantized_file import save_quantized
from mcugen.reference import Floats
from mcugen.rendering import LONGEST_PROMPT, build_id
from mcugen.sampler import Sampler
from mcugen.sources import Progress, Source, read_text, silent
from mcugen.stream import SinksTried, Streamed, best_sinks, cut_streams, stream, try_sinks
from mcugen.tokenizer import encode

# What computes or writes a byte of a build; the compiler has a place of its own.
_PACKAGES = ("intelhex", "jinja2", "numpy", "pyelftools", "safetensors")
GREEDY_TOKENS = 200  # of the greedy runs that quality is measured on


def check_prompt(prompt: bytes, where: str, commands: bool = False) -> None:
    """Raise UsageError where a prompt, typed at the console, would not arrive as it is.

    commands: whether lines that begin with # are meant to steer the console.
    """
    if len(prompt) > LONGEST_PROMPT:
        what = f"has {len(prompt)} bytes; the console's line holds {LONGEST_PROMPT}"
        hint = f"leave out {len(prompt) - LONGEST_PROMPT} bytes"
    elif b"\n" in prompt or b"\r" in prompt:
        what, hint = "has more than one line", "type one line at a time: standard input takes many prompts"
    elif prompt.startswith(b"#") and not commands:
        what, hint = "begins with #, as the console's commands do", "put a space in front of it"
    elif b"\x08" in prompt or b"\x7f" in prompt:
        what, hint = "holds a backspace, which the console would obey", "leave it out"
    else:
        return
    raise UsageError(f"the prompt {what}", where=where, hint=hint)


def run_prompt(
    layout: Layout, firmware: Firmware, prompt: bytes, sampler: Sampler, max_tokens: int
) -> Iterator[bytes]:
    """Type a prompt at the application's console and yield its answer as it comes.

    The firmware runs in the emulator, or on this computer where the board is the host. Raises UsageError for a
    prompt that the console cannot take.
    """
    check_prompt(prompt, "run")
    typed = f"#tokens {max_tokens}\n{sampler_line(sampler)}\n".encode() + prompt + b"\n"
    if layout.board.core == "host":
        stream = host_console.console(firmware, typed)
    else:
        stream = open_machine(firmware, watch_accesses=False).console(typed)
    for index, part in answers(stream):
        if index == 3:  # after the banner and two settings
            yield part


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """A finished build folder."""

    out: Path
    layout: Layout
    firmware: Firmware
    ladder: Ladder | None


def build_folder(
    source: Source,
    model: QuantizedModel,
    layout: Layout,
    out: Path,
    *,
    toolchain: str,
    command: str,
    tokens: int,
    progress: Progress = silent,
    make: Callable[[Layout, str], Project] = make_project,
    host: Callable[[Rungs], None] | None = None,
    more: Callable[[Project, Firmware, Ladder | None], Mapping[str, bytes]] | None = None,
) -> Built:
    """Render, compile, verify over `tokens` tokens (0: not at all), and write everything as one folder.

    make, host: the project and rung 3 of a target that is not the standalone one; more: files that it adds. Raises
    MismatchError, with nothing written, where the firmware differs from the simulator.
    """
    check_replaceable(out)
    project = make(layout, command)
    firmware = compile_project(project, toolchain, progress)
    on_host = layout.board.core == "host"
    ladder = None
    if tokens:
        flashed = None if on_host else firmware
        ladder = climb(layout, flashed, tokens, command, toolchain=toolchain, progress=progress, host=host)
        ladder.raise_for_difference()

    files: dict[str, bytes] = dict(project.files)
    files["memory.txt"] = plan_text(layout).encode()
    files["memory.json"] = json_bytes(plan_facts(layout))
    files["model.safetensors"] = save_quantized(model, source.tokenizer)
    if on_host:
        files["application"] = firmware.image
    else:
        files |= {"firmware.elf": firmware.image, "firmware.bin": to_bin(firmware.image)}
        files["firmware.hex"] = to_hex(firmware.image)
        for tool, known in layout.board.flashing:
            if tool == "uf2":
                files["firmware.uf2"] = to_uf2(firmware.image, int(known["family"]))
    if ladder is not None:
        files["verification.json"] = json_bytes(ladder.to_json())
        files["verification.txt"] = ladder_text(ladder).encode()
    files |= {} if more is None else more(project, firmware, ladder)
    files[MARKER] = json_bytes(build_facts(layout, project, firmware, command, files))
    write_folder(files, out, executables=("application",))
    return Built(out, layout, firmware, ladder)


def json_bytes(value: Mapping[str, object]) -> bytes:
    """A value as the build folder keeps it."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def build_facts(
    layout: Layout, project: Project, firmware: Firmware, command: str, files: Mapping[str, bytes]
) -> dict[str, object]:
    """Versions, flags, hashes and sizes: what is needed to make the same bytes again."""
    return {
        "mcugen": __version__,
        "build_id": build_id(project.files),
        "command": command,
        "model": layout.graph.model.name,
        "recipe": layout.graph.model.recipe,
        "checkpoint_sha256": layout.graph.model.sha256,
        "board": layout.board.name,
        "board_sha256": layout.board.sha256,
        "toolchain": firmware.toolchain,
        "flags": {use: list(flags) for use, flags in firmware.flags.items()},
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "context": layout.graph.context,
        "flash_bytes": firmware.flash_bytes,
        "static_bytes": firmware.static_bytes,
        "stack_bytes": firmware.stack_bytes,
        "sections": dict(firmware.sections),
        "files": {path: hashlib.sha256(content).hexdigest() for path, content in sorted(files.items())},
    }


def export_folder(
    layout: Layout,
    ecosystem: str,
    out: Path,
    *,
    toolchain: str,
    command: str,
    tokens: int,
    progress: Progress = silent,
) -> Ladder | None:
    """Write the library of a layout for another build system (mcugen.export) as one folder.

    layout: for one core, as a second one would need the port. The same C is verified as firmware over `tokens` tokens
    first (0: not at all); returns what was proved. Raises UsageError where the ecosystem cannot take it,
    MismatchError, with nothing written, where the firmware differs from the simulator.
    """
    check_replaceable(out)
    check_export(layout.name, layout.board, ecosystem)
    project = make_project(layout, command)
    ladder = None
    if tokens:
        firmware = None if layout.board.core == "host" else compile_project(project, toolchain, progress)
        ladder = climb(layout, firmware, tokens, command, toolchain=toolchain, progress=progress)
        ladder.raise_for_difference()
    made = provenance(layout, command)
    library = library_of(project, layout.graph.family, layout.plan.arena_bytes, made)
    files = export_library(library, ecosystem, verified=ladder is not None)
    files["memory.txt"] = plan_text(layout).encode()
    if ladder is not None:
        files["verification.txt"] = ladder_text(ladder).encode()
    files[MARKER] = json_bytes(
        {
            "mcugen": __version__,
            "command": command,
            "ecosystem": ecosystem,
            "model": layout.graph.model.name,
            "recipe": layout.graph.model.recipe,
            "checkpoint_sha256": layout.graph.model.sha256,
            "board": layout.board.name,
            "board_sha256": layout.board.sha256,
            "context": layout.graph.context,
            "files": {path: hashlib.sha256(content).hexdigest() for path, content in sorted(files.items())},
        }
    )
    write_folder(files, out)
    return ladder


@dataclass(frozen=True, slots=True)
class TextQuality:
    """What the integers cost on a text. layers: in the graph's order, empty where the float side came from before."""

    evaluation: Evaluation
    greedy: GreedyAgreement
    layers: tuple[OpError, ...]


def float_model(source: Source) -> Model:
    """The float side of a measurement. Raises UsageError where there is none."""
    if source.model is None:
        raise UsageError(
            f"{source.name} holds integers only, and quality is measured against float",
            where="MODEL",
            hint="name the float checkpoint it was made from",
        )
    return source.model


def measure_stream(
    source: Source,
    lay_out: Callable[[int], Layout],
    text: Path,
    tokens: int,
    length: int,
    sinks: int | None,
    progress: Progress = silent,
) -> Streamed:
    """What the integers cost in streams of `length` tokens of a text.

    lay_out: a layout with so many sinks. sinks: None for as many as help the float model on these streams.
    """
    model, bos = float_model(source), source.tokenizer.bos
    targets = cut_streams(text_tokens(source, text, tokens), length)
    layout = lay_out(sinks or 0)
    tried: tuple[SinksTried, ...] = ()
    if sinks is None:
        show = partial(progress, "try sinks")
        tried = try_sinks(model, layout.graph.context, targets, bos=bos, progress=show)
        layout = lay_out(best_sinks(tried))
    return stream(model, layout.graph, targets, bos=bos, tried=tried, progress=partial(progress, "stream"))


def text_tokens(source: Source, text: Path, tokens: int) -> list[int]:
    """The first `tokens` tokens of a text file, cleaned."""
    return encode(source.tokenizer, clean_text(read_text(text)), bos=False)[:tokens]


def measure(
    source: Source,
    graph: Graph,
    text: Path,
    tokens: int,
    progress: Progress = silent,
    floats: Sequence[Floats] | None = None,
) -> TextQuality:
    """Perplexity and agreement of the integers against float, on a text; each op's error; and how long greedy runs go
    together. floats: of evaluate.float_side, if it is there already; the ops' errors are left out then."""
    model, bos = float_model(source), source.tokenizer.bos
    ids = text_tokens(source, text, tokens)
    meter = LayerErrors(graph) if floats is None else None
    found = evaluate(model, graph, ids, bos=bos, progress=partial(progress, "evaluate"), floats=floats, meter=meter)
    runs = greedy_agreement(model, graph, GREEDY_TOKENS, bos=bos, progress=partial(progress, "greedy runs"))
    return TextQuality(found, runs, () if meter is None else meter.errors())


def measure_cases(source: Source, graph: Graph, cases: Path, progress: Progress = silent) -> ExactMatch:
    """Exact answers of float and integers to the cases of a file."""
    model, found = float_model(source), read_cases(cases)
    return exact_match(model, graph, source.tokenizer, found, partial(progress, "answer cases"))
