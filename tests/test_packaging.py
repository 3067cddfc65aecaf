"""The wheel: everything that travels with mcugen is in it, and it works where there is no checkout."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import ladder
import pytest
from tools import missing

import mcugen
from mcugen.resources import bundled_models, data_dir, models_dir

ROOT = Path(mcugen.__file__).resolve().parent.parent
FOLDERS = ("templates", "boards", "firmware")


def hatchling(kind: str, source: Path, folder: Path) -> Path:
    """Build a "wheel" or an "sdist" of a source tree; returns the one file in the folder."""
    if importlib.util.find_spec("hatchling") is None:
        missing("hatchling is not installed")
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hatchling("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def files_below(folder: Path) -> set[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {path for path in found if "__pycache__" not in path}


def test_a_checkout_has_no_copy_of_its_data() -> None:
    assert not (ROOT / "mcugen" / "_data").exists()
    for name in FOLDERS:
        assert data_dir(name) == ROOT / name


def test_the_wheel_holds_what_mcugen_needs(wheel: Path) -> None:
    found = contents(wheel)
    package = {f"mcugen/{path}" for path in files_below(ROOT / "mcugen")}
    data = {f"mcugen/_data/{name}/{path}" for name in FOLDERS for path in files_below(ROOT / name)}
    rest = {path for path in found if path.startswith("mcugen-")}
    data.add("mcugen/_data/LICENSE")
    assert set(found) - rest == package | data
    assert {"mcugen/py.typed", "mcugen/emulate/profile_hook.c"} <= package
    assert bundled_models() == ("home", "tales")
    for model in bundled_models():
        for name in ("model.bin", "tokenizer.bin", "model.json"):
            assert found[f"mcugen/models/{model}/{name}"] == (models_dir() / model / name).read_bytes()
    for path in data:
        assert found[path] == (ROOT / path.removeprefix("mcugen/_data/")).read_bytes()
    assert {path.split("/", 1)[1] for path in rest} == {
        "METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE",
    }  # fmt: skip
    assert sum(map(len, found.values())) < 5_000_000


def test_the_wheel_names_the_command_and_the_version(wheel: Path) -> None:
    found = {
        path.split("/", 1)[1]: content.decode() for path, content in contents(wheel).items() if "dist-info" in path
    }
    assert "mcugen = mcugen." in found["entry_points.txt"]
    assert f"\nVersion: {mcugen.__version__}\n" in found["METADATA"]
    assert "py3-none-any" in found["WHEEL"]


def test_the_source_distribution_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    archive = hatchling("sdist", ROOT, tmp_path / "sdist")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    assert contents(hatchling("wheel", source, tmp_path / "again")) == contents(wheel)


def run_from(where: Path, folder: Path, *arguments: str) -> str:
    """What the command prints, with mcugen imported from `where`."""
    code = (
        "import sys, mcugen; assert mcugen.__file__.startswith(sys.argv.pop(1)); from mcugen.cli import main; main()"
    )
    command = [sys.executable, "-c", code, str(where), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(where), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_an_unpacked_wheel_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """It finds model, boards, templates and firmware in itself, and makes what the checkout makes."""
    ladder.require("gcc", ladder.HOST)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    for arguments in (
        ["boards", "--json"],
        ["plan", "--json"],
        ["run", "--board", "host", "--quiet", "--prompt", "it is too dark in the bedroom", "--tokens", "20"],
        ["run", "tales", "--board", "host", "--quiet", "--prompt", "", "--tokens", "20"],
    ):
        printed = run_from(tmp_path / "installed", tmp_path, *arguments)
        assert printed == run_from(ROOT, tmp_path, *arguments)
        assert printed
