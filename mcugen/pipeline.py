"""The passes in order: the only place that composes them. The command line is a thin layer over these functions."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from mcugen import __version__
from mcugen.boards import list_boards, load_board
from mcugen.cache import Cache, default_cache_dir
from mcugen.checkpoints import read_checkpoint
from mcugen.console import END_OF_TRANSMISSION, answers
from mcugen.ctext import model_prefix
from mcugen.emulate import host_console, qemu
from mcugen.emulate.cortex_m import CortexM
from mcugen.emulate.host import HostMachine, find_libasan
from mcugen.emulate.machine import Machine, Profile
from mcugen.errors import InputError, MismatchError, ToolError, UsageError
from mcugen.evaluate import Evaluation, clean_text, evaluate
from mcugen.fit import Demand, check_fits, demand_of, largest_context
from mcugen.generate import generate, prompt_tokens, suffix_tokens
from mcugen.ir import Board, Firmware, Graph, Model, Plan, Project, QuantizedModel, Tokenizer, VerificationReport
from mcugen.lower import lower
from mcugen.plan import check_plan, plan_memory
from mcugen.plan_report import plan_json, plan_report
from mcugen.project import MARKER, check_replaceable, write_folder
from mcugen.quantize import quantize, self_calibration, text_calibration
from mcugen.quantized_file import load_quantized, save_quantized
from mcugen.render import LONGEST_PROMPT, PROMPT_TOKENS, Provenance, render_c
from mcugen.resources import models_dir
from mcugen.sampler import Sampler, make_sampler
from mcugen.simulate import Simulator, greedy
from mcugen.tokenizer import decode, encode, read_tokenizer, tokenizer_tables
from mcugen.toolchain import build, find_toolchain, to_bin, to_hex
from mcugen.verify import mismatch, verify

Progress = Callable[[str, int, int], None]  # stage, done, total


def silent(stage: str, done: int, total: int) -> None:
    """A Progress that shows nothing."""


DEFAULT_MODEL = "home"
CODE_BYTES = 15_000  # kernels, runtime and application before linking, of the larger toolchain, zig
STATIC_BYTES = 2 * PROMPT_TOKENS + 192  # prompt tokens, the console's line, the ring's counters
MAX_TOKENS = 256  # the application's longest answer, unless told otherwise
SAMPLED_TOKENS = 24  # of the sampled text that verification compares
PROFILED_TOKENS = 64  # instructions per token are the mean over positions 0 to 63


# ---------------------------------------------------------------- inputs


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What the user named: a float checkpoint or a quantised model, with its vocabulary."""

    name: str
    model: Model | None
    quantized: QuantizedModel | None
    tokenizer: Tokenizer


def open_source(path: Path | None, tokenizer_path: Path | None) -> Source:
    """Read a checkpoint (.bin) with its tokenizer, a quantised model (.safetensors), or the default model (None)."""
    if path is None:
        return _default_source()
    if path.suffix == ".safetensors":
        quantized, tokenizer = load_quantized(path)
        if tokenizer_path is not None:
            tokenizer = read_tokenizer(tokenizer_path, quantized.config.vocab_size)
        if tokenizer is None:
            raise _no_tokenizer(path)
        return Source(quantized.name, None, quantized, tokenizer)
    model = read_checkpoint(path)
    if tokenizer_path is None:
        raise _no_tokenizer(path)
    return Source(model.name, model, None, read_tokenizer(tokenizer_path, model.config.vocab_size))


def _no_tokenizer(path: Path) -> UsageError:
    return UsageError(f"{path.name} has no tokenizer", where="--tokenizer", hint="add --tokenizer FILE.bin")


def _default_source() -> Source:
    folder = models_dir() / DEFAULT_MODEL
    facts = json.loads((folder / "model.json").read_text())
    model = replace(read_checkpoint(folder / "model.bin"), name=facts["name"])
    tokenizer = read_tokenizer(
        folder / "tokenizer.bin",
        model.config.vocab_size,
        lowercase=facts["lowercase"],
        prompt_suffix=facts["prompt_suffix"],
    )
    return Source(model.name, model, None, tokenizer)


