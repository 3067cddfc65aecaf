"""Exact answers: files of cases, counts worked out by hand, and both sides against what they are made of."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from zoo import SHAPES, model_of, quantized, random_tokenizer

from mcugen import cases
from mcugen.cases import Answered, Case, ExactMatch, exact_match, float_answers, read_cases
from mcugen.errors import InputError
from mcugen.generate import generate, prompt_tokens
from mcugen.integers import quantize_source
from mcugen.lower import lower
from mcugen.models.home.evaluate import cases_text
from mcugen.models.home.phrases import TEST
from mcugen.reference import FloatDecoder
from mcugen.resources import models_dir
from mcugen.sampler import make_sampler
from mcugen.sources import open_source
from mcugen.tokenizer import decode

CONFIG = SHAPES["gqa"]
MODEL = model_of(CONFIG)
TOKENIZER = random_tokenizer(CONFIG.vocab_size)
GRAPH = lower(quantized(CONFIG), CONFIG.seq_len)


def file(folder: Path, content: str, name: str = "cases.tsv") -> Path:
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


# ---------------------------------------------------------------- files


def test_tabs(tmp_path: Path) -> None:
    found = read_cases(file(tmp_path, "a b\tc\r\n\n  x \t y z \nno answer\t\n"))
    assert found == (Case("a b", "c", 1), Case("  x ", "y z", 3), Case("no answer", "", 4))


def test_json_lines(tmp_path: Path) -> None:
    content = '{"prompt": "a\\tb", "answer": "é"}\n\n{"answer": "2", "prompt": "1+1", "more": [3]}'
    assert read_cases(file(tmp_path, content, "cases.jsonl")) == (Case("a\tb", "é", 1), Case("1+1", "2", 3))


HINT = '  try:   write {"prompt": "...", "answer": "..."} on one line'


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        (
            "empty.tsv",
            "\n \n",
            "{path} holds no cases\n  where: --cases\n  try:   write a line for each: the prompt, a tab, the answer",
        ),
        (
            "a.tsv",
            "a\tb\n\nlights\n",
            "a case is a prompt, a tab and an answer; here are 0 tabs\n  where: a.tsv, line 3\n"
            "  try:   write prompts that hold tabs in a .jsonl file",
        ),
        (
            "a.tsv",
            "a\tb\tc",
            "a case is a prompt, a tab and an answer; here are 2 tabs\n  where: a.tsv, line 1\n"
            "  try:   write prompts that hold tabs in a .jsonl file",
        ),
        (
            "a.jsonl",
            '{"prompt": "a", "answer": "b"}\n{"prompt"',
            "the line is not JSON: Expecting ':' delimiter: line 1 column 10 (char 9)\n  where: a.jsonl, line 2\n"
            + HINT,
        ),
        *(
            (
                "a.jsonl",
                line,
                "a case is an object with the strings prompt and answer\n  where: a.jsonl, line 1\n" + HINT,
            )
            for line in ("[]", "3", '{"prompt": "a"}', '{"prompt": "a", "answer": 3}')
        ),
    ],
)
def test_what_is_no_case(tmp_path: Path, name: str, content: str, text: str) -> None:
    path = file(tmp_path, content, name)
    with pytest.raises(InputError) as caught:
        read_cases(path)
    assert str(caught.value) == text.replace("{path}", str(path))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name, why in (("gone.tsv", "No such file or directory"), ("latin.tsv", "it is not UTF-8")):
        (tmp_path / "latin.tsv").write_bytes("größer\tx".encode("latin-1"))
        with pytest.raises(InputError) as caught:
            read_cases(tmp_path / name)
        where = "  where: --cases\n  try:   check the path"
        assert str(caught.value) == f"{tmp_path / name} cannot be read: {why}\n{where}"


# ---------------------------------------------------------------- counts


def test_counts_by_hand() -> None:
    """asked, float, integers: two right on both sides, one by float alone, one wrong alike, one wrong differently."""
    rows = [("a", "a", "a"), ("b", "b", "b"), ("c", "c", "x"), ("d", "x", "x"), ("e", "x", "y")]
    found = ExactMatch(tuple(Answered(Case("?", asked, 1), ours, theirs) for asked, ours, theirs in rows))
    assert (found.float_right, found.integer_right, found.same) == (3, 2, 3)
    counts = [found.count(*sides) for sides in ((True, True), (True, False), (False, True), (False, False))]
    assert counts == [2, 1, 0, 2]
    assert found.chance == 1.0
    assert found.interval(5) == pytest.approx((0.5655175, 1.0), abs=1e-6)  # n / (n + z**2)


# ---------------------------------------------------------------- answers


def prompts(count: int) -> list[Case]:
    words = ["the tin", "a", "hat the hat", "it", "the rain in"]
    return [Case(words[i % 5] + " he" * (i // 5), "x" * (i % 7), i + 1) for i in range(count)]


def test_both_sides_answer_for_themselves() -> None:
    """Each answer is what a loop over single tokens gives; progress counts cases."""
    asked = prompts(9)
    seen: list[tuple[int, int]] = []
    found = exact_match(MODEL, GRAPH, TOKENIZER, asked, lambda done, total: seen.append((done, total)))
    assert seen == [(i, 9) for i in range(1, 10)]
    greedy = make_sampler(0, 0, 1.0, 1)
    for case, answered in zip(asked, found.answered, strict=True):
        tokens = prompt_tokens(TOKENIZER, case.prompt)
        decoder, ours = FloatDecoder(MODEL, window=GRAPH.context), []
        logits = [decoder.forward(np.array([[token]]))[0, -1] for token in tokens][-1]
        while len(ours) < 7 and (token := int(logits.argmax())) not in (TOKENIZER.bos, TOKENIZER.eos):
            ours.append(token)
            logits = decoder.forward(np.array([[token]]))[0, -1]
        theirs = list(generate(GRAPH, TOKENIZER, case.prompt, greedy, 7))
        assert answered.case == case
        assert answered.floats == decode(TOKENIZER, ours, tokens[-1]).decode(errors="replace").strip()
        assert answered.integers == decode(TOKENIZER, theirs, tokens[-1]).decode(errors="replace").strip()
    assert len({answered.floats for answered in found.answered}) > 3


def test_prompts_of_one_length_are_answered_alike_in_any_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [prompt_tokens(TOKENIZER, case.prompt) for case in prompts(12)]
    together = float_answers(MODEL, TOKENIZER, ids, 6)
    monkeypatch.setattr(cases, "BATCH", 1)
    assert float_answers(MODEL, TOKENIZER, ids, 6) == together


@pytest.mark.parametrize("special", ["bos", "eos"])
def test_bos_and_eos_end_an_answer(special: str) -> None:
    ids = [prompt_tokens(TOKENIZER, case.prompt) for case in prompts(5)]
    free = float_answers(MODEL, TOKENIZER, ids, 6)
    last = free[2][3]
    ended = float_answers(MODEL, dataclasses.replace(TOKENIZER, **{special: last}), ids, 6)
    assert ended == [answer[: answer.index(last)] if last in answer else answer for answer in free] != free


def test_a_prompt_longer_than_the_context_is_refused() -> None:
    short = lower(quantized(CONFIG), 5)
    with pytest.raises(InputError) as caught:
        exact_match(MODEL, short, TOKENIZER, [Case("the", "x", 1), Case("the rain in the tin hat", "x", 3)])
    count = len(prompt_tokens(TOKENIZER, "the rain in the tin hat"))
    assert str(caught.value) == (
        f"the prompt has {count} tokens, its opening and suffix included; the context holds 5\n"
        "  where: --cases, line 3\n"
        "  try:   shorten the prompt: the model would not see all of it"
    )


# ---------------------------------------------------------------- the bundled model's


def test_the_bundled_cases_are_the_hand_written_phrases() -> None:
    content = (models_dir() / "home" / "cases.tsv").read_text(encoding="utf-8")
    assert content == cases_text(TEST)


def test_the_bundled_model_answers_its_cases() -> None:
    """Lowered letters, the newline after the prompt, the end by eos."""
    source = open_source(None, None)
    assert source.model is not None
    asked = [Case("LIGHTS OFF IN THE KITCHEN", "light room=kitchen state=off", 1)]
    asked += read_cases(models_dir() / "home" / "cases.tsv")[:12]
    found = exact_match(source.model, lower(quantize_source(source, None), 128), source.tokenizer, asked)
    assert found.answered[0].float_right and found.answered[0].integer_right
    assert found.float_right >= 12 and found.integer_right >= 12
