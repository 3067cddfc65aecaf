"""Learn the tokenizer: byte-pair merges inside words; an opening quote goes with its space, a closing one with what
it follows."""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice
from string import ascii_letters
from typing import Final

from mcugen.ir import Tokenizer
from mcugen.models import bpe

from .grammar import stream

VOCAB_SIZE: Final = 512
CHARACTERS: Final = ("\n", " ", *ascii_letters, *".,!?:'\"-")
_WORD = re.compile(r" ?[A-Za-z']+| ?\"|[.,!?]\"?|.", re.DOTALL)
"""No merge crosses these borders: the vocabulary has no piece that does."""


def learn(seed: int, stories: int = 20_000, size: int = VOCAB_SIZE) -> Tokenizer:
    """Learn merges from the training stream until there are `size` pieces."""
    counts: Counter[str] = Counter()
    for story in islice(stream(seed), stories):
        counts.update(_WORD.findall(f" {story}"))
    return bpe.learn_merges(counts, CHARACTERS, size, lowercase=False, prompt_suffix="")


class StoryEncoder(bpe.WordEncoder):
    """mcugen.tokenizer.encode for this vocabulary."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer, _WORD)

    def story(self, text: str) -> list[int]:
        """Return bos, the tokens of a story, and eos."""
        return [self._tokenizer.bos, *self.encode(f" {text}"), self._tokenizer.eos]
