"""Measure a model: how well it predicts stories that it never saw, and how many of its own are consistent.

python -m mcugen.models.tales.evaluate [FOLDER] [--integers] [--size N] [--show]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from mcugen.generate import generate
from mcugen.ir import Model, Tokenizer
from mcugen.lower import lower
from mcugen.quantize import quantize, self_calibration
from mcugen.reference import FloatDecoder, Floats, log_softmax
from mcugen.sampler import make_sampler
from mcugen.simulate import Simulator
from mcugen.sources import read_model_folder
from mcugen.tokenizer import decode, encode

from .check import faults
from .grammar import stream

FOLDER: Final = Path(__file__).parent
EVALUATION_SEED: Final = 990_011
TEMPERATURE: Final = 0.8
LIMIT: Final = 256  # tokens of a story, its beginning included: the context

Tell = Callable[[Sequence[str], float], list[str]]
"""(beginnings, temperature) -> the stories that follow from them; one that does not end has a "..." behind it."""
Predict = Callable[[Sequence[int]], Floats]
"""A story's tokens, bos first -> logits, in nats, of the token after each."""


@dataclass(frozen=True, slots=True)
class Figures:
    """perplexity: per token of `stories` stories that were never trained on, eos included. sampled, greedy: how many
    of that many stories are consistent: told from nothing at TEMPERATURE, and greedily from a story's beginning."""

    stories: int
    perplexity: float
    sampled: int
    greedy: int


def load(folder: Path = FOLDER) -> tuple[Model, Tokenizer]:
    """Read the shipped model, or one that train.py wrote elsewhere."""
    return read_model_folder(folder)


def unseen(size: int) -> list[str]:
    """Return stories of a seed that training does not use."""
    return list(islice(stream(EVALUATION_SEED), size))


def beginning(story: str) -> str:
    """Return the title of a story, or its first sentence."""
    title, newline, _ = story.partition("\n")
    return title if newline else f"{story.partition('. ')[0]}."


def float_model(model: Model, tokenizer: Tokenizer) -> tuple[Tell, Predict]:
    """Return the float model as functions; stories are told in batches of beginnings of equal length."""

    def tell(beginnings: Sequence[str], temperature: float) -> list[str]:
        prompts = [encode(tokenizer, text) for text in beginnings]
        stories = [""] * len(prompts)
        for length in sorted({len(prompt) for prompt in prompts}):
            chosen = [i for i, prompt in enumerate(prompts) if len(prompt) == length]
            for i, tokens in zip(chosen, _continue(model, [prompts[i] for i in chosen], temperature), strict=True):
                stories[i] = _text(tokenizer, tokens[1:])
        return stories

    return tell, lambda tokens: FloatDecoder(model).forward(np.array([tokens]))[0]


def _continue(model: Model, prompts: Sequence[Sequence[int]], temperature: float) -> list[list[int]]:
    """Continue prompts of equal length to LIMIT tokens, with the likeliest token or one drawn at random."""
    rng = np.random.default_rng(EVALUATION_SEED)
    decoder = FloatDecoder(model, batch=len(prompts))
    tokens = new = np.array(prompts)
    while tokens.shape[1] < LIMIT:
        logits = decoder.forward(new)[:, -1]
        if temperature:  # the largest of logits with Gumbel noise is drawn by softmax
            logits = logits / temperature + rng.gumbel(size=logits.shape)
        new = logits.argmax(-1)[:, None]
        tokens = np.concatenate([tokens, new], axis=1)
    return [row.tolist() for row in tokens]


def integer_model(model: Model, tokenizer: Tokenizer) -> tuple[Tell, Predict]:
    """Return the simulator, which the firmware equals bit for bit, as functions."""
    graph = lower(quantize(model, self_calibration(model, eos=tokenizer.eos)), model.config.seq_len)

    def tell(beginnings: Sequence[str], temperature: float) -> list[str]:
        return [one(text, temperature, seed) for seed, text in enumerate(beginnings, 1)]

    def one(text: str, temperature: float, seed: int) -> str:
        prompt = encode(tokenizer, text)
        room = LIMIT - len(prompt)
        sampler = make_sampler(temperature, top_k=0, top_p=1, seed=seed)
        told = list(generate(graph, tokenizer, text, sampler, room))
        return _text(tokenizer, [*prompt[1:], *told, *([tokenizer.eos] if len(told) < room else [])])

    return tell, lambda tokens: Simulator(graph).feed(np.array(tokens)) / 65536


def _text(tokenizer: Tokenizer, tokens: list[int]) -> str:
    ended = tokenizer.eos in tokens
    told = tokens[: tokens.index(tokenizer.eos)] if ended else tokens
    return decode(tokenizer, told, tokenizer.bos).decode(errors="replace") + ("" if ended else "...")


def perplexity(predict: Predict, tokenizer: Tokenizer, stories: Sequence[str]) -> float:
    loss, count = 0.0, 0
    for story in stories:
        tokens = [*encode(tokenizer, story), tokenizer.eos]
        loss -= float(log_softmax(predict(tokens[:-1]))[np.arange(len(tokens) - 1), tokens[1:]].sum())
        count += len(tokens) - 1
    return float(np.exp(loss / count))


def tell_both(tell: Tell, size: int) -> tuple[list[str], list[str]]:
    """Return `size` stories from nothing at TEMPERATURE, and as many told greedily from a beginning."""
    return tell([""] * size, TEMPERATURE), tell([beginning(story) for story in unseen(size)], 0.0)


def measure(model: tuple[Tell, Predict], tokenizer: Tokenizer, size: int) -> Figures:
    tell, predict = model
    sampled, greedy = (sum(not faults(story) for story in told) for told in tell_both(tell, size))
    return Figures(size, round(perplexity(predict, tokenizer, unseen(size)), 4), sampled, greedy)


def report(figures: Figures) -> str:
    return "\n".join(f"{name:10} {value}" for name, value in asdict(figures).items())


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the model of little stories.")
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    parser.add_argument("--size", type=int, default=200, help="stories of each kind")
    parser.add_argument("--integers", action="store_true", help="measure what the firmware computes")
    parser.add_argument("--show", action="store_true", help="print the stories and what is wrong with them instead")
    arguments = parser.parse_args()
    loaded = load(arguments.folder)
    model = (integer_model if arguments.integers else float_model)(*loaded)
    if not arguments.show:
        print(report(measure(model, loaded[1], arguments.size)))
        return
    for told in tell_both(model[0], arguments.size):
        for story in told:
            print(story, *(f"    {fault}" for fault in faults(story)), sep="\n", end="\n\n")


if __name__ == "__main__":
    main()
