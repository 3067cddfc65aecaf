"""Commands about the integers themselves: quantize, eval."""

from __future__ import annotations

import itertools
from pathlib import Path

import click

from mcugen import pipeline, sources
from mcugen.boards import load_board
from mcugen.cli import options
from mcugen.cli.choice import open_named, quantize_named, recipe_of
from mcugen.cli.options import AT_LEAST_1, EPILOG, PATH, Choice, choose, with_options
from mcugen.cli.terminal import mcugen, print_json, print_sheets, progress_bars
from mcugen.errors import UsageError
from mcugen.eval_report import eval_json, eval_sheets, stream_sheets, sweep_json, sweep_sheets
from mcugen.integers import quantize_by_choice
from mcugen.layout import lay_out
from mcugen.project import write_file
from mcugen.quantized_file import save_quantized
from mcugen.sources import open_source
from mcugen.sweep import sweep as run_sweep
from mcugen.sweep_plot import check_plot, sweep_plot
from mcugen.trials import OWN_SAMPLES, Options, Trial, parse_axes, run_trial


@mcugen.command(epilog=EPILOG, short_help="Write the integers and the vocabulary as one file.")
@with_options(options.named, options.as_json)
@click.option("--out", type=PATH, metavar="FILE", help="Where to write.  [default: MODEL.safetensors]")
def quantize(choice: Choice, as_json: bool, out: Path | None) -> None:
    """Write the integers and the vocabulary as one file, which every command takes as MODEL."""
    with progress_bars() as progress:
        source = open_named(choice)
        quantized, precisions = quantize_by_choice(
            source, choice.calibrate, progress, recipe_of(choice), choice.fc, choice.distill_text
        )
    content = save_quantized(quantized, source.tokenizer)
    path = out or Path(f"{source.name}.safetensors")
    write_file(content, path)
    if as_json:
        facts: dict[str, object] = {"out": str(path), "bytes": len(content), "recipe": quantized.recipe}
        print_json(facts if precisions is None else {**facts, "precisions": precisions.to_json()})
    else:
        print_sheets([] if precisions is None else [precisions.sheet()])
        click.echo(f"{path}: {len(content):,} B, {quantized.recipe}")


@mcugen.command(name="eval", epilog=EPILOG, short_help="Measure what the integers cost against float.")
@with_options(
    options.integers,
    options.distill,
    options.distill_text,
    options.fc,
    options.host_board,
    options.context,
    choose,
    options.as_json,
)
@click.option("--text", type=PATH, metavar="FILE", help="What to predict; paragraphs outside ASCII are dropped.")
@click.option(
    "--tokens",
    type=AT_LEAST_1,
    default=20_000,
    show_default=True,
    metavar="N",
    help="How many of its tokens.",
)
@click.option(
    "--cases",
    type=PATH,
    metavar="FILE",
    help='What to answer: prompt TAB answer, or .jsonl of {"prompt", "answer"}.',
)
@click.option(
    "--sweep",
    multiple=True,
    metavar="AXIS",
    help="Try options side by side: recipe=w8,w4 or budget=5bits,2% or calibrate=own,FILE or context=N,N or "
    "fc=custom,builtin; may be given once for each.",
)
@click.option("--stream", type=AT_LEAST_1, metavar="N", help="Predict streams of N tokens, past the trained context.")
@click.option(
    "--sinks",
    "stream_sinks",
    metavar="S|auto",
    help="First tokens that a stream remembers for ever; auto: as many as help the float model.  [default: 0]",
)
@click.option("--jobs", type=AT_LEAST_1, metavar="N", help="Processes of a sweep.  [default: one for each core]")
@click.option("--plot", type=PATH, metavar="FILE", help="Draw a sweep as .png or .svg; needs matplotlib.")
def evaluate(
    choice: Choice,
    as_json: bool,
    text: Path | None,
    tokens: int,
    cases: Path | None,
    sweep: tuple[str, ...],
    stream: int | None,
    stream_sinks: str | None,
    jobs: int | None,
    plot: Path | None,
) -> None:
    """Measure what the integers cost against float.

    On a text: perplexity, KL divergence, top-1 agreement, each op's error. On the cases of a task: exact answers; the
    model that ships with mcugen has cases of its own.
    """
    if stream is not None:
        _stream(choice, as_json, text, tokens, stream, stream_sinks, cases is not None or bool(sweep))
        return
    if stream_sinks is not None:
        raise UsageError(
            "--sinks is for streams longer than the context",
            where="--sinks",
            hint="add --stream 2304, or leave it out",
        )
    if text is None and cases is None:
        cases = sources.default_cases(choice.model)
    if sweep:
        _sweep(choice, as_json, text, tokens, cases, sweep, jobs, plot)
        return
    for option, given in (("--jobs", jobs), ("--plot", plot)):
        if given is not None:
            raise UsageError(f"{option} is for a sweep", where=option, hint="add --sweep w8,w4, or leave it out")
    found = exact = None
    with progress_bars() as progress:
        source, quantized = quantize_named(choice, progress)
        graph = lay_out(quantized, source.tokenizer, load_board(choice.board), choice.context).graph
        if text is not None:
            found = pipeline.measure(source, graph, text, tokens, progress)
        if cases is not None:
            exact = pipeline.measure_cases(source, graph, cases, progress)
    if as_json:
        print_json(eval_json(source.tokenizer, found, exact))
    else:
        print_sheets(eval_sheets(source.name, source.tokenizer, found, exact))


