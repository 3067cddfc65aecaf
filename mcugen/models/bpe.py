"""Byte-pair vocabularies learned word by word: no piece crosses the border of a word."""

from __future__ import annotations

import re
from collections import Counter
from functools import cached_property
from itertools import pairwise
from typing import Final

import numpy as np

from mcugen.ir import NO_MERGE, Tokenizer

SPECIALS: Final = ("<unk>", "<s>", "</s>")


def learn_merges(
    counts: Counter[str], characters: tuple[str, ...], size: int, *, lowercase: bool, prompt_suffix: str
) -> Tokenizer:
    """Learn merges from words and how often each was seen, until there are `size` pieces.

    Merges go by frequency, ties by spelling; a piece's rank is the order in which it was learned.
    """
    split = {word: list(word) for word in sorted(counts)}
    pieces = [*SPECIALS, *characters]
    ranks = [NO_MERGE] * len(pieces)
    while len(pieces) < size:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in split.items():
            for pair in pairwise(parts):
                pairs[pair] += counts[word]
        known = set(pieces)
        a, b = max((p for p in pairs if "".join(p) not in known), key=lambda pair: (pairs[pair], pair))
        ranks.append(len(pieces) - len(SPECIALS) - len(characters))
        pieces.append(a + b)
        for parts in split.values():
            _merge_everywhere(parts, a + b)
    return Tokenizer(
        pieces=tuple(piece.encode() for piece in pieces),
        ranks=np.array(ranks, np.int32),
        first_byte=None,
        lowercase=lowercase,
        prompt_suffix=prompt_suffix,
    )


def _merge_everywhere(parts: list[str], piece: str) -> None:
    i = 0
    while i + 1 < len(parts):
        if parts[i] + parts[i + 1] == piece:
            parts[i : i + 2] = [piece]
        else:
            i += 1


class WordEncoder:
    """mcugen.tokenizer.encode for such a vocabulary, word by word and remembered: fast enough to train with.

    word: matches the words that the merges were learned from, one after the other.
    """

    def __init__(self, tokenizer: Tokenizer, word: re.Pattern[str]) -> None:
        self._tokenizer = tokenizer
        self._pattern = word
        self._ranks = {
            piece.decode(): int(rank) for piece, rank in zip(tokenizer.pieces, tokenizer.ranks, strict=True)
        }
        self._words: dict[str, list[int]] = {}

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {piece.decode(): token for token, piece in enumerate(self._tokenizer.pieces)}

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text that begins with its space."""
        return [token for word in self._pattern.findall(text) for token in self._word(word)]

    def _word(self, word: str) -> list[int]:
        if word not in self._words:
            if len(self._words) > 200_000:
                self._words.clear()
            self._words[word] = self._merge(list(word))
        return self._words[word]

    def _merge(self, parts: list[str]) -> list[int]:
        while True:
            ranked = [(self._ranks.get(a + b, NO_MERGE), i) for i, (a, b) in enumerate(pairwise(parts))]
            rank, i = min(ranked, default=(NO_MERGE, 0))
            if rank == NO_MERGE:
                return [self._ids.get(part, self._tokenizer.unk) for part in parts]
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
