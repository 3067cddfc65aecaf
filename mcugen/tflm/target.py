"""The build of the TFLite Micro target: what the commands do with --target tflm."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mcugen.costs import standalone_cost
from mcugen.fc8 import FcCost, fc8_cost, is_fc8
from mcugen.integers import quantize_source
from mcugen.ir import Firmware, QuantizedModel
from mcugen.ladder import Ladder, climb, ladder_text
from mcugen.layout import compile_project, plan_facts, plan_text
from mcugen.lower import lower
from mcugen.pipeline import build_facts, json_bytes
from mcugen.project import MARKER, check_replaceable, write_folder
from mcugen.quantized_file import save_quantized
from mcugen.recipes import Recipe
from mcugen.sources import Progress, Source, silent
from mcugen.tflm.layout import TflmLayout, for_standin, make_op_library, make_tflm_project
from mcugen.tflm.render import TflmProject, with_standin
from mcugen.tflm.report import Comparison, report_text, tflm_cost
from mcugen.tflm.rungs import interpreter_rung


@dataclass(frozen=True, slots=True, eq=False)
class TflmBuilt:
    """What is known of a finished build folder."""

    ladder: Ladder | None
    comparison: Comparison | None


def custom_twin(
    source: Source,
    model: QuantizedModel,
    calibrate: Path | None,
    progress: Progress = silent,
    recipe: Recipe | None = None,
) -> QuantizedModel | None:
    """The model for our own kernels: the one that an fc8 model was made from, or the model itself. None where it is
    an fc8 model of which nothing else is known."""
    if not is_fc8(model):
        return model
    if source.quantized is not None and is_fc8(source.quantized):
        return None
    return quantize_source(source, calibrate, progress, recipe)


def verify_tflm(
    tflm: TflmLayout, tokens: int, command: str, *, toolchain: str = "auto", progress: Progress = silent
) -> Ladder:
    """TFLM's interpreter on this computer, then the project with the stand-in interpreter on the emulated board."""
    firmware = compile_project(with_standin(make_tflm_project(tflm, command).project), toolchain, progress)
    return _climb(tflm, firmware, tokens, command, progress)


def _climb(tflm: TflmLayout, firmware: Firmware, tokens: int, command: str, progress: Progress) -> Ladder:
    on_host = tflm.layout.board.core == "host"
    named = replace(firmware, toolchain=f"{firmware.toolchain}, stand-in interpreter")
    return climb(
        for_standin(tflm),
        None if on_host else named,
        tokens,
        command,
        progress=progress,
        host=lambda rungs: interpreter_rung(rungs, tflm, command),
    )


def build_tflm_folder(
    source: Source,
    custom: QuantizedModel | None,
    tflm: TflmLayout,
    out: Path,
    *,
    toolchain: str,
    command: str,
    tokens: int,
    progress: Progress = silent,
) -> TflmBuilt:
    """Render, verify over `tokens` tokens (0: not at all), compare with the standalone target, write one folder.

    custom: the model for our own kernels, which the standalone target runs (custom_twin). Raises MismatchError, with
    nothing written, where something differs from the simulator.
    """
    check_replaceable(out)
    made = make_tflm_project(tflm, command)
    firmware = compile_project(with_standin(made.project), toolchain, progress)
    ladder = None
    if tokens:
        ladder = _climb(tflm, firmware, tokens, command, progress)
        ladder.raise_for_difference()
    comparison = None
    if tflm.layout.board.core != "host":
        comparison = _compare(source, custom, tflm, made, firmware, ladder, toolchain, command, progress)

    layout = tflm.layout
    files: dict[str, bytes] = dict(made.project.files)
    files["memory.txt"] = plan_text(layout).encode()
    files["memory.json"] = json_bytes({**plan_facts(layout), "tflm": tflm_facts(tflm)})
    files["model.safetensors"] = save_quantized(layout.graph.model, source.tokenizer)
    if comparison is not None:
        files["tflm.json"] = json_bytes(comparison.to_json())
        files["tflm.txt"] = report_text(tflm, comparison).encode()
    if ladder is not None:
        files["verification.json"] = json_bytes(ladder.to_json())
        files["verification.txt"] = ladder_text(ladder).encode()
    files[MARKER] = json_bytes({**build_facts(layout, made.project, firmware, command, files), "target": "tflm"})
    write_folder(files, out)
    return TflmBuilt(ladder, comparison)


def tflm_facts(tflm: TflmLayout) -> dict[str, object]:
    """The model and its arena, for a program; sizes in bytes."""
    return {
        "tflite_bytes": len(tflm.tflite),
        "arena_bytes": tflm.arena_bytes,
        "arena": tflm.arena.to_json(),
        "nodes": len(tflm.model.operators),
        "tensors": len(tflm.model.tensors),
    }


def _compare(
    source: Source,
    custom: QuantizedModel | None,
    tflm: TflmLayout,
    made: TflmProject,
    firmware: Firmware,
    ladder: Ladder | None,
    toolchain: str,
    command: str,
    progress: Progress,
) -> Comparison:
    """The same model and context in both targets, on the board."""
    ops = compile_project(make_op_library(tflm, command), toolchain, progress)
    standalone = None
    if custom is not None:
        standalone = standalone_cost(custom, tflm.layout, ladder, toolchain, command, progress)
    return Comparison(
        tflm_cost(tflm, firmware, ops, ladder),
        standalone,
        len(made.ops),
        len(tflm.model.tensors),
        _fc_cost(source, custom, tflm, progress),
    )


def _fc_cost(source: Source, custom: QuantizedModel | None, tflm: TflmLayout, progress: Progress) -> FcCost | None:
    """None where the model is for our own kernels, or nothing else of it is known."""
    model = tflm.layout.graph.model
    if not is_fc8(model) or custom is None:
        return None

    def show(done: int, total: int) -> None:
        progress("measure what --fc builtin costs", done, total)

    context = model.config.seq_len
    bos, eos = source.tokenizer.bos, source.tokenizer.eos
    return fc8_cost(lower(custom, context), lower(model, context), bos=bos, eos=eos, progress=show)
