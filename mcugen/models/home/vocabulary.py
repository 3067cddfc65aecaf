"""Learn the tokenizer: byte-pair merges inside words, digits and punctuation always on their own."""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice
from typing import Final

from mcugen.ir import Tokenizer
from mcugen.models import bpe

from .grammar import stream

VOCAB_SIZE: Final = 384
PROMPT_SUFFIX: Final = "\n"
CHARACTERS: Final = tuple("\n abcdefghijklmnopqrstuvwxyz0123456789'=:;,._-%?!°")
_WORD = re.compile(r" ?[a-z']+|.", re.DOTALL)
"""No merge crosses these borders: the vocabulary has no piece that does."""


def learn(seed: int, examples: int = 60_000, size: int = VOCAB_SIZE) -> Tokenizer:
    """Learn merges from the training stream until there are `size` pieces."""
    counts: Counter[str] = Counter()
    for text, action in islice(stream(seed), examples):
        counts.update(_WORD.findall(f" {text}{PROMPT_SUFFIX}"))
        counts.update(_WORD.findall(action))
    return bpe.learn_merges(counts, CHARACTERS, size, lowercase=True, prompt_suffix=PROMPT_SUFFIX)


class WordEncoder(bpe.WordEncoder):
    """mcugen.tokenizer.encode for this vocabulary."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer, _WORD)

    def prompt(self, text: str) -> list[int]:
        """Return bos and the tokens of what a user types, up to and with the newline that ends it."""
        return [self._tokenizer.bos, *self.encode(f" {text}{PROMPT_SUFFIX}")]

    def action(self, text: str) -> list[int]:
        """Return the tokens of an action and eos: what the model has to answer."""
        return [*self.encode(text), self._tokenizer.eos]
