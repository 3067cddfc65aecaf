"""The ladder of verification: rungs 3, 4 and 6, one machine after the other, and what they found."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from mcugen.console import END_OF_TRANSMISSION, answers, sampler_line
from mcugen.emulate import qemu
from mcugen.emulate.host import HostMachine, find_libasan
from mcugen.emulate.machine import Machine, Profile
from mcugen.emulate.machines import open_machine
from mcugen.errors import InputError, MismatchError, ToolError
from mcugen.generate import generate, prompt_tokens
from mcugen.ir import Firmware, Graph, Project, Tokenizer, VerificationReport
from mcugen.layout import Layout, make_project, on_host
from mcugen.rendering import build_id
from mcugen.sampler import make_sampler
from mcugen.serial_console import SerialConsole
from mcugen.simulate import Simulator, greedy
from mcugen.sources import Progress, silent
from mcugen.tokenizer import decode
from mcugen.toolchain import build, find_toolchain
from mcugen.verify import mismatch, read_prompt, start_model, verify, verify_prompt

SAMPLED_TOKENS = 24  # of the sampled text that verification compares
PROMPT_TOKENS = 30  # of the prompt that is read at once
_CONSOLE_HINT = "the ops agree: look at sampler.c, tokenizer.c, generate.c and console.c"
PROFILED_TOKENS = 64  # instructions per token are the mean over positions 0 to 63


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
    host: Callable[[Rungs], None] | None = None,
) -> Ladder:
    """Compare the host build and, on a microcontroller, the firmware with the simulator: rungs 3 and 4.

    firmware: the image that is flashed; None for the host, whose compiler is then `toolchain`. host: rung 3, if it is
    not the same C on this computer. Stops at the first rung that differs. Raises MismatchError where an op is missing
    or the console prints something else, FirmwareFault (exit code 6, too) where the C does what the board would not
    survive.
    """
    fed = verification_tokens(layout.graph, layout.tokenizer, tokens)
    rungs = Rungs(layout, fed, progress)
    if host is None:
        rungs.host(command, toolchain if firmware is None else "auto")
    else:
        host(rungs)
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


def climb_board(
    layout: Layout, console: SerialConsole, tokens: int, command: str, *, progress: Progress = silent
) -> Ladder:
    """Compare a real board with the simulator, over its serial port: rung 6, with the lines that rung 4 types.

    command: names the build that the board must run; whichever compiler made it. Raises InputError where it runs
    another, MismatchError where it prints something else, ToolError where it says nothing.
    """
    build = build_id(make_project(layout, command).files)
    found = console.running()
    if found.build != build:
        raise InputError(
            f"the board runs {found.title}, build {found.build}; these options give build {build}",
            where=f"serial port {console.name}",
            hint=f"flash this one: {command}, then mcugen flash; or name the options of that one",
        )
    rungs = Rungs(layout, verification_tokens(layout.graph, layout.tokenizer, tokens), progress)
    title = f"{layout.board.name} at {console.name}"
    hint = "if mcugen verify without --port finds all equal, look at what no emulator has: clock, wait states, supply"
    rungs.console(f"rung 6, {layout.board.name}", title, console.converse, tokens, hint)
    graph = layout.graph
    return Ladder(graph.model.name, layout.board.name, "", graph.context, tokens, tuple(rungs.reports), (), None, 0)


class Rungs:
    """The rungs of one ladder, one after the other, until one differs."""

    def __init__(self, layout: Layout, tokens: list[int], progress: Progress) -> None:
        self.layout = layout
        self.tokens = tokens
        self.progress = progress
        self.reports: list[VerificationReport] = []
        self.skipped: list[Skipped] = []
        self.profile: Profile | None = None
        self.toolchain = ""

    def differs(self) -> bool:
        return any(report.difference is not None for report in self.reports)

    def skip(self, rung: str, error: ToolError) -> None:
        if tools_required():
            raise error
        self.skipped.append(Skipped(rung, f"{error.what}; {error.hint}"))

    def climb_machine(self, machine: Machine, layout: Layout, rung: str, title: str) -> None:
        """Op by op, and then a prompt as the application reads it."""
        graph, plan = layout.graph, layout.plan
        try:
            report = verify(
                machine,
                graph,
                plan,
                self.tokens,
                rung=rung,
                title=title,
                progress=lambda done, total: self.progress(rung, done, total),
            )
            self.reports.append(report)
            if report.difference is None:
                # a longer one would overwrite what was read at once
                prompt = self.tokens[: min(PROMPT_TOKENS, graph.context)]
                self.reports.append(verify_prompt(machine, graph, plan, prompt, rung=rung, title=title))
        finally:
            machine.close()

    def host(
        self, command: str, name: str, here: Layout | None = None, make: Callable[..., Project] = make_project
    ) -> None:
        """Rung 3: the same C on this computer, with sanitizers where the compiler has them.

        here: the layout on this computer, and make: its project, if it is not that of the standalone target.
        """
        rung = "rung 3, host"
        layout = here or on_host(self.layout)
        try:
            toolchain = find_toolchain(name, layout.board)
        except ToolError as error:
            return self.skip(rung, error)
        self.toolchain = toolchain.title
        flags, sanitize = _sanitizer_flags(toolchain.kind)
        if not sanitize and tools_required():
            find_libasan()
        project = make(layout, command, observed=True)
        library = build(project, toolchain, opt="-O1", extra_flags=flags, shared=True)
        title = f"host build ({toolchain.title}{', ASan and UBSan' if sanitize else ''})"
        self.climb_machine(HostMachine(library, sanitize=sanitize), layout, rung, title)

    def emulated(self, firmware: Firmware) -> None:
        """Rung 4: the ELF that is flashed, op by op in the board's emulator, then its console there and in QEMU."""
        rung = f"rung 4, {firmware.board.name}"
        if self.differs():
            return
        try:
            machine = open_machine(firmware, watch_accesses=False)  # the profile watches the first tokens
        except ToolError as error:
            self.skip(f"{rung}, op by op", error)
        else:
            self.climb_machine(machine, self.layout, rung, f"{machine.title} ({firmware.toolchain})")
            if self.differs():
                return
            self._profile(firmware)
            self._console(rung, f"console of {machine.title}", open_machine(firmware).console)
        title = f"console of {firmware.board.name} in QEMU"
        if any(report.machine == title for report in self.reports):
            return  # QEMU is the board's emulator
        if not qemu.has_machine(firmware.board):  # no tool is missing
            self.skipped.append(Skipped(f"{rung} in QEMU", "QEMU has no such machine"))
            return
        try:
            self._console(rung, title, lambda typed: _qemu(firmware, typed))
        except ToolError as error:
            self.skip(f"{rung} in QEMU", error)

    def _profile(self, firmware: Firmware) -> None:
        self.profile = profile_tokens(self.layout, firmware, self.tokens[:PROFILED_TOKENS])

    def _console(self, rung: str, title: str, run: Callable[[bytes], Iterator[bytes]]) -> None:
        if not self.differs():
            self.console(rung, title, run, min(len(self.tokens), 2 * SAMPLED_TOKENS), _CONSOLE_HINT)

    def console(self, rung: str, title: str, run: Callable[[bytes], Iterator[bytes]], count: int, hint: str) -> None:
        """The application itself: `count` greedy tokens with a hash of their logits, and a sampled text.

        run: what a console prints when these lines are typed, its banner first.
        """
        graph, tokenizer = self.layout.graph, self.layout.tokenizer
        sampler = make_sampler(1.0, 40, 0.9, 1)
        lines = (f"#check {count}", sampler_line(sampler), f"#tokens {SAMPLED_TOKENS}", "the")
        typed = "".join(f"{line}\n" for line in lines).encode()
        self.progress(title, 0, 1)
        observed = b"".join(text for _, text in answers(run(typed)))
        sampled = list(generate(graph, tokenizer, "the", sampler, SAMPLED_TOKENS))
        expected = check_lines(graph, self.tokens[:count]) + _answer(tokenizer, "the", sampled)
        self.progress(title, 1, 1)
        banner = f"{graph.model.name} on {self.layout.board.name}\n".encode()
        if observed != banner + expected:
            raise _console_mismatch(rung, title, banner + expected, observed, hint)
        values = count * (1 + graph.model.config.vocab_size) + len(sampled)
        self.reports.append(VerificationReport(rung, title, count + len(sampled), len(graph.ops), values, None))


