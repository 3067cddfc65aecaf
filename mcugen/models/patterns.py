"""Patterns of text that a training stream is drawn from: "(a|b) and {slot}"."""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random

_CHOICE = re.compile(r"\(([^()]*)\)")
_SPACES = re.compile(r" {2,}")


def tidy(text: str) -> str:
    """Close the gaps that empty alternatives leave."""
    return _SPACES.sub(" ", text).replace(" 'd", "'d").strip()


def expansions(pattern: str) -> Iterator[str]:
    """Every choice of the pattern's alternatives; slots stay as they are."""
    match = _CHOICE.search(pattern)
    if match is None:
        yield tidy(pattern)
        return
    for alternative in match.group(1).split("|"):
        yield from expansions(pattern[: match.start()] + alternative + pattern[match.end() :])


def choose(rng: Random, pattern: str) -> str:
    """Settle the pattern's alternatives; slots stay as they are."""
    while match := _CHOICE.search(pattern):
        alternative = rng.choice(match.group(1).split("|"))
        pattern = pattern[: match.start()] + alternative + pattern[match.end() :]
    return tidy(pattern)
