"""The microTVM target: what the commands do with --target microtvm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mcugen.cores import CORES
from mcugen.costs import Cost, cost_rows, firmware_cost, standalone_cost, text_table
from mcugen.ir import Board, Firmware, Project, QuantizedModel
from mcugen.ladder import Ladder, climb
from mcugen.layout import Layout, compile_project
from mcugen.microtvm.functions import functions_of
from mcugen.microtvm.layout import library_files, make_microtvm_project
from mcugen.microtvm.mlf import ModelLibrary, OperatorFunction, Tensor, write_tar
from mcugen.microtvm.render import PREFIX, constants_bytes, workspace_bytes
from mcugen.microtvm.rungs import tvm_rungs
from mcugen.pipeline import Built, build_folder, json_bytes
from mcugen.sheet import Sheet
from mcugen.sources import Progress, Source, silent

MODULE = "default"  # as TVM names it where the user gives no name
_HEADINGS = ("", "microTVM", "standalone", "ratio")


@dataclass(frozen=True, slots=True, eq=False)
class MicrotvmBuilt:
    """A finished build folder; ours and the standalone target's cost, where the board is no host."""

    built: Built
    costs: tuple[Cost, Cost] | None


def verify_microtvm(
    layout: Layout, tokens: int, command: str, *, toolchain: str = "auto", progress: Progress = silent
) -> Ladder:
    """TVM's C on this computer and its LLVM backend, then the firmware on the emulated board."""
    firmware = None
    if layout.board.core != "host":
        firmware = compile_project(make_microtvm_project(layout, command), toolchain, progress)
    return climb(
        layout,
        firmware,
        tokens,
        command,
        toolchain=toolchain,
        progress=progress,
        host=lambda rungs: tvm_rungs(rungs, command, toolchain if firmware is None else "auto"),
    )


def build_microtvm_folder(
    source: Source,
    model: QuantizedModel,
    layout: Layout,
    out: Path,
    *,
    toolchain: str,
    command: str,
    tokens: int,
    progress: Progress = silent,
) -> MicrotvmBuilt:
    """Emit, render, compile, verify over `tokens` tokens (0: not at all), compare, and write one folder.

    Raises ToolError where Apache TVM is missing; MismatchError, with nothing written, where something differs.
    """
    costs: list[tuple[Cost, Cost]] = []

    def more(project: Project, firmware: Firmware, ladder: Ladder | None) -> Mapping[str, bytes]:
        files = {f"{layout.name}.tar": model_library(layout, project)}
        if layout.board.core == "host":
            return files
        ours = firmware_cost(layout, firmware, None if ladder is None else ladder.instructions_per_token)
        costs.append((ours, standalone_cost(model, layout, ladder, toolchain, command, progress)))
        table = text_table([_HEADINGS, *cost_rows(*costs[0])])
        title = f"{model.name} on {layout.board.name}, context {layout.graph.context}, by microTVM"
        files["microtvm.txt"] = "\n".join([title, "", *table, ""]).encode()
        files["microtvm.json"] = json_bytes({"microtvm": costs[0][0].to_json(), "standalone": costs[0][1].to_json()})
        return files

    built = build_folder(
        source,
        model,
        layout,
        out,
        toolchain=toolchain,
        command=command,
        tokens=tokens,
        progress=progress,
        make=make_microtvm_project,
        host=lambda rungs: tvm_rungs(rungs, command, toolchain if layout.board.core == "host" else "auto"),
        more=more,
    )
    return MicrotvmBuilt(built, costs[0] if costs else None)


def model_library(layout: Layout, project: Project) -> bytes:
    """The tar in Model Library Format of what belongs to the library in a project."""
    graph = layout.graph
    library = ModelLibrary(
        name=MODULE,
        inputs=(Tensor("token", "int32", (1,)),),
        outputs=(Tensor("logits", "int32", (1, graph.model.config.vocab_size)),),
        workspace_bytes=workspace_bytes(layout.plan),
        constants_bytes=constants_bytes(graph),
        functions=tuple(OperatorFunction(PREFIX + function.name) for function in functions_of(graph)),
        target=tvm_target(layout.board),
        files=library_files(project),
        params={},
    )
    return write_tar(library)


def tvm_target(board: Board) -> str:
    """TVM's words for a board's core."""
    if CORES[board.core].family == "cortex_m":
        return f"c -keys=arm_cpu,cpu -mcpu={board.core}"
    return "c -keys=cpu"


def microtvm_sheets(found: MicrotvmBuilt) -> list[Sheet]:
    """The comparison for the terminal."""
    if found.costs is None:
        return []
    return [Sheet("beside the standalone target", _HEADINGS, tuple(cost_rows(*found.costs)))]