def profile_tokens(layout: Layout, firmware: Firmware, tokens: list[int]) -> Profile:
    """Exact counts of the first tokens of a sequence. Raises ToolError where there is no emulator."""
    machine = open_machine(firmware)
    start_model(machine, layout.name)
    machine.reset_profile()
    for token in tokens:
        machine.call(f"{layout.name}_step", token)
    profile = machine.profile()
    # Several tokens at once are watched, too: their vectors lie elsewhere than a single token's.
    machine.call(f"{layout.name}_reset")
    read_prompt(machine, layout.name, tokens[: min(layout.graph.batch + 1, layout.graph.context)])
    machine.close()
    return profile


def _sanitizer_flags(kind: str) -> tuple[tuple[str, ...], bool]:
    if kind != "gcc":
        return (), False
    try:
        find_libasan()
    except ToolError:
        return (), False
    return ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"), True


def _qemu(firmware: Firmware, typed: bytes) -> Iterator[bytes]:
    yield qemu.run_console(firmware, typed, timeout=300.0, prompt=END_OF_TRANSMISSION)


def _answer(tokenizer: Tokenizer, prompt: str, tokens: list[int]) -> bytes:
    """What the console prints for the tokens that follow a prompt."""
    text = decode(tokenizer, tokens, prompt_tokens(tokenizer, prompt)[-1])
    return text.replace(END_OF_TRANSMISSION, b"") + b"\n"


def check_lines(graph: Graph, tokens: list[int]) -> bytes:
    """What `#check` prints for greedy tokens: the index, the next token and FNV-1a over the logits."""
    logits = Simulator(graph).feed(tokens)
    lines = (f"{i} {int(row.argmax())} {fnv1a(row.astype('<i4').tobytes()):08x}\n" for i, row in enumerate(logits))
    return "".join(lines).encode()


def fnv1a(content: bytes) -> int:
    value = 2166136261
    for byte in content:
        value = (value ^ byte) * 16777619 & 0xFFFFFFFF
    return value


def _console_mismatch(rung: str, title: str, expected: bytes, observed: bytes, hint: str) -> MismatchError:
    ours, theirs = expected.splitlines(), observed.splitlines()
    line = next(
        (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )
    shown = [lines[line].decode(errors="replace") if line < len(lines) else "nothing" for lines in (theirs, ours)]
    return MismatchError(
        f"{title} prints {shown[0]!r} in line {line + 1}, not {shown[1]!r}",
        where=rung,
        hint=hint,
    )


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
        if ladder.profile.stack_bytes is not None:
            lines.append(f"stack used by a step: {ladder.profile.stack_bytes} B")
    return "\n".join(lines) + "\n"
