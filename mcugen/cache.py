"""A folder of results under the hash of everything they were made from. Safe to delete at any time."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cache:
    """Files named by a hash, which the caller computes."""

    folder: Path

    def load(self, key: str) -> bytes | None:
        try:
            return (self.folder / key[:2] / key).read_bytes()
        except OSError:
            return None

    def store(self, key: str, content: bytes) -> None:
        """Keep `content`; where the folder cannot be written, the next run is merely slower."""
        path = self.folder / key[:2] / key
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
                file.write(content)
            os.replace(file.name, path)
        except OSError:
            return


def default_cache_dir() -> Path:
    """Return $MCUGEN_CACHE, else mcugen's folder in the platform's place for a user's caches."""
    if stated := os.environ.get("MCUGEN_CACHE"):
        return Path(stated)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "mcugen" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mcugen"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mcugen"