def read_text(path: Path) -> str:
    """A UTF-8 text file. Raises InputError."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"{path} cannot be read: {why}", where="text file", hint="check the path") from error


def quantize_source(source: Source, calibrate: Path | None, progress: Progress = silent) -> QuantizedModel:
    """The integers of a source; calibrated on a text, or on the model's own samples."""
    if source.quantized is not None:
        return source.quantized
    assert source.model is not None
    text = None if calibrate is None else read_text(calibrate)
    cache, key = Cache(default_cache_dir()), _quantized_key(source, text)
    if (kept := cache.load(key)) is not None:
        with contextlib.suppress(InputError):  # a damaged file is as good as none
            return replace(load_quantized(kept)[0], name=source.name)
    progress("calibrate", 0, 2)
    if text is None:
        seen = self_calibration(source.model, eos=source.tokenizer.eos)
    else:
        tokens = np.array(encode(source.tokenizer, text, bos=False))
        seen = text_calibration(source.model, tokens, bos=source.tokenizer.bos)
    progress("calibrate", 1, 2)
    quantized = quantize(source.model, seen)
    cache.store(key, save_quantized(quantized))
    progress("calibrate", 2, 2)
    return quantized


def _quantized_key(source: Source, text: str | None) -> str:
    """Hash of everything that quantisation depends on: weights, text, tokenizer, numpy, and all of mcugen's code."""
    assert source.model is not None
    code = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))] + [np.__version__.encode()]
    t = source.tokenizer
    encoding = (t.pieces, t.ranks.tolist(), t.unk, t.bos, t.first_byte, t.lowercase)
    calibration = repr(t.eos if text is None else (text, encoding)).encode()
    parts = [source.model.sha256.encode(), *code, calibration]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


# ---------------------------------------------------------------- graph and plan


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


def lay_out(model: QuantizedModel, tokenizer: Tokenizer, board: Board, context: int | None = None) -> Layout:
    """Lower and plan for `context`, or for the largest context up to the trained one that fits the board.

    Raises UsageError for an impossible context, DoesNotFitError where flash or RAM are too small.
    """
    tables = tokenizer_tables(tokenizer)
    code = CODE_BYTES + sum(t.nbytes for t in (tables.bytes, tables.offsets, tables.ranks, tables.order))

    def planned(slots: int) -> tuple[Graph, Plan, Demand]:
        graph = lower(model, slots, board.features)
        plan = plan_memory(graph, board)
        return graph, plan, demand_of(graph, plan, code_bytes=code, static_bytes=STATIC_BYTES)

    largest = largest_context(lambda slots: planned(slots)[2].ram <= board.ram.size, model.config.seq_len)
    graph, plan, demand = planned(max(largest, 1) if context is None else context)
    check_plan(graph, plan)
    check_fits(graph, plan, board, demand, ram_at=lambda slots: planned(slots)[2].ram, boards=list_boards())
    return Layout(board, tokenizer, graph, plan, demand, largest)


def plan_text(layout: Layout) -> str:
    return plan_report(layout.graph, layout.plan, layout.board, layout.demand, layout.largest_context)


def plan_facts(layout: Layout) -> dict[str, object]:
    facts = plan_json(layout.graph, layout.plan, layout.board, layout.demand)
    return {**facts, "largest_context": layout.largest_context}


# ---------------------------------------------------------------- project and firmware


def make_project(layout: Layout, command: str, board: Board | None = None, observed: bool = False) -> Project:
    """Render a layout's C; for another board than the layout's (the host), with the same plan."""
    board = board or layout.board
    provenance = Provenance(__version__, command, layout.graph.model.sha256, board.sha256)
    return render_c(
        layout.graph,
        layout.plan,
        board,
        layout.tokenizer,
        suffix_tokens(layout.tokenizer),
        provenance,
        MAX_TOKENS,
        observed,
    )


