"""A report as tables of text; the command line draws them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table. columns: none for facts, where the first column names the second; else the first is text and the
    others, but for those in `text`, are numbers. note: a paragraph beneath."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text: frozenset[int] = frozenset()
    note: str = ""
