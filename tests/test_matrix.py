"""Every board that ships, with every compiler, computes the simulator's bits."""

from __future__ import annotations

import json

import pytest
import zoo
from click.testing import CliRunner

from mcugen.boards import list_boards
from mcugen.cli import mcugen
from mcugen.errors import UsageError
from mcugen.matrix import COMPILERS, Point, Row, matrix_sheet, measure_point, points
from mcugen.sweep import SweepResult

BOARDS = [board.name for board in list_boards()]
OTHER = (zoo.DATA / "stories260K.bin", zoo.DATA / "tok512.bin")


@pytest.mark.slow
@pytest.mark.parametrize("toolchain", COMPILERS)
@pytest.mark.parametrize("board", BOARDS)
def test_the_default_model_on_every_board(board: str, toolchain: str) -> None:
    row = measure_point(Point(None, None, board, toolchain, 128, 80))
    assert (row.machines and (row.instructions or 0) > 0) or board == "host"


@pytest.mark.slow
@pytest.mark.parametrize("board", [name for name in BOARDS if name != "microbit"])  # its flash is too small
def test_stories_on_every_board(board: str) -> None:
    """With the compiler that other tests of this board do not take."""
    if not OTHER[0].exists():
        pytest.skip("the checkpoint is not there")
    assert measure_point(Point(*OTHER, board, "gcc", 64, 70)).machines


def test_points_are_boards_times_compilers() -> None:
    assert [(p.board, p.toolchain) for p in points(None, None, [], [], 8, 4)] == [
        (board, toolchain) for board in BOARDS for toolchain in COMPILERS
    ]
    assert [p.board for p in points(None, None, ["nucleo"], ["gcc"], 8, 4)] == ["nucleo"]
    for boards, toolchains, context in ((["zx81"], [], 8), ([], ["cl"], 8), ([], [], 0)):
        with pytest.raises(UsageError):
            points(None, None, boards, toolchains, context, 4)


def test_a_pair_that_fails_is_told_and_is_an_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row("cortex-m4", ("a", "b"), 8, 1234.5, 20, 30, 10, 5)
    zig, gcc = points(None, None, ["nucleo"], [], 8, 4)
    results = [SweepResult(zig, None, "planted\n  where: here"), SweepResult(gcc, row, None)]
    assert matrix_sheet("home", results).rows == (
        ("nucleo zig", "", "", "", "", "", "planted"),
        ("nucleo gcc", "1,234", "20", "30", "10", "5", "equal"),
    )
    monkeypatch.setattr("mcugen.cli.firmware.run_sweep", lambda found, measure, **_: results)
    answer = CliRunner().invoke(mcugen, ["matrix", "--board", "nucleo", "--json"])
    rows = json.loads(answer.stdout)["rows"]
    assert [(r["board"], r["compiler"], r["error"]) for r in rows] == [
        ("nucleo", "zig", "planted\n  where: here"), ("nucleo", "gcc", None),
    ]  # fmt: skip
    assert rows[1]["instructions"] == 1234.5
    assert answer.exit_code == 6 and "1 of 2 fail, nucleo with zig first: planted" in answer.stderr
