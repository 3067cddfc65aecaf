"""A model with a task: the share of prompts that float and integers answer exactly as asked.

Both sides answer greedily, as the application does: bos, the prompt, the vocabulary's prompt suffix; up to
bos or eos.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcugen.errors import InputError
from mcugen.generate import generate, prompt_tokens
from mcugen.ir import Graph, Model, Tokenizer
from mcugen.reference import FloatDecoder
from mcugen.sampler import make_sampler
from mcugen.statistics import Interval, sign_test, wilson
from mcugen.tokenizer import decode

BATCH = 64  # prompts of one length that the float model answers at once


@dataclass(frozen=True, slots=True)
class Case:
    """line: where it stands in its file, from 1."""

    prompt: str
    answer: str
    line: int


@dataclass(frozen=True, slots=True)
class Answered:
    """A case and what both sides answered; spaces around an answer do not count."""

    case: Case
    floats: str
    integers: str

    @property
    def float_right(self) -> bool:
        return self.floats == self.case.answer

    @property
    def integer_right(self) -> bool:
        return self.integers == self.case.answer


@dataclass(frozen=True, slots=True)
class ExactMatch:
    """What float and integers made of a task's cases."""

    answered: tuple[Answered, ...]

    def count(self, floats: bool, integers: bool) -> int:
        """How many cases float got right, or not, and the integers right, or not."""
        return sum((a.float_right, a.integer_right) == (floats, integers) for a in self.answered)

    @property
    def float_right(self) -> int:
        return self.count(True, True) + self.count(True, False)

    @property
    def integer_right(self) -> int:
        return self.count(True, True) + self.count(False, True)

    @property
    def same(self) -> int:
        """Cases with the same answer on both sides, right or wrong."""
        return sum(a.floats == a.integers for a in self.answered)

    def interval(self, count: int) -> Interval:
        """Wilson's 95 % interval of the share `count` of all cases."""
        return wilson(count, len(self.answered))

    @property
    def chance(self) -> float:
        """Of so uneven a split of the cases that one side alone got right, were both equally good (exact McNemar)."""
        return sign_test(self.count(True, False), self.count(False, True))


def read_cases(path: Path) -> tuple[Case, ...]:
    """Read cases: a line each, prompt TAB answer; in a .jsonl file {"prompt": ..., "answer": ...}. Empty lines count
    as nothing.

    Raises InputError where the file cannot be read, holds no case, or a line is none, with the line's number.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"{path} cannot be read: {why}", where="--cases", hint="check the path") from error
    parse = _from_json if path.suffix == ".jsonl" else _from_tabs
    cases = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            prompt, answer = parse(line.rstrip("\r"), f"{path.name}, line {number}")
            cases.append(Case(prompt, answer.strip(), number))
    if not cases:
        raise InputError(
            f"{path} holds no cases", where="--cases", hint="write a line for each: the prompt, a tab, the answer"
        )
    return tuple(cases)


def _from_tabs(line: str, where: str) -> tuple[str, str]:
    parts = line.split("\t")
    if len(parts) != 2:
        raise InputError(
            f"a case is a prompt, a tab and an answer; here are {len(parts) - 1} tabs",
            where=where,
            hint="write prompts that hold tabs in a .jsonl file",
        )
    return parts[0], parts[1]


def _from_json(line: str, where: str) -> tuple[str, str]:
    hint = 'write {"prompt": "...", "answer": "..."} on one line'
    try:
        value = json.loads(line)
    except ValueError as error:
        raise InputError(f"the line is not JSON: {error}", where=where, hint=hint) from error
    if not isinstance(value, dict) or not all(isinstance(value.get(key), str) for key in ("prompt", "answer")):
        raise InputError("a case is an object with the strings prompt and answer", where=where, hint=hint)
    return value["prompt"], value["answer"]


def exact_match(
    model: Model,
    graph: Graph,
    tokenizer: Tokenizer,
    cases: Sequence[Case],
    progress: Callable[[int, int], None] | None = None,
) -> ExactMatch:
    """Let both sides answer every case; progress(done, total) after each answer of the integers.

    An answer ends after as many tokens as the longest answer asked for has bytes, and one: more cannot be right.
    Raises InputError for a prompt that is longer than the context.
    """
    prompts = [_checked(prompt_tokens(tokenizer, case.prompt), case, graph.context) for case in cases]
    limit = max(len(case.answer.encode()) for case in cases) + 1
    floats = float_answers(model, tokenizer, prompts, limit, graph.context)
    greedy = make_sampler(temperature=0, top_k=0, top_p=1, seed=0)
    answered = []
    for case, prompt, ours in zip(cases, prompts, floats, strict=True):
        theirs = list(generate(graph, tokenizer, case.prompt, greedy, limit))
        texts = (decode(tokenizer, ids, prompt[-1]).decode(errors="replace").strip() for ids in (ours, theirs))
        answered.append(Answered(case, *texts))
        if progress is not None:
            progress(len(answered), len(cases))
    return ExactMatch(tuple(answered))


def _checked(prompt: list[int], case: Case, context: int) -> list[int]:
    if len(prompt) > context:
        raise InputError(
            f"the prompt has {len(prompt)} tokens, its opening and suffix included; the context holds {context}",
            where=f"--cases, line {case.line}",
            hint="shorten the prompt: the model would not see all of it",
        )
    return prompt


def float_answers(
    model: Model, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], limit: int, window: int | None = None
) -> list[list[int]]:
    """The float model's greedy answers of at most `limit` tokens, without the bos or eos that ends them; prompts of
    one length are answered together."""
    answers: list[list[int]] = [[]] * len(prompts)
    for chosen in _batches(prompts):
        found = _continue(model, tokenizer, np.array([prompts[i] for i in chosen]), limit, window)
        for i, answer in zip(chosen, found.tolist(), strict=True):
            ends = [at for at, token in enumerate(answer) if token in (tokenizer.bos, tokenizer.eos)]
            answers[i] = answer[: ends[0]] if ends else answer
    return answers


def _batches(prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Indices of prompts of equal length, at most BATCH at once."""
    for length in sorted({len(prompt) for prompt in prompts}):
        chosen = [i for i, prompt in enumerate(prompts) if len(prompt) == length]
        for start in range(0, len(chosen), BATCH):
            yield chosen[start : start + BATCH]


def _continue(
    model: Model, tokenizer: Tokenizer, prompts: NDArray[np.int64], limit: int, window: int | None
) -> NDArray[np.int64]:
    """Continue prompts[B, T] until each has ended: [B, <= limit]."""
    decoder = FloatDecoder(model, batch=len(prompts), window=window)
    tokens, answers = prompts, np.empty((len(prompts), 0), np.int64)
    while answers.shape[1] < limit and not np.isin(answers, (tokenizer.bos, tokenizer.eos)).any(axis=1).all():
        tokens = decoder.forward(tokens)[:, -1:].argmax(-1)
        answers = np.concatenate([answers, tokens], axis=1)
    return answers
