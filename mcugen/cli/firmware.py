"""Commands from a model to firmware: plan, build, export, verify, matrix, bench, run."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from mcugen import bench as benches
from mcugen import pipeline
from mcugen.bench_report import bench_sheets, comparison_sheets, gemv_sheets
from mcugen.boards import load_board
from mcugen.cli import options
from mcugen.cli.choice import command_of, lay_out_microtvm_named, lay_out_named, lay_out_tflm_named, recipe_of
from mcugen.cli.options import AT_LEAST_0, AT_LEAST_1, EPILOG, PATH, Choice, with_options
from mcugen.cli.terminal import mcugen, print_answer, print_json, print_sheets, progress_bars, prompts, share_of
from mcugen.errors import MismatchError, UsageError
from mcugen.export import ECOSYSTEMS
from mcugen.gemv import gemv_bench
from mcugen.ladder import Ladder, climb, climb_board
from mcugen.layout import make_firmware, plan_facts, plan_text
from mcugen.matrix import matrix_json, matrix_sheet, measure_point, points
from mcugen.microtvm.target import build_microtvm_folder, microtvm_sheets, verify_microtvm
from mcugen.sampler import make_sampler
from mcugen.serial_console import BAUD, open_console
from mcugen.sources import open_source
from mcugen.sweep import sweep as run_sweep
from mcugen.tflm.report import tflm_sheets
from mcugen.tflm.target import build_tflm_folder, custom_twin, tflm_facts, verify_tflm


@mcugen.command(epilog=EPILOG, short_help="Write a C project with its firmware and reports.")
@with_options(options.targeted, options.laid_out, options.toolchain, options.as_json)
@click.option("--out", type=PATH, metavar="DIR", help="Where to write.  [default: build/MODEL-BOARD, and -TARGET]")
@click.option(
    "--verify-tokens", type=AT_LEAST_0, default=160, show_default=True, metavar="N", help="Tokens to verify."
)
def build(
    choice: Choice,
    toolchain: str,
    as_json: bool,
    out: Path | None,
    verify_tokens: int,
) -> None:
    """Write a C project with its firmware, memory report and verification report; or what --target says.

    An earlier result in DIR is replaced; anything else there is left alone. Where the firmware differs from the
    simulator, or something is missing, nothing is written.
    """
    if choice.target == "tflm":
        _build_tflm(choice, toolchain, as_json, out, verify_tokens)
        return
    if choice.target == "microtvm":
        _build_microtvm(choice, toolchain, as_json, out, verify_tokens)
        return
    with progress_bars() as progress:
        source, layout, command = lay_out_named(choice, progress)
        folder = out or Path("build") / f"{layout.name}-{layout.board.name}"
        built = pipeline.build_folder(
            source,
            layout.graph.model,
            layout,
            folder,
            toolchain=toolchain,
            command=command,
            tokens=verify_tokens,
            progress=progress,
        )
    _print_built(built, as_json)


@mcugen.command(epilog=EPILOG, short_help="Write the C as a library for another build system.")
@click.option("--as", "ecosystem", type=click.Choice(list(ECOSYSTEMS)), required=True, help="Whose layout.")
@with_options(options.laid_out, options.toolchain, options.as_json)
@click.option("--out", type=PATH, metavar="DIR", help="Where to write.  [default: build/MODEL-BOARD-ECOSYSTEM]")
@click.option(
    "--verify-tokens", type=AT_LEAST_0, default=160, show_default=True, metavar="N", help="Tokens to verify."
)
def export(
    choice: Choice, ecosystem: str, toolchain: str, as_json: bool, out: Path | None, verify_tokens: int
) -> None:
    """Write model, kernels and runtime as a library for another build system, with an example application.

    The kernels are those of the board's core; --board host has portable C for any. The library never has main, a
    heap, the UART or a linker script. The same C is verified as firmware first; where a bit differs, nothing is
    written.
    """
    with progress_bars() as progress:
        _, layout, _ = lay_out_named(choice, progress, library=True)
        folder = out or Path("build") / f"{layout.name}-{layout.board.name}-{ecosystem}"
        ladder = pipeline.export_folder(
            layout,
            ecosystem,
            folder,
            toolchain=toolchain,
            command=command_of(choice, layout.board, f"export --as {ecosystem}"),
            tokens=verify_tokens,
            progress=progress,
        )
    if as_json:
        print_json({"out": str(folder), "verification": ladder.to_json() if ladder else None})
        return
    click.echo(f"{layout.graph.model.name} for {layout.board.name} as a {ECOSYSTEMS[ecosystem].title}: {folder}")
    _print_ladder(ladder)


def _print_built(built: pipeline.Built, as_json: bool, more: Mapping[str, object] | None = None) -> None:
    layout, folder = built.layout, built.out
    firmware, demand = built.firmware, layout.demand
    ram = firmware.static_bytes + firmware.stack_bytes
    if as_json:
        print_json(
            {
                "out": str(folder),
                "flash_bytes": firmware.flash_bytes,
                "ram_bytes": ram,
                "toolchain": firmware.toolchain,
                "plan": plan_facts(layout),
                "verification": built.ladder.to_json() if built.ladder else None,
                **(more or {}),
            }
        )
        return
    table = Table(title=f"{layout.graph.model.name} on {layout.board.name}", show_header=False, title_justify="left")
    if layout.board.core != "host":
        table.add_row("flash", share_of(firmware.flash_bytes, layout.board.flash.size))
        table.add_row("RAM", f"{share_of(ram, layout.board.ram.size)}, of which KV ring {demand.ring:,} B")
    table.add_row("context", f"{layout.graph.context} tokens (at most {layout.largest_context} fit)")
    table.add_row("toolchain", firmware.toolchain)
    table.add_row("written to", str(folder))
    Console().print(table)
    _print_ladder(built.ladder)


def _build_tflm(choice: Choice, toolchain: str, as_json: bool, out: Path | None, verify_tokens: int) -> None:
    with progress_bars() as progress:
        source, tflm, command = lay_out_tflm_named(choice, progress)
        layout = tflm.layout
        folder = out or Path("build") / f"{layout.name}-{layout.board.name}-tflm"
        built = build_tflm_folder(
            source,
            custom_twin(source, layout.graph.model, choice.calibrate, progress, recipe_of(choice)),
            tflm,
            folder,
            toolchain=toolchain,
            command=command,
            tokens=verify_tokens,
            progress=progress,
        )
    if as_json:
        print_json(
            {
                "out": str(folder),
                "plan": plan_facts(layout),
                "tflm": tflm_facts(tflm),
                "comparison": built.comparison.to_json() if built.comparison else None,
                "verification": built.ladder.to_json() if built.ladder else None,
            }
        )
        return
    print_sheets(tflm_sheets(tflm, built.comparison, str(folder)))
    _print_ladder(built.ladder)


def _build_microtvm(choice: Choice, toolchain: str, as_json: bool, out: Path | None, verify_tokens: int) -> None:
    with progress_bars() as progress:
        source, layout, command = lay_out_microtvm_named(choice, progress)
        found = build_microtvm_folder(
            source,
            layout.graph.model,
            layout,
            out or Path("build") / f"{layout.name}-{layout.board.name}-microtvm",
            toolchain=toolchain,
            command=command,
            tokens=verify_tokens,
            progress=progress,
        )
    costs = None if found.costs is None else [cost.to_json() for cost in found.costs]
    _print_built(found.built, as_json, {"costs": costs})
    if not as_json:
        print_sheets(microtvm_sheets(found))


def _print_ladder(ladder: Ladder | None) -> None:
    if ladder is None:
        click.echo("not verified (--verify-tokens 0)")
        return
    table = Table(title="verification", title_justify="left")
    for column in ("rung", "machine", "verdict", "tokens", "values compared"):
        table.add_column(column, justify="right" if column in ("tokens", "values compared") else "left")
    for report in ladder.reports:
        verdict = "equal" if report.difference is None else "different"
        table.add_row(report.rung, report.machine, verdict, str(report.tokens), f"{report.values:,}")
    for skipped in ladder.skipped:
        table.add_row(skipped.rung, skipped.why, "skipped", "", "")
    Console().print(table)
    if ladder.instructions_per_token is not None:
        positions = f"positions 0 to {ladder.profiled_tokens - 1}"
        click.echo(f"instructions per token, {positions}: {ladder.instructions_per_token:,.0f}")


@mcugen.command(epilog=EPILOG, short_help="Compare the firmware with the simulator, op by op.")
@with_options(options.targeted, options.laid_out, options.toolchain, options.as_json)
@click.option("--tokens", type=AT_LEAST_1, default=600, show_default=True, metavar="N", help="Greedy tokens to feed.")
@click.option("--port", metavar="PORT", help="Compare the board at this serial port instead; auto finds it.")
def verify(
    choice: Choice,
    toolchain: str,
    as_json: bool,
    tokens: int,
    port: str | None,
) -> None:
    """Compare the firmware with the simulator, op by op: exit code 0 where all is equal, 6 where not.

    First the C on this computer, with sanitizers; then the ELF that is flashed, in an emulator; then its console.
    With --port, the console of a real board that runs what `mcugen build` made of the same options: tokens, hashes of
    their logits, and a sampled text.
    """
    if port is not None and choice.target != "c":
        raise UsageError("--port is for --target c", where="--port", hint="leave one of them out")
    with progress_bars() as progress:
        if port is not None:
            _, layout, command = lay_out_named(choice, progress)
            baud = dict(layout.board.port_defines).get("MG_UART_BAUD", BAUD)
            with closing(open_console(None if port == "auto" else port, baud)) as console:
                ladder = climb_board(layout, console, tokens, command, progress=progress)
        elif choice.target == "tflm":
            _, tflm, command = lay_out_tflm_named(choice, progress)
            ladder = verify_tflm(tflm, tokens, command, toolchain=toolchain, progress=progress)
        elif choice.target == "microtvm":
            _, layout, command = lay_out_microtvm_named(choice, progress)
            ladder = verify_microtvm(layout, tokens, command, toolchain=toolchain, progress=progress)
        else:
            _, layout, command = lay_out_named(choice, progress)
            firmware = None
            if layout.board.core != "host":
                firmware = make_firmware(layout, toolchain, command, progress)
            ladder = climb(layout, firmware, tokens, command, toolchain=toolchain, progress=progress)
    if as_json:
        print_json(ladder.to_json())
    else:
        _print_ladder(ladder)
    ladder.raise_for_difference()


@mcugen.command(epilog=EPILOG, short_help="Verify on every board, with every compiler.")
@with_options(options.model, options.tokenizer)
@click.option("--board", "names", multiple=True, metavar="BOARD", help="Only this one; may be given several times.")
@click.option("--toolchain", "compilers", multiple=True, metavar="NAME", help="zig or gcc.  [default: both]")
@click.option("--context", default=128, show_default=True, metavar="N", help="Tokens remembered, where they fit.")
@click.option("--tokens", type=AT_LEAST_1, default=160, show_default=True, metavar="N", help="Greedy tokens to feed.")
@click.option("--jobs", type=AT_LEAST_1, metavar="N", help="Processes.  [default: one for each core]")
@options.as_json
def matrix(
    model: Path | None,
    tokenizer: Path | None,
    names: tuple[str, ...],
    compilers: tuple[str, ...],
    context: int,
    tokens: int,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Verify on every board, with every compiler: instructions, bytes and a verdict for each.

    Exit code 6 where any differs or fails.
    """
    found = points(model, tokenizer, names, compilers, context, tokens)
    name = open_source(model, tokenizer).name
    with progress_bars() as progress:
        done = itertools.count(1)
        progress("boards", 0, len(found))
        results = run_sweep(
            found, measure_point, jobs=jobs, completed=lambda _: progress("boards", next(done), len(found))
        )
    if as_json:
        print_json(matrix_json(results))
    else:
        print_sheets([matrix_sheet(name, results)])
    failed = [result for result in results if result.error is not None]
    if failed:
        first = failed[0]
        raise MismatchError(
            f"{len(failed)} of {len(results)} fail, {first.point.board} with {first.point.toolchain} first: "
            f"{first.error}",
            where="matrix",
            hint="mcugen verify with that board and compiler tells more",
        )


