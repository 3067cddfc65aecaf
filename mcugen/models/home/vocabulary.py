"""Learn the tokenizer: byte-pair merges inside words, digits and punctuation always on their own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from itertools import islice, pairwise
from typing import Final

import numpy as np

from mcugen.ir import NO_MERGE, Tokenizer

from .grammar import stream

VOCAB_SIZE: Final = 384
PROMPT_SUFFIX: Final = "\n"
SPECIALS: Final = ("<unk>", "<s>", "</s>")
CHARACTERS: Final = tuple("\n abcdefghijklmnopqrstuvwxyz0123456789'=:;,._-%?!°")
_WORD = re.compile(r" ?[a-z']+|.", re.DOTALL)
"""No merge crosses these borders: the vocabulary has no piece that does."""


def learn(seed: int, examples: int = 60_000, size: int = VOCAB_SIZE) -> Tokenizer:
    """Learn merges from the training stream until there are `size` pieces.

    Merges go by frequency, ties by spelling; a piece's rank is the order in which it was learned.
    """
    counts: Counter[str] = Counter()
    for text, action in islice(stream(seed), examples):
        counts.update(_WORD.findall(f" {text}{PROMPT_SUFFIX}"))
        counts.update(_WORD.findall(action))
    split = {word: list(word) for word in sorted(counts)}
    pieces = [*SPECIALS, *CHARACTERS]
    ranks = [NO_MERGE] * len(pieces)
    while len(pieces) < size:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in split.items():
            for pair in pairwise(parts):
                pairs[pair] += counts[word]
        known = set(pieces)
        a, b = max((p for p in pairs if "".join(p) not in known), key=lambda pair: (pairs[pair], pair))
        ranks.append(len(pieces) - len(SPECIALS) - len(CHARACTERS))
        pieces.append(a + b)
        for parts in split.values():
            _merge_everywhere(parts, a + b)
    return Tokenizer(
        pieces=tuple(piece.encode() for piece in pieces),
        ranks=np.array(ranks, np.int32),
        first_byte=None,
        lowercase=True,
        prompt_suffix=PROMPT_SUFFIX,
    )


def _merge_everywhere(parts: list[str], piece: str) -> None:
    i = 0
    while i + 1 < len(parts):
        if parts[i] + parts[i + 1] == piece:
            parts[i : i + 2] = [piece]
        else:
            i += 1


class WordEncoder:
    """mcugen.tokenizer.encode for this vocabulary, word by word and remembered: fast enough to train with."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ranks = {
            piece.decode(): int(rank) for piece, rank in zip(tokenizer.pieces, tokenizer.ranks, strict=True)
        }
        self._words: dict[str, list[int]] = {}

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {piece.decode(): token for token, piece in enumerate(self._tokenizer.pieces)}

    def prompt(self, text: str) -> list[int]:
        """Return bos and the tokens of what a user types, up to and with the newline that ends it."""
        return [self._tokenizer.bos, *self._encode(f" {text}{PROMPT_SUFFIX}")]

    def action(self, text: str) -> list[int]:
        """Return the tokens of an action and eos: what the model has to answer."""
        return [*self._encode(text), self._tokenizer.eos]

    def _encode(self, text: str) -> Iterable[int]:
        return [token for word in _WORD.findall(text) for token in self._word(word)]

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
