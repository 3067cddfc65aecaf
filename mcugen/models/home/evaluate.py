"""Measure a model: the share of utterances whose action it answers exactly.

python -m mcugen.models.home.evaluate [FOLDER] [--integers [--fc builtin]]

What it is measured on goes into files for `mcugen eval --cases` with --write-cases FOLDER; cases.tsv beside this file
is its hand-written.tsv.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from mcugen.cases import float_answers
from mcugen.fc8 import to_fc8
from mcugen.generate import generate, prompt_tokens
from mcugen.ir import Model, Tokenizer
from mcugen.lower import lower
from mcugen.quantize import quantize, self_calibration
from mcugen.sampler import make_sampler
from mcugen.sources import read_model_folder
from mcugen.tokenizer import decode

from .grammar import stream
from .phrases import DEVELOPMENT, TEST

FOLDER: Final = Path(__file__).parent
EVALUATION_SEED: Final = 990_001
ANSWER_LIMIT: Final = 48  # tokens; the longest action has about 30

Generate = Callable[[Sequence[str]], list[str]]
Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Score:
    """right of total; wrong: (utterance, expected action, answered action)."""

    right: int
    total: int
    wrong: tuple[tuple[str, str, str], ...]

    @property
    def share(self) -> float:
        return self.right / self.total


def load(folder: Path = FOLDER) -> tuple[Model, Tokenizer]:
    """Read the shipped model, or one that train.py wrote elsewhere."""
    return read_model_folder(folder)


def suites(size: int) -> dict[str, Pairs]:
    """Return what a model is measured on; `size` is the number of drawn utterances per suite.

    fillings: trained patterns with fresh values. typos: the same with slips. templates: patterns that were
    never trained on. development and hand-written: phrases.py.
    """
    return {
        "fillings": tuple(islice(stream(EVALUATION_SEED, slips=False), size)),
        "typos": tuple(islice(stream(EVALUATION_SEED + 1, slips=True), size)),
        "templates": tuple(islice(stream(EVALUATION_SEED + 2, held_out=True, slips=False), size)),
        "development": DEVELOPMENT,
        "hand-written": TEST,
    }


def evaluate(answers_to: Generate, pairs: Pairs) -> Score:
    """Score `answers_to`, which answers each utterance with an action, by exact match."""
    answers = answers_to([text for text, _ in pairs])
    wrong = tuple((t, a, answer) for (t, a), answer in zip(pairs, answers, strict=True) if answer != a)
    return Score(len(pairs) - len(wrong), len(pairs), wrong)


def evaluate_all(answers_to: Generate, size: int) -> Mapping[str, Score]:
    return {name: evaluate(answers_to, pairs) for name, pairs in suites(size).items()}


def float_generate(model: Model, tokenizer: Tokenizer) -> Generate:
    """Return the float model as a function from utterances to actions: greedy, in batches of equal length."""

    def answers_to(texts: Sequence[str]) -> list[str]:
        prompts = [prompt_tokens(tokenizer, text) for text in texts]
        answers = float_answers(model, tokenizer, prompts, ANSWER_LIMIT)
        return [_text(tokenizer, answer) for answer in answers]

    return answers_to


def integer_generate(model: Model, tokenizer: Tokenizer, fc: str = "custom") -> Generate:
    """Return the simulator, which the firmware equals bit for bit, as a function from utterances to actions.

    fc: "builtin" for the integers of TFLite Micro's FULLY_CONNECTED.
    """
    quantized = quantize(model, self_calibration(model, eos=tokenizer.eos))
    if fc == "builtin":
        quantized = to_fc8(quantized, bos=tokenizer.bos, eos=tokenizer.eos)
    graph = lower(quantized, model.config.seq_len)
    greedy = make_sampler(temperature=0, top_k=0, top_p=1, seed=0)

    def answer(text: str) -> str:
        return _text(tokenizer, list(generate(graph, tokenizer, text, greedy, ANSWER_LIMIT)))

    return lambda texts: [answer(text) for text in texts]


def _text(tokenizer: Tokenizer, answer: list[int]) -> str:
    return decode(tokenizer, answer).decode(errors="replace")


def report(scores: Mapping[str, Score]) -> str:
    """Return the figures, and what went wrong where one may look: not on the hand-written test phrases."""
    lines = [f"{name:13} {100 * s.share:6.2f} %  {s.right} of {s.total}" for name, s in scores.items()]
    for name in ("templates", "development"):
        lines += [
            f"{name}: {text!r}\n    asked {asked!r}\n    said  {said!r}"
            for text, asked, said in scores[name].wrong[:40]
        ]
    return "\n".join(lines)


def cases_text(pairs: Pairs) -> str:
    """Utterances and actions as mcugen.cases reads them."""
    return "".join(f"{text}\t{action}\n" for text, action in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the default model.")
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    parser.add_argument("--size", type=int, default=1500, help="utterances drawn per suite")
    parser.add_argument("--integers", action="store_true", help="measure what the firmware computes")
    parser.add_argument("--fc", choices=["custom", "builtin"], default="custom", help="of the integers' matrices")
    parser.add_argument("--write-cases", type=Path, metavar="FOLDER", help="write all suites there, measure nothing")
    arguments = parser.parse_args()
    if arguments.write_cases is not None:
        for name, pairs in suites(arguments.size).items():
            (arguments.write_cases / f"{name}.tsv").write_text(cases_text(pairs), encoding="utf-8")
        return
    answers = partial(integer_generate, fc=arguments.fc) if arguments.integers else float_generate
    print(report(evaluate_all(answers(*load(arguments.folder)), arguments.size)))


if __name__ == "__main__":
    main()