@mcugen.command(epilog=EPILOG, short_help="Count instructions: by position, part, layer and matrix.")
@with_options(options.laid_out, options.toolchain, options.as_json)
@click.option(
    "--positions", default="0-63", show_default=True, metavar="A-B", help="Take the mean over these; 0 is the first."
)
@click.option(
    "--compare",
    type=PATH,
    metavar="FILE",
    help="Print ratios to an earlier result of bench, made with --json.",
)
@click.option("--gemv", is_flag=True, help="Measure the board's matrix kernels on fixed shapes; takes no model.")
def bench(
    choice: Choice,
    toolchain: str,
    as_json: bool,
    positions: str,
    compare: Path | None,
    gemv: bool,
) -> None:
    """Count the instructions of a token on an emulated board: exact counts; cycles are an estimate, as a range.

    The position of a token is the number of tokens before it. The firmware reads its own greedy tokens; where a logit
    is not the simulator's, it ends with exit code 6.
    """
    if gemv:
        _bench_gemv(choice, toolchain, as_json, compare)
        return
    first, last = benches.parse_positions(positions)
    earlier = None if compare is None else benches.read_bench(compare)
    with progress_bars() as progress:
        _, layout, command = lay_out_named(choice, progress)
        firmware = make_firmware(layout, toolchain, command, progress)
        found = benches.bench(layout, firmware, first, last, progress)
    result = found.to_json()
    ratios = None if earlier is None else benches.compare(result, earlier)
    if as_json:
        print_json(result if ratios is None else {**result, "new_to_old": ratios})
        return
    print_sheets(bench_sheets(found))
    if ratios is not None:
        print_sheets(comparison_sheets(ratios, str(compare)))


