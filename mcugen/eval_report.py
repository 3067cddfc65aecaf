"""What `mcugen eval` found: tables of text for people, JSON for machines. README.md documents the keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mcugen.cases import Answered, ExactMatch
from mcugen.evaluate import Evaluation, WorstToken
from mcugen.ir import Tokenizer
from mcugen.layer_errors import OpError
from mcugen.pipeline import TextQuality
from mcugen.sheet import Sheet
from mcugen.statistics import Interval
from mcugen.stream import Streamed
from mcugen.sweep import SweepResult
from mcugen.tokenizer import decode
from mcugen.trials import Options, Trial, Tried, front

WORST_SHOWN = 5
CASES_SHOWN = 10
WIDTH = 32  # characters of a text in a table
# A layer's ops in a table, and what their columns are called; blocks and RoPE are in the JSON.
COLUMNS = {
    "att_norm": "norm", "wq": "q", "wk": "k", "wv": "v", "attention": "attention", "wo": "+ wo",
    "ffn_norm": "norm", "w1": "gate", "w3": "up", "swiglu": "swiglu", "w2": "+ w2",
}  # fmt: skip


def eval_json(tokenizer: Tokenizer, text: TextQuality | None, exact: ExactMatch | None) -> dict[str, object]:
    """The keys of a text's quality, if there is one, and "cases", if there are."""
    found: dict[str, object] = {}
    if text is not None:
        found |= _text_json(tokenizer, text)
    if exact is not None:
        found["cases"] = _cases_json(exact)
    return found


def _text_json(tokenizer: Tokenizer, text: TextQuality) -> dict[str, object]:
    return {
        **asdict(text.evaluation),
        "worst": [_worst_json(tokenizer, worst) for worst in text.evaluation.worst],
        "greedy": asdict(text.greedy),
        "layers": [{**asdict(error), "snr_db": error.snr_db} for error in text.layers],
    }


def _worst_json(tokenizer: Tokenizer, worst: WorstToken) -> dict[str, object]:
    return {
        **asdict(worst),
        "text_before": _decoded(tokenizer, worst.before),
        "text": _decoded(tokenizer, [worst.token]),
        "float_text": _decoded(tokenizer, [worst.float_token]),
        "integer_text": _decoded(tokenizer, [worst.integer_token]),
    }


