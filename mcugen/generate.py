"""From a prompt to tokens with the simulator; twin of firmware/runtime/generate.c."""

from __future__ import annotations

from collections.abc import Iterator

from mcugen.errors import InputError
from mcugen.ir import Graph, Tokenizer
from mcugen.sampler import Sampler, sample
from mcugen.simulate import Simulator
from mcugen.tokenizer import encode, piece_ids


def suffix_tokens(tokenizer: Tokenizer) -> list[int]:
    """The tokens of the tokenizer's prompt suffix, which follow every prompt.

    Raises InputError where a character of it is no piece, or part of a longer one, and could merge with the prompt.
    """
    suffix = tokenizer.prompt_suffix.encode()
    characters = [bytes([byte]) for byte in suffix]
    ids = piece_ids(tokenizer)
    for character in characters:
        longer = [piece for piece in tokenizer.pieces[3:] if character in piece and piece != character]
        if character not in ids or longer:
            why = f"is part of the piece {longer[0]!r}" if longer else "is not in the vocabulary"
            raise InputError(
                f"the prompt suffix {tokenizer.prompt_suffix!r} does not work: {character!r} {why}",
                where="tokenizer",
                hint="use a suffix of characters that are pieces of their own and never merge, such as a newline",
            )
    return [ids[character] for character in characters]


def prompt_tokens(tokenizer: Tokenizer, prompt: str | bytes) -> list[int]:
    """bos, the prompt and the suffix."""
    return encode(tokenizer, prompt) + suffix_tokens(tokenizer)


def generate(
    graph: Graph, tokenizer: Tokenizer, prompt: str | bytes, sampler: Sampler, max_tokens: int
) -> Iterator[int]:
    """Yield at most max_tokens tokens that follow the prompt; the closing bos or eos is not yielded."""
    simulator = Simulator(graph)
    logits = simulator.feed(prompt_tokens(tokenizer, prompt))
    for count in range(max_tokens):
        token, sampler = sample(sampler, logits[-1])
        if token in (tokenizer.bos, tokenizer.eos):
            return
        yield token
        if count + 1 < max_tokens:
            logits = simulator.feed([token])