def _bench_gemv(choice: Choice, toolchain: str, as_json: bool, compare: Path | None) -> None:
    if choice.model is not None or compare is not None:
        raise UsageError(
            f"--gemv takes no {'model' if choice.model is not None else '--compare'}: its shapes are fixed",
            where="bench",
            hint="leave one of them out",
        )
    with progress_bars() as progress:
        found = gemv_bench(load_board(choice.board), toolchain, progress)
    if as_json:
        print_json(found.to_json())
    else:
        print_sheets(gemv_sheets(found))


@mcugen.command(epilog=EPILOG, short_help="Talk to the model on an emulated board.")
@with_options(options.laid_out, options.toolchain, options.as_json)
@click.option("--prompt", metavar="TEXT", help="What to type.  [default: every line of standard input]")
@options.sampled
@click.option("--quiet", is_flag=True, help="Print the generated text and nothing else.")
def run(
    choice: Choice,
    toolchain: str,
    as_json: bool,
    prompt: str | None,
    tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    quiet: bool,
) -> None:
    """Type a prompt at the emulated board's UART and stream its answer (--board host: on this computer).

    With --json, one line of JSON for each answer.
    """
    sampler = make_sampler(temperature, top_k, top_p, seed)
    with progress_bars(hidden=quiet) as progress:
        _, layout, command = lay_out_named(choice, progress)
        firmware = make_firmware(layout, toolchain, command, progress)
    if not quiet and not as_json:
        where = "on this computer" if layout.board.core == "host" else f"on an emulated {layout.board.name}"
        click.echo(f"{layout.graph.model.name} {where}, context {layout.graph.context}", err=True)
    for typed in prompts(prompt, quiet):
        parts = pipeline.run_prompt(layout, firmware, typed, sampler, tokens)
        text = typed.decode(errors="replace")
        facts = {"model": layout.graph.model.name, "board": layout.board.name, "prompt": text}
        print_answer(parts, facts if as_json else None)


@mcugen.command(epilog=EPILOG, short_help="Show where every byte goes, and what would make it fit.")
@with_options(options.laid_out, options.as_json)
def plan(
    choice: Choice,
    as_json: bool,
) -> None:
    """Show where every byte goes, why the peak is where it is, and what would make it fit."""
    with progress_bars() as progress:
        _, layout, _ = lay_out_named(choice, progress)
    if as_json:
        print_json(plan_facts(layout))
    else:
        click.echo(plan_text(layout), nl=False)