def make_firmware(layout: Layout, toolchain: str, command: str, progress: Progress = silent) -> Firmware:
    """Compile and link the application for the layout's board."""
    progress("compile", 0, 1)
    firmware = build(make_project(layout, command), find_toolchain(toolchain, layout.board))
    progress("compile", 1, 1)
    return firmware


# ---------------------------------------------------------------- verification


@dataclass(frozen=True, slots=True)
class Skipped:
    """A rung that could not be climbed for want of a tool."""

    rung: str
    why: str


@dataclass(frozen=True, slots=True)
class Ladder:
    """Everything that verification found. profile: of positions 0 to 63, where an emulator ran."""

    model: str
    board: str
    toolchain: str
    context: int
    tokens: int
    reports: tuple[VerificationReport, ...]
    skipped: tuple[Skipped, ...]
    profile: Profile | None
    profiled_tokens: int

    @property
    def passed(self) -> bool:
        return all(report.difference is None for report in self.reports)

    @property
    def instructions_per_token(self) -> float | None:
        return None if self.profile is None else self.profile.total / self.profiled_tokens

    def raise_for_difference(self) -> None:
        """Raise MismatchError with the first difference, if there is one."""
        for report in self.reports:
            if report.difference is not None:
                raise mismatch(report)

    def to_json(self) -> dict[str, object]:
        profile = self.profile
        return {
            "model": self.model,
            "board": self.board,
            "toolchain": self.toolchain,
            "context": self.context,
            "tokens": self.tokens,
            "passed": self.passed,
            "reports": [asdict(report) for report in self.reports],
            "skipped": [asdict(skipped) for skipped in self.skipped],
            "instructions_per_token": {
                "positions": f"0-{self.profiled_tokens - 1}",
                "mean": self.instructions_per_token,
            },
            "profile": None if profile is None else asdict(profile),
        }


def verification_tokens(graph: Graph, tokenizer: Tokenizer, count: int) -> list[int]:
    """bos and the simulator's own greedy continuation, which goes on over the end of a sequence."""
    return [tokenizer.bos, *itertools.islice(greedy(graph, [tokenizer.bos]), count - 1)]


def tools_required() -> bool:
    """CI sets MCUGEN_REQUIRE_TOOLS=1, so that no rung is skipped silently."""
    return os.environ.get("MCUGEN_REQUIRE_TOOLS") == "1"


def climb(
    layout: Layout,
    firmware: Firmware | None,
    tokens: int,
    command: str,
    *,
    toolchain: str = "auto",
    progress: Progress = silent,
) -> Ladder:
    """Compare the host build and, on a microcontroller, the firmware with the simulator: rungs 3 and 4.

    firmware: the image that is flashed; None for the host, whose compiler is then `toolchain`. Stops at the first
    rung that differs. Raises MismatchError where an op is missing or the console prints something else, FirmwareFault
    (exit code 6, too) where the C does what the board would not survive.
    """
    fed = verification_tokens(layout.graph, layout.tokenizer, tokens)
    rungs = _Rungs(layout, fed, progress)
    rungs.host(command, toolchain if firmware is None else "auto")
    if firmware is not None:
        rungs.emulated(firmware)
    return Ladder(
        layout.graph.model.name,
        layout.board.name,
        rungs.toolchain if firmware is None else firmware.toolchain,
        layout.graph.context,
        tokens,
        tuple(rungs.reports),
        tuple(rungs.skipped),
        rungs.profile,
        min(tokens, PROFILED_TOKENS),
    )


