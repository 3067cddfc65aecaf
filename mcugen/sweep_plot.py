"""A sweep as a picture, by matplotlib: bytes across, loss up.

The points of the Pareto front are round, and a line where they all take the same RAM.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from mcugen.errors import ToolError, UsageError
from mcugen.eval_report import loss_name, point_name
from mcugen.sweep import SweepResult
from mcugen.trials import Trial, Tried, front

FORMATS = (".png", ".svg")


def check_plot(path: Path) -> None:
    """Gate, before anything that takes its time: a format we draw, and something to draw with."""
    if path.suffix not in FORMATS:
        raise UsageError(
            f"a plot is a file that ends with {' or '.join(FORMATS)}, not {path.name}",
            where="--plot",
            hint=f"--plot {path.with_suffix('.png').name}",
        )
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ToolError("matplotlib is missing", where="--plot", hint="pip install 'mcugen[plot]'") from error


def sweep_plot(name: str, axes: Sequence[str], results: Sequence[SweepResult[Trial, Tried]], path: Path) -> bytes:
    """The content of `path`, a .png or .svg; the same bytes for the same results. Trials that failed are left out."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "mcugen"}):
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        plot = figure.subplots()
        line = []
        planes = {result.value.ram_bytes for result in results if result.value is not None}
        for result, best in zip(results, front(results), strict=True):
            if result.value is None:
                continue
            at = (result.value.constant_bytes, result.value.loss)
            line += [at] if best else []
            plot.plot(*at, "o" if best else "x", color="C0" if best else "C7")
            label = point_name(axes, result.point.options)
            plot.annotate(label, at, xytext=(5, 5), textcoords="offset points", fontsize=8)
        if len(planes) == 1:  # else the front is no line in this plane
            plot.plot(*zip(*sorted(line), strict=True), "-", color="C0", zorder=0)
        plot.set(title=name, xlabel="bytes of weights", ylabel=loss_name(results))
        content = io.BytesIO()
        figure.savefig(content, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)
    return content.getvalue()
