"""Where the folders that travel with mcugen are: templates, boards, firmware."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def data_dir(name: str) -> Path:
    """Return the folder `name`: "templates", "boards" or "firmware".

    A wheel carries them under mcugen/_data; in a checkout they lie beside the package.
    """
    wheel = _PACKAGE / "_data"
    return (wheel if wheel.is_dir() else _PACKAGE.parent) / name


def models_dir() -> Path:
    """Return the folder of the models that ship with mcugen."""
    return _PACKAGE / "models"


def bundled_models() -> tuple[str, ...]:
    """Return the names of the models that ship with mcugen: their folders in models_dir(), in alphabetical order."""
    return tuple(sorted(facts.parent.name for facts in models_dir().glob("*/model.json")))