def _decoded(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    return decode(tokenizer, ids).decode(errors="replace")


def _cases_json(exact: ExactMatch) -> dict[str, object]:
    total = len(exact.answered)
    return {
        "total": total,
        "float": _share_json(exact, exact.float_right),
        "integer": _share_json(exact, exact.integer_right),
        "same": _share_json(exact, exact.same),
        "both_right": exact.count(True, True),
        "only_float_right": exact.count(True, False),
        "only_integer_right": exact.count(False, True),
        "both_wrong": exact.count(False, False),
        "mcnemar_p": exact.chance,
        "differing": [_answered_json(a) for a in exact.answered if a.floats != a.integers],
        "wrong": [_answered_json(a) for a in exact.answered if not a.integer_right],
    }


def _share_json(exact: ExactMatch, count: int) -> dict[str, object]:
    return {"count": count, "share": count / len(exact.answered), "interval": list(exact.interval(count))}


def _answered_json(a: Answered) -> dict[str, object]:
    return {**asdict(a.case), "float": a.floats, "integer": a.integers}


def eval_sheets(name: str, tokenizer: Tokenizer, text: TextQuality | None, exact: ExactMatch | None) -> list[Sheet]:
    sheets = []
    if text is not None:
        sheets += [_figures(name, text), _layers(text.layers), _worst(tokenizer, text.evaluation.worst)]
    if exact is not None:
        sheets += [_exact(name, exact), *_differing(exact)]
    return sheets


def stream_sheets(name: str, found: Streamed) -> list[Sheet]:
    spans = [("all tokens", found.whole), *([(f"past {found.trained}", found.beyond)] if found.beyond else [])]
    rows = [
        (
            which,
            f"{span.tokens:,}",
            f"{span.float_perplexity:.4f}",
            f"{span.integer_perplexity:.4f}",
            f"{100 * span.perplexity_change:+.2f}{_error(span.standard_error)} %",
            f"{span.kl:.5f}",
            f"{100 * span.top1:.2f} %",
        )
        for which, span in spans
    ]
    title = (
        f"{name}, {found.streams} streams of {found.length:,} tokens, context {found.context}, sinks {found.sinks}, "
        f"{found.rebasings} re-basings each"
    )
    columns = ("", "tokens", "float", "integers", "change", "KL, nats", "top-1")
    sheets = [Sheet(title, columns, tuple(rows), note="perplexity; ± is one standard error, clustered by stream")]
    if found.tried:
        tried = [
            (str(t.sinks), f"{t.perplexity:.4f}", f"{100 * t.change:+.2f}{_error(t.standard_error)} %")
            for t in found.tried
        ]
        sheets.append(Sheet("sinks, float model", ("sinks", "perplexity", "change"), tuple(tried)))
    return sheets


def _error(error: float | None) -> str:
    return "" if error is None else f" ± {100 * error:.2f}"


def _figures(name: str, text: TextQuality) -> Sheet:
    e, runs = text.evaluation, text.greedy

    def figure(name: str, form: str, unit: str = "", interval_form: str = "") -> str:
        factor = 100 if unit == " %" else 1
        interval = None if e.intervals is None else getattr(e.intervals, name)
        between = _between(interval, interval_form or form, factor)
        return f"{factor * getattr(e, name):{form}}{unit}{between and f' ({between})'}"

    rows = (
        ("perplexity, float", figure("float_perplexity", ".4f", "", ".3f")),
        ("perplexity, integers", figure("integer_perplexity", ".4f", "", ".3f")),
        ("change", figure("perplexity_change", "+.2f", " %")),
        ("KL divergence", figure("kl", ".5f", " nats per token")),
        ("top-1 agreement", figure("top1", ".2f", " %")),
        ("greedy runs", f"the first {runs.prefix} of {runs.tokens} tokens are the same"),
    )
    note = f"in brackets: 95 % confidence, from {e.sequences} sequences of at most {e.length} tokens"
    return Sheet(f"{name}, {e.tokens:,} tokens", (), rows, note="" if e.intervals is None else note)


def _between(interval: Interval | None, form: str, factor: int = 1) -> str:
    return "" if interval is None else f"{factor * interval[0]:{form}} to {factor * interval[1]:{form}}"


def _layers(errors: Sequence[OpError]) -> Sheet:
    """Layers down, ops across, in percent."""
    cells = {(error.layer, error.op): f"{100 * error.error:.2f}" for error in errors}
    layers = sorted({error.layer for error in errors if error.layer is not None})
    rows = [(str(layer), *(cells.get((layer, op), "") for op in COLUMNS)) for layer in layers]
    ends = ", ".join(
        f"{op} {cells[None, op]} %" for op in ("embedding", "final_norm", "logits") if (None, op) in cells
    )
    note = f"{ends}; all is RMS difference to float over RMS of float, and holds what was lost before"
    return Sheet("where it is lost, in % of each op's values", ("layer", *COLUMNS.values()), tuple(rows), note=note)


def _worst(tokenizer: Tokenizer, worst: Sequence[WorstToken]) -> Sheet:
    rows = []
    for w in worst[:WORST_SHOWN]:
        tokens = (_shown(tokenizer, token) for token in (w.token, w.float_token, w.integer_token))
        rows.append((_tail(_decoded(tokenizer, w.before)), *tokens, f"{w.kl:.3f}"))
    columns = ("after", "the text has", "float says", "integers say", "KL")
    return Sheet("the tokens that differ most", columns, tuple(rows), frozenset({1, 2, 3}))


def _shown(tokenizer: Tokenizer, token: int) -> str:
    return repr(_decoded(tokenizer, [token]))


def _tail(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= WIDTH else f"…{shown[1 - WIDTH :]}"


def _head(text: str) -> str:
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


def _exact(name: str, exact: ExactMatch) -> Sheet:
    total = len(exact.answered)

    def row(what: str, count: int) -> tuple[str, str]:
        return what, f"{count:,}, {100 * count / total:.1f} % ({_between(exact.interval(count), '.1f', 100)})"

    one, other = exact.count(True, False), exact.count(False, True)
    rows = (
        row("right, float", exact.float_right),
        row("right, integers", exact.integer_right),
        row("the same answer", exact.same),
        ("right by float alone", str(one)),
        ("right by integers alone", str(other)),
    )
    note = f"in brackets: 95 % confidence; chance of so uneven a split were both as good: {exact.chance:.2f}"
    return Sheet(f"{name}, {total:,} cases", (), rows, note=note)


def _differing(exact: ExactMatch) -> list[Sheet]:
    found = [a for a in exact.answered if a.floats != a.integers]
    rows = [
        (str(a.case.line), *map(_head, (a.case.prompt, a.case.answer, a.floats, a.integers)))
        for a in found[:CASES_SHOWN]
    ]
    columns = ("line", "prompt", "asked for", "float", "integers")
    more = f"and {len(found) - CASES_SHOWN} more: --json has all" if len(found) > CASES_SHOWN else ""
    sheet = Sheet("cases with different answers", columns, tuple(rows), frozenset({1, 2, 3, 4}), more)
    return [sheet] if found else []


# ---------------------------------------------------------------- sweep


def sweep_json(tokenizer: Tokenizer, results: Sequence[SweepResult[Trial, Tried]]) -> dict[str, object]:
    """points: in the order of the sweep. Of a point that failed, error says why, and what was to be measured is
    null."""
    points = [_point_json(tokenizer, result, best) for result, best in zip(results, front(results), strict=True)]
    return {"loss": loss_name(results), "points": points}


def loss_name(results: Sequence[SweepResult[Trial, Tried]]) -> str:
    return "wrong answers" if all(r.point.text is None for r in results) else "integer perplexity"


def _point_json(tokenizer: Tokenizer, result: SweepResult[Trial, Tried], best: bool) -> dict[str, object]:
    tried = result.value
    measured = None if tried is None else eval_json(tokenizer, tried.text, tried.exact)
    return {
        "options": asdict(result.point.options),
        "error": result.error,
        "recipe": None if tried is None else tried.recipe,
        "context": None if tried is None else tried.context,
        "constant_bytes": None if tried is None else tried.constant_bytes,
        "flash_bytes": None if tried is None else tried.flash_bytes,
        "ram_bytes": None if tried is None else tried.ram_bytes,
        "loss": None if tried is None else tried.loss,
        "pareto": best,
        "measured": measured,
    }


def point_name(axes: Sequence[str], options: Options) -> str:
    """What a point is called among those that differ in `axes`."""
    values = {**asdict(options), "calibrate": Path(options.calibrate).name}
    return ", ".join(f"{values[axis]}" if axis in ("recipe", "budget") else f"{axis} {values[axis]}" for axis in axes)


def sweep_sheets(name: str, axes: Sequence[str], results: Sequence[SweepResult[Trial, Tried]]) -> list[Sheet]:
    tried = [r.value for r in results if r.value is not None]
    text = any(t.text is not None for t in tried)
    exact = any(t.exact is not None for t in tried)
    ram = len({t.ram_bytes for t in tried}) > 1
    columns = ["", "weights, B"]
    columns += ["RAM, B"] if ram else []
    columns += ["perplexity", "change, %", "KL"] if text else []
    columns += ["right"] if exact else []
    rows = []
    for result, best in zip(results, front(results), strict=True):
        cells = [""] * (len(columns) - 1) if result.value is None else _cells(result.value, ram)
        rows.append((point_name(axes, result.point.options), *cells, "*" if best else ""))
    failed = [
        f"{point_name(axes, r.point.options)}: {r.error.splitlines()[0]}" for r in results if r.error is not None
    ]
    note = f"* no other point has fewer bytes{' of weights and of RAM' if ram else ''} and less {loss_name(results)}"
    title = f"{name} on {results[0].point.board}"
    return [Sheet(title, (*columns, "best"), tuple(rows), note="\n".join([note, *failed]))]


def _cells(tried: Tried, ram: bool) -> list[str]:
    cells = [f"{tried.constant_bytes:,}", *([f"{tried.ram_bytes:,}"] if ram else [])]
    if tried.text is not None:
        e = tried.text.evaluation
        cells += [f"{e.integer_perplexity:.4f}", _change(e), f"{e.kl:.5f}"]
    if tried.exact is not None:
        cells.append(f"{tried.exact.integer_right} of {len(tried.exact.answered)}")
    return cells


def _change(e: Evaluation) -> str:
    half = "" if e.standard_error is None else f" ± {100 * e.standard_error:.2f}"
    return f"{100 * e.perplexity_change:+.2f}{half}"