class _Rungs:
    """The rungs of one ladder, one after the other, until one differs."""

    def __init__(self, layout: Layout, tokens: list[int], progress: Progress) -> None:
        self._layout = layout
        self._tokens = tokens
        self._progress = progress
        self.reports: list[VerificationReport] = []
        self.skipped: list[Skipped] = []
        self.profile: Profile | None = None
        self.toolchain = ""

    def _differs(self) -> bool:
        return any(report.difference is not None for report in self.reports)

    def _skip(self, rung: str, error: ToolError) -> None:
        if tools_required():
            raise error
        self.skipped.append(Skipped(rung, f"{error.what}; {error.hint}"))

    def _verify(self, machine: Machine, rung: str, title: str) -> None:
        try:
            report = verify(
                machine,
                self._layout.graph,
                self._layout.plan,
                self._tokens,
                rung=rung,
                title=title,
                progress=lambda done, total: self._progress(rung, done, total),
            )
        finally:
            machine.close()
        self.reports.append(report)

    def host(self, command: str, name: str) -> None:
        """Rung 3: the same C on this computer, with sanitizers where the compiler has them."""
        rung = "rung 3, host"
        board = load_board("host")
        try:
            toolchain = find_toolchain(name, board)
        except ToolError as error:
            return self._skip(rung, error)
        self.toolchain = toolchain.title
        flags, sanitize = _sanitizer_flags(toolchain.kind)
        if not sanitize and tools_required():
            find_libasan()
        project = make_project(self._layout, command, board, observed=True)
        library = build(project, toolchain, opt="-O1", extra_flags=flags, shared=True)
        title = f"host build ({toolchain.title}{', ASan and UBSan' if sanitize else ''})"
        self._verify(HostMachine(library, sanitize=sanitize), rung, title)

    def emulated(self, firmware: Firmware) -> None:
        """Rung 4: the ELF that is flashed, op by op in unicorn, then its console in unicorn and in QEMU."""
        rung = f"rung 4, {firmware.board.name}"
        if self._differs():
            return
        try:
            machine = _unicorn(firmware, watch_accesses=False)  # the profile watches the first tokens
        except ToolError as error:
            self._skip(f"{rung} in unicorn", error)
        else:
            self._verify(machine, rung, f"{firmware.board.name} in unicorn ({firmware.toolchain})")
            if self._differs():
                return
            self._profile(firmware)
            self._console(rung, f"console of {firmware.board.name} in unicorn", _unicorn(firmware).console)
        try:
            self._console(rung, f"console of {firmware.board.name} in QEMU", lambda typed: _qemu(firmware, typed))
        except ToolError as error:
            self._skip(f"{rung} in QEMU", error)

    def _profile(self, firmware: Firmware) -> None:
        machine = _unicorn(firmware)
        machine.boot()
        machine.call(f"{self._layout.name}_init")
        machine.reset_profile()
        for token in self._tokens[:PROFILED_TOKENS]:
            machine.call(f"{self._layout.name}_step", token)
        self.profile = machine.profile()
        machine.close()

    def _console(self, rung: str, title: str, run: Callable[[bytes], Iterator[bytes]]) -> None:
        """The application itself: greedy tokens with a hash of their logits, and a sampled text."""
        if self._differs():
            return
        graph, tokenizer = self._layout.graph, self._layout.tokenizer
        sampler = make_sampler(1.0, 40, 0.9, 1)
        count = min(len(self._tokens), 2 * SAMPLED_TOKENS)
        lines = (f"#check {count}", _sampler_line(sampler), f"#tokens {SAMPLED_TOKENS}", "the")
        typed = "".join(f"{line}\n" for line in lines).encode()
        self._progress(title, 0, 1)
        observed = b"".join(text for _, text in answers(run(typed)))
        sampled = list(generate(graph, tokenizer, "the", sampler, SAMPLED_TOKENS))
        expected = _check_lines(graph, self._tokens[:count]) + _answer(tokenizer, "the", sampled)
        self._progress(title, 1, 1)
        banner = f"{graph.model.name} on {self._layout.board.name}\n".encode()
        if observed != banner + expected:
            raise _console_mismatch(rung, title, banner + expected, observed)
        values = count * (1 + graph.model.config.vocab_size) + len(sampled)
        self.reports.append(VerificationReport(rung, title, count + len(sampled), len(graph.ops), values, None))


def _sanitizer_flags(kind: str) -> tuple[tuple[str, ...], bool]:
    if kind != "gcc":
        return (), False
    try:
        find_libasan()
    except ToolError:
        return (), False
    return ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"), True


