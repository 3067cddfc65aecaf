"""Where byte-level vocabularies cut a text into words before anything merges: their regular expressions, by hand.

Each pattern is a choice among the same few alternatives, so that one function serves all. Patterns: GPT-2's
encoder.py and the pre_tokenizer of tokenizer.json of Llama 3, Qwen2 and SmolLM. Twin: firmware/runtime/split.c.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from mcugen.unicode_ranges import LETTERS, NUMBERS, SPACES

OTHER, LETTER, NUMBER, SPACE = range(4)  # what a code point is to a pattern
NOT_UTF8 = -1  # stands for bytes that are no code point; OTHER
_BLANK, _APOSTROPHE = ord(" "), ord("'")
_NEWLINES = (ord("\n"), ord("\r"))


@dataclass(frozen=True, slots=True)
class Split:
    """What sets one pattern apart from another.

    modern: as GPT-4's and later ones: contractions in any case; before letters any one character that is neither
    letter nor number nor newline, not only a space; newlines stay with the signs or the white space before them.
    digits: the most numbers in a word, 0 for any. number_space: a word of numbers may begin with a space.
    numbers_apart: numbers are cut out first, so that a text ends in front of each as far as white space can tell.
    """

    modern: bool = False
    digits: int = 0
    number_space: bool = False
    numbers_apart: bool = False


SPLITS = {
    "gpt2": Split(number_space=True),
    "gpt2-digits": Split(numbers_apart=True),  # Digits, then GPT-2's pattern
    "gpt2-digit": Split(digits=1, numbers_apart=True),  # the same with each digit by itself
    "llama3": Split(modern=True, digits=3),
    "qwen2": Split(modern=True, digits=1),
}


@dataclass(frozen=True, slots=True, eq=False)
class KindTables:
    """The kinds of all code points as the firmware searches them.

    starts: uint16[n], the lower 16 bits of where a run of one kind begins, by plane; kinds: uint8[n] of each run.
    planes: uint16[planes + 1]; plane p has the runs planes[p] up to planes[p + 1], the first of which begins at 0.
    Code points of other planes are OTHER.
    """

    starts: NDArray[np.uint16]
    kinds: NDArray[np.uint8]
    planes: NDArray[np.uint16]

    @property
    def nbytes(self) -> int:
        return self.starts.nbytes + self.kinds.nbytes + self.planes.nbytes


@cache
def _runs() -> tuple[list[int], list[int]]:
    """Where each run of one kind begins, in order, and its kind."""
    ranges = []
    for text, kind in ((LETTERS, LETTER), (NUMBERS, NUMBER), (SPACES, SPACE)):
        for word in text.split():
            first, _, last = word.partition("-")
            ranges.append((int(first, 16), int(last or first, 16), kind))
    starts, kinds = [0], [OTHER]
    for start, last_of_kind, of_kind in sorted(ranges):
        if starts[-1] == start:
            kinds[-1] = of_kind
        else:
            starts.append(start)
            kinds.append(of_kind)
        starts.append(last_of_kind + 1)
        kinds.append(OTHER)
    return starts, kinds


def kind_of(code: int) -> int:
    """OTHER, LETTER, NUMBER or SPACE."""
    starts, kinds = _runs()
    return kinds[bisect_right(starts, code) - 1] if code >= 0 else OTHER


@cache
def kind_tables() -> KindTables:
    starts, _ = _runs()
    last_plane = starts[-1] >> 16
    cut = sorted({*starts, *(plane << 16 for plane in range(last_plane + 1))})
    planes = [bisect_right(cut, (plane << 16) - 1) for plane in range(last_plane + 2)]
    tables = KindTables(
        np.array([start & 0xFFFF for start in cut], np.uint16),
        np.array([kind_of(start) for start in cut], np.uint8),
        np.array(planes, np.uint16),
    )
    for array in (tables.starts, tables.kinds, tables.planes):
        array.setflags(write=False)
    return tables


def code_of(unit: bytes) -> int:
    """The code point that bytes spell, or NOT_UTF8: the first byte must announce how many there are.

    Overlong forms and surrogates count as what they spell: no text has them, and nothing rests on it.
    """
    first = unit[0]
    length = 1 if first < 0x80 else 2 if 0xC0 <= first < 0xE0 else 3 if 0xE0 <= first < 0xF0 else 4
    if length != len(unit) or 0x80 <= first < 0xC0 or first >= 0xF8:
        return NOT_UTF8
    code = first if length == 1 else first & (0x7F >> length)
    for byte in unit[1:]:
        code = code << 6 | byte & 0x3F
    return code


def words(split: Split, units: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Cut a text, given as its code points, into words: first and behind last of each."""
    codes = [code_of(unit) for unit in units]
    at = 0
    while at < len(codes):
        end = _word_end(split, codes, at)
        yield at, end
        at = end


def _word_end(split: Split, codes: Sequence[int], at: int) -> int:
    """Behind the last of the word that begins at `at`: the alternatives of a pattern, in their order."""

    def run(start: int, kind: int) -> int:
        while start < len(codes) and kind_of(codes[start]) == kind:
            start += 1
        return start

    first = kind_of(codes[at])
    second = kind_of(codes[at + 1]) if at + 1 < len(codes) else None
    blank = codes[at] == _BLANK
    if codes[at] == _APOSTROPHE and (length := _contraction(split, codes[at + 1 : at + 3])):
        return at + 1 + length
    leads = (first in (OTHER, SPACE) and codes[at] not in _NEWLINES) if split.modern else blank
    if first == LETTER or (leads and second == LETTER):
        return run(at + 1, LETTER)
    if first == NUMBER or (split.number_space and blank and second == NUMBER):
        end = run(at + 1, NUMBER)
        return min(end, at + split.digits) if split.digits else end
    if first == OTHER or (blank and second == OTHER):
        end = run(at + 1, OTHER)
        while split.modern and end < len(codes) and codes[end] in _NEWLINES:
            end += 1
        return end
    end = run(at, SPACE)
    if split.modern:
        newlines = [i for i in range(at, end) if codes[i] in _NEWLINES]
        if newlines:
            return newlines[-1] + 1
    stays = end == len(codes) or (split.numbers_apart and kind_of(codes[end]) == NUMBER)
    return end if stays or end == at + 1 else end - 1  # the last space goes with what follows


def _contraction(split: Split, codes: Sequence[int]) -> int:
    """How many code points after an apostrophe belong to it: 's 't 'm 'd, 're 've 'll."""
    letters = "".join(chr(code) if code >= 0 else "\0" for code in codes)
    if split.modern:  # U+017F is an s, too
        letters = "".join(c.lower() if c.isascii() else "s" if c == "ſ" else c for c in letters)
    if letters[:1] in ("s", "t", "m", "d"):
        return 1
    return 2 if letters in ("re", "ve", "ll") else 0
