"""What every test needs before it starts."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

# The matrices here are tiny: on a busy machine several BLAS threads are many times slower than one.
# Set before numpy is imported for the first time.
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

# One cache of objects, images and quantised models for all tests of a session, in every process of it. Whoever states
# a cache keeps it over sessions.
CACHE_IS_OURS = "MCUGEN_CACHE" not in os.environ
if CACHE_IS_OURS:
    os.environ["MCUGEN_CACHE"] = tempfile.mkdtemp(prefix="mcugen-tests-")

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# No wall-time assertions. In CI the same examples every time: what lands does not depend on a draw.
settings.register_profile("mcugen", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("mcugen")


def pytest_unconfigure() -> None:
    if CACHE_IS_OURS:
        shutil.rmtree(os.environ["MCUGEN_CACHE"], ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden anew from what mcugen renders")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests recorded as a hint, of every process."""
    reports = (report for found in terminalreporter.stats.values() for report in found)
    properties = (pair for report in reports for pair in getattr(report, "user_properties", ()))
    for hint in sorted({str(value) for name, value in properties if name == "hint"}):
        terminalreporter.write_line(f"hint: {hint}")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture
def repo_root() -> Path:
    return Path(__file__).resolve().parent.parent