def _stream(
    choice: Choice, as_json: bool, text: Path | None, tokens: int, length: int, typed: str | None, other: bool
) -> None:
    if text is None or other:
        raise UsageError(
            "a stream is measured on a text alone",
            where="--stream",
            hint="add --text FILE, without --cases and --sweep",
        )
    if typed not in (None, "auto") and not typed.isdecimal():
        raise UsageError(f"{typed!r} is no number of sinks", where="--sinks", hint="--sinks 4, or --sinks auto")
    sinks = None if typed == "auto" else int(typed or 0)
    with progress_bars() as progress:
        source, quantized = quantize_named(choice, progress)
        board = load_board(choice.board)
        found = pipeline.measure_stream(
            source,
            lambda sinks: lay_out(quantized, source.tokenizer, board, choice.context, sinks=sinks),
            text,
            tokens,
            length,
            sinks,
            progress,
        )
    if as_json:
        print_json(found.to_json())
    else:
        print_sheets(stream_sheets(source.name, found))


def _sweep(
    choice: Choice,
    as_json: bool,
    text: Path | None,
    tokens: int,
    cases: Path | None,
    words: tuple[str, ...],
    jobs: int | None,
    plot: Path | None,
) -> None:
    for option, given in (
        ("--lora", choice.lora),
        ("--vocab-from", choice.vocab_from),
        ("--prune", choice.prune),
        ("--values", choice.values),
        ("--distill", choice.distill),
        ("--distill-text", choice.distill_text),
    ):
        if given is not None:
            in_file = option in ("--prune", "--values", "--distill")
            raise UsageError(
                f"a sweep takes no {option}",
                where=option,
                hint="state it in a recipe file, and name that in --sweep" if in_file else "leave it out",
            )
    axes, options = parse_axes(words, _options_of(choice))
    if plot is not None:
        check_plot(plot)
    source = open_source(choice.model, choice.tokenizer)  # before any process starts
    pipeline.float_model(source)
    trials = [Trial(o, choice.model, choice.tokenizer, choice.board, text, tokens, cases) for o in options]
    with progress_bars() as progress:
        done = itertools.count(1)
        progress("trials", 0, len(trials))
        results = run_sweep(
            trials, run_trial, jobs=jobs, completed=lambda _: progress("trials", next(done), len(trials))
        )
    if plot is not None:
        write_file(sweep_plot(source.name, axes, results, plot), plot)
    if as_json:
        print_json(sweep_json(source.tokenizer, results))
    else:
        print_sheets(sweep_sheets(source.name, axes, results))


def _options_of(choice: Choice) -> Options:
    """Where a sweep starts from: what the other options say."""
    return Options(
        recipe=choice.recipe,
        budget=choice.budget,
        calibrate=OWN_SAMPLES if choice.calibrate is None else str(choice.calibrate),
        context=choice.context,
        fc=choice.fc,
    )
