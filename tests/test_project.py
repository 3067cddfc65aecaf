"""Writing what a user asked for: all of it or nothing, and nothing that belongs to someone else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mcugen.errors import InputError, UsageError
from mcugen.project import MARKER, check_replaceable, write_file, write_folder

FILES = {MARKER: b"{}", "main.c": b"int main(void);\n", "a/b/c.h": b"\x00\xff"}


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_written_with_its_parents(tmp_path: Path) -> None:
    write_folder(FILES, tmp_path / "new" / "out", executables=("main.c", "not-there"))
    assert content(tmp_path / "new" / "out") == FILES
    assert os.listdir(tmp_path / "new") == ["out"]
    assert os.access(tmp_path / "new/out/main.c", os.X_OK)
    assert not (tmp_path / "new/out" / MARKER).stat().st_mode & 0o111


@pytest.mark.parametrize("before", [{}, {MARKER: b"old", "stale/x": b"1"}], ids=["empty", "ours"])
def test_an_empty_folder_and_an_earlier_result_are_replaced(tmp_path: Path, before: dict[str, bytes]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for path, value in before.items():
        (out / path).parent.mkdir(exist_ok=True)
        (out / path).write_bytes(value)
    write_folder(FILES, out)
    assert content(out) == FILES
    assert os.listdir(tmp_path) == ["out"]


def test_what_mcugen_did_not_write_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "letter").write_text("dear")
    for attempt in (lambda: check_replaceable(out), lambda: write_folder(FILES, out)):
        with pytest.raises(UsageError) as raised:
            attempt()
        assert str(raised.value) == (
            f"{out} exists and is not a folder that mcugen wrote\n"
            "  where: --out\n"
            "  try:   choose another folder, or remove it: mcugen replaces only folders that hold build-info.json"
        )
    assert content(tmp_path) == {"out/letter": b"dear"}
    check_replaceable(tmp_path / "elsewhere")


def test_a_folder_that_cannot_be_completed_is_not_begun(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / MARKER).write_text("old")
    with pytest.raises(InputError) as raised:
        write_folder({**FILES, "main.c/x": b""}, out)  # a file and a folder of one name
    assert str(raised.value).startswith(f"{out} cannot be written: ")
    assert str(raised.value).endswith("\n  where: --out\n  try:   choose a folder that you may write to")
    assert content(tmp_path) == {f"out/{MARKER}": b"old"}


def test_an_earlier_result_comes_back_where_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write_folder({MARKER: b"old"}, out)
    replace = os.replace

    def failing(source: Path, target: Path) -> None:
        if Path(source).name == "new":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        write_folder(FILES, out)
    assert content(tmp_path) == {f"out/{MARKER}": b"old"}


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    out = tmp_path / "sub" / "file"
    write_file(b"one", out)
    write_file(b"two", out)
    assert content(tmp_path) == {"sub/file": b"two"}
    (tmp_path / "umask").touch()
    assert out.stat().st_mode == (tmp_path / "umask").stat().st_mode


def test_a_file_does_not_take_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError) as raised:
        write_file(b"one", tmp_path / "folder")
    assert str(raised.value) == (
        f"{tmp_path}/folder cannot be written: Is a directory\n"
        "  where: --out\n"
        "  try:   choose a place that you may write to"
    )
    assert os.listdir(tmp_path) == ["folder"]