def _unicorn(firmware: Firmware, watch_accesses: bool = True) -> CortexM:
    if importlib.util.find_spec("unicorn") is None:
        raise ToolError("unicorn is not installed", where="emulating the board", hint="pip install 'mcugen[emulate]'")
    return CortexM(firmware, watch_accesses=watch_accesses)


def _qemu(firmware: Firmware, typed: bytes) -> Iterator[bytes]:
    yield qemu.run_console(firmware, typed, timeout=300.0, prompt=END_OF_TRANSMISSION)


def _answer(tokenizer: Tokenizer, prompt: str, tokens: list[int]) -> bytes:
    """What the console prints for the tokens that follow a prompt."""
    text = decode(tokenizer, tokens, prompt_tokens(tokenizer, prompt)[-1])
    return text.replace(END_OF_TRANSMISSION, b"") + b"\n"


def _check_lines(graph: Graph, tokens: list[int]) -> bytes:
    """What `#check` prints for greedy tokens: the index, the next token and FNV-1a over the logits."""
    logits = Simulator(graph).feed(tokens)
    lines = (f"{i} {int(row.argmax())} {_fnv1a(row.astype('<i4').tobytes()):08x}\n" for i, row in enumerate(logits))
    return "".join(lines).encode()


def _fnv1a(content: bytes) -> int:
    value = 2166136261
    for byte in content:
        value = (value ^ byte) * 16777619 & 0xFFFFFFFF
    return value


def _console_mismatch(rung: str, title: str, expected: bytes, observed: bytes) -> MismatchError:
    ours, theirs = expected.splitlines(), observed.splitlines()
    line = next(
        (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )
    shown = [lines[line].decode(errors="replace") if line < len(lines) else "nothing" for lines in (theirs, ours)]
    return MismatchError(
        f"{title} prints {shown[0]!r} in line {line + 1}, not {shown[1]!r}",
        where=rung,
        hint="the ops agree: look at sampler.c, tokenizer.c, generate.c and console.c",
    )


# ---------------------------------------------------------------- running


def _sampler_line(s: Sampler) -> str:
    return f"#sampler {s.multiplier} {s.shift} {s.top_k} {s.top_p} {s.state}"


def _check_prompt(prompt: bytes) -> None:
    """Raise UsageError where a prompt, typed at the console, would not arrive as it is."""
    if len(prompt) > LONGEST_PROMPT:
        what = f"has {len(prompt)} bytes; the console's line holds {LONGEST_PROMPT}"
        hint = f"leave out {len(prompt) - LONGEST_PROMPT} bytes"
    elif b"\n" in prompt or b"\r" in prompt:
        what, hint = "has more than one line", "type one line at a time: standard input takes many prompts"
    elif prompt.startswith(b"#"):
        what, hint = "begins with #, as the console's commands do", "put a space in front of it"
    elif b"\x08" in prompt or b"\x7f" in prompt:
        what, hint = "holds a backspace, which the console would obey", "leave it out"
    else:
        return
    raise UsageError(f"the prompt {what}", where="run", hint=hint)


def run_prompt(
    layout: Layout, firmware: Firmware, prompt: bytes, sampler: Sampler, max_tokens: int
) -> Iterator[bytes]:
    """Type a prompt at the application's console and yield its answer as it comes.

    The firmware runs in the emulator, or on this computer where the board is the host. Raises UsageError for a
    prompt that the console cannot take.
    """
    _check_prompt(prompt)
    typed = f"#tokens {max_tokens}\n{_sampler_line(sampler)}\n".encode() + prompt + b"\n"
    if layout.board.core == "host":
        stream = host_console.console(firmware, typed)
    else:
        stream = _unicorn(firmware, watch_accesses=False).console(typed)
    for index, part in answers(stream):
        if index == 3:  # after the banner and two settings
            yield part


# ---------------------------------------------------------------- the build folder


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
) -> Built:
    """Render, compile, verify over `tokens` tokens (0: not at all), and write everything as one folder.

    Raises MismatchError, with nothing written, where the firmware differs from the simulator.
    """
    check_replaceable(out)
    project = make_project(layout, command)
    progress("compile", 0, 1)
    firmware = build(project, find_toolchain(toolchain, layout.board))
    progress("compile", 1, 1)
    on_host = layout.board.core == "host"
    ladder = None
    if tokens:
        flashed = None if on_host else firmware
        ladder = climb(layout, flashed, tokens, command, toolchain=toolchain, progress=progress)
        ladder.raise_for_difference()

    files: dict[str, bytes] = dict(project.files)
    files["memory.txt"] = plan_text(layout).encode()
    files["memory.json"] = _json(plan_facts(layout))
    files["model.safetensors"] = save_quantized(model, source.tokenizer)
    if on_host:
        files["application"] = firmware.image
    else:
        files |= {"firmware.elf": firmware.image, "firmware.bin": to_bin(firmware.image)}
        files["firmware.hex"] = to_hex(firmware.image)
    if ladder is not None:
        files["verification.json"] = _json(ladder.to_json())
        files["verification.txt"] = ladder_text(ladder).encode()
    files[MARKER] = _json(build_facts(layout, firmware, command, files))
    write_folder(files, out, executables=("application",))
    return Built(out, layout, firmware, ladder)


