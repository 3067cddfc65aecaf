"""What a test does where a tool is missing: skip, and in CI, where every tool is installed, fail."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skip for want of a tool, or fail where all tools are required (MCUGEN_REQUIRE_TOOLS=1)."""
    if os.environ.get("MCUGEN_REQUIRE_TOOLS") == "1":
        pytest.fail(reason)
    pytest.skip(reason, allow_module_level=True)


def require_program(name: str) -> str:
    """The path of a program."""
    path = shutil.which(name)
    if path is None:
        missing(f"{name} is not installed")
    return path