def _json(value: Mapping[str, object]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def build_facts(layout: Layout, firmware: Firmware, command: str, files: Mapping[str, bytes]) -> dict[str, object]:
    """Versions, hashes and sizes: what is needed to make the same bytes again."""
    return {
        "mcugen": __version__,
        "command": command,
        "model": layout.graph.model.name,
        "recipe": layout.graph.model.recipe,
        "checkpoint_sha256": layout.graph.model.sha256,
        "board": layout.board.name,
        "board_sha256": layout.board.sha256,
        "toolchain": firmware.toolchain,
        "context": layout.graph.context,
        "flash_bytes": firmware.flash_bytes,
        "static_bytes": firmware.static_bytes,
        "stack_bytes": firmware.stack_bytes,
        "sections": dict(firmware.sections),
        "files": {path: hashlib.sha256(content).hexdigest() for path, content in sorted(files.items())},
    }


def ladder_text(ladder: Ladder) -> str:
    """The ladder in words, for verification.txt."""
    lines = [f"{ladder.model} on {ladder.board}, {ladder.toolchain}, context {ladder.context}", ""]
    for report in ladder.reports:
        verdict = "equal" if report.difference is None else "DIFFERENT"
        lines.append(
            f"{report.rung}: {report.machine}: {verdict}, {report.tokens} tokens, {report.ops} ops, "
            f"{report.values:,} values"
        )
    lines += [f"{skipped.rung}: skipped: {skipped.why}" for skipped in ladder.skipped]
    if ladder.profile is not None:
        last = ladder.profiled_tokens - 1
        lines += ["", f"instructions per token, positions 0 to {last}: {ladder.instructions_per_token:,.0f}"]
        for function, count in sorted(ladder.profile.instructions.items(), key=lambda item: -item[1])[:12]:
            lines.append(f"  {function:<24} {count / ladder.profiled_tokens:>12,.0f}")
        lines.append(f"stack used by a step: {ladder.profile.stack_bytes} B")
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- quality


def measure(source: Source, graph: Graph, text: Path, tokens: int, progress: Progress = silent) -> Evaluation:
    """Perplexity and agreement of the integers against float, on a text."""
    if source.model is None:
        raise UsageError(
            f"{source.name} holds integers only, and quality is measured against float",
            where="MODEL",
            hint="name the float checkpoint it was made from",
        )
    ids = encode(source.tokenizer, clean_text(read_text(text)), bos=False)[:tokens]
    bos = source.tokenizer.bos
    return evaluate(source.model, graph, ids, bos=bos, progress=lambda done, total: progress("evaluate", done, total))
