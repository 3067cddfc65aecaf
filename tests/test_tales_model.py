"""The model of little stories: its grammar, the checker that judges stories, and that the shipped weights tell them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from itertools import islice
from random import Random

import ladder
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from zoo import NEAREST

from mcugen.cli import mcugen
from mcugen.ir import NO_MERGE, Model, Tokenizer
from mcugen.lower import lower
from mcugen.models import bpe
from mcugen.models.tales import check, evaluate, grammar, vocabulary
from mcugen.models.tales.plots import PLOTS, Plot
from mcugen.quantize import quantize, self_calibration
from mcugen.reference import FloatDecoder, log_softmax
from mcugen.simulate import Simulator
from mcugen.tokenizer import decode, encode

STREAM_SHA256 = "1b51cb65c7148cdfdf7c3f10e6375607e613f27658c2f5c93948bf5f5acb72be"
"""Of the first 2,000 stories of seed 1, with an empty line between two: what the shipped weights were trained on."""


@pytest.fixture(scope="module")
def stories() -> list[str]:
    return list(islice(grammar.stream(1), 2_000))


@pytest.fixture(scope="module")
def tales() -> tuple[Model, Tokenizer]:
    return evaluate.load()


# ---------------------------------------------------------------- grammar


def test_the_stream_is_the_one_the_shipped_model_was_trained_on(stories: Sequence[str]) -> None:
    assert hashlib.sha256("\n\n".join(stories).encode()).hexdigest() == STREAM_SHA256


def test_seeds_give_different_streams() -> None:
    first, second = (list(islice(grammar.stream(seed), 50)) for seed in (1, 2))
    assert not set(first) & set(second)


def test_stories_are_plain_text(stories: Sequence[str]) -> None:
    """ASCII letters and a little punctuation, one line below a title, nothing left of a pattern."""
    plain = re.compile(r"""(?:[A-Z][A-Za-z', ]+[!?]?\n)?[A-Z][A-Za-z'",.:!? ]+[.!]"?""")
    assert not [story for story in stories if not plain.fullmatch(story)]
    assert not [story for story in stories if re.search(r"  | [.,!?]|[.!?][A-Za-z]|\bi\b|\ba [aeiou]", story)]


def test_stories_differ_and_have_a_readable_length(stories: Sequence[str]) -> None:
    assert len(set(stories)) == len(stories)
    lengths = [len(story.split()) for story in stories]
    assert min(lengths) > 60 and max(lengths) < 170 and 95 < np.mean(lengths) < 125
    assert 500 < len({word.lower() for story in stories for word in re.findall(r"[A-Za-z']+", story)}) < 650


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.name)
def test_every_way_of_a_plot_can_be_told(plot: Plot) -> None:
    """Each title and each way of each beat, with each row of props, names only slots that the cast fills."""
    rng = Random(3)
    for row in plot.props:
        words = {**grammar.cast(rng, plot), **row}
        for way in (*plot.titles, *(way for beat in plot.beats for way in beat)):
            assert not re.search(r"[{}()|/]", grammar.say(rng, way, words)), way


@pytest.mark.parametrize(
    ("text", "capitals"),
    [
        ("{he} ran. then", "{he} ran. Then"),
        ('"no!" said {N}. "it is mine!" i know', '"No!" said {N}. "It is mine!" I know'),
        ('"why?" he asked. "yes," said she, "if i can." so', '"Why?" he asked. "Yes," said she, "if I can." So'),
    ],
)
def test_capitalize(text: str, capitals: str) -> None:
    assert grammar.capitalize(text) == capitals


# ---------------------------------------------------------------- checker


def test_the_checker_accepts_every_story_of_the_grammar(stories: Sequence[str]) -> None:
    assert [(story, found) for story in stories if (found := check.faults(story))] == []


LOST = (
    "Mia and the red kite\n"
    "Once upon a time, there was a brave little girl named Mia. She had a red kite and took it everywhere. One sunny "
    "day, she took it to the park, but after a while, the kite was gone. She looked under a bench and behind a tree, "
    'but it was not there. Soon, her friend Tom came along. "What is wrong?" asked Tom. "My red kite is gone," said '
    'Mia. "I will help you," said Tom. They looked everywhere. At last, Tom found it in the grass! "Thank you, Tom!" '
    'said Mia. "You are a true friend." At home, Mom smiled. "What a brave girl you are," she said. From that day on, '
    "Mia took good care of the red kite."
)
BUILD = (
    "Once upon a time, there was a kind little fox named Pip. One snowy day, he wanted to build a snowman in the "
    "garden. Pip used snow and a carrot, and it took a long time. But then the head rolled off. Pip was sad. Just "
    'then, a small owl named Dot came by. "Do not give up," said Dot. "Let us try again together." So they started '
    "again. Pip made a bigger body, and Dot helped him. They were very proud. The next day, everyone came to see the "
    "snowman."
)


@pytest.mark.parametrize("story", [LOST, BUILD, LOST.partition("\n")[2]])
def test_the_checker_accepts_a_good_story(story: str) -> None:
    assert check.faults(story) == []


@pytest.mark.parametrize(
    ("story", "right", "wrong", "fault"),
    [
        (LOST, "of the red kite", "of the blue kite", "more than one color: red, blue"),
        (LOST, "of the red kite", "of the red ball", "more than one thing: kite, ball"),
        (LOST, "What a brave", "What a kind", "more than one trait: kind, brave"),
        (LOST, "to the park", "to the park by the lake", "more than one place: park, lake"),
        (LOST, "At home, Mom", "Dad was there. At home, Mom", "more than one elder: Mom, Dad"),
        (LOST, "They looked", "It was windy. They looked", "more than one weather: sunny|sun, windy|wind"),
        (LOST, "in the grass", "behind a tree", "looked twice behind a tree"),
        (LOST, "said Mia.", "said Anna.", "more than two names: Mia, Tom, Anna"),
        (LOST, "Mia and the", "Ella and the", "only the title knows Ella"),
        (LOST, "She had", "He had", "nobody is 'He'"),
        (LOST, "She looked", "He looked", "Mia is not 'He'"),
        (LOST, "little girl named", "little boy named", "Mia is boy, girl"),
        (LOST, "took good care", "took goob care", "no story says 'goob'"),
        (LOST, "They looked everywhere.", "They looked everywhere here and there. " * 2,
         "told twice: They looked everywhere here and there."),
        (LOST, '"I will help', "I will help", "a quote is not closed"),
        (LOST, " From that day on, Mia took good care of the red kite.", "", "this is no end"),
        (LOST, "care of the red kite.", "care of the red kite...", "this is no end"),
        (BUILD, "Pip used snow", "Pip used sand and shells", "snowman and 'sand and shells'"),
        (BUILD, "the snowman.", "the tower.", "more than one project: snowman, tower"),
        (BUILD, "a small owl", "a robin and a small owl", "more than one helper: owl, robin"),
        (BUILD, "Do not give up,", "Do not give up. " * 20, "32 sentences"),
    ],
)  # fmt: skip
def test_the_checker_finds_what_does_not_fit(story: str, right: str, wrong: str, fault: str) -> None:
    assert right in story
    assert fault in check.faults(story.replace(right, wrong, 1))


def test_the_checker_takes_any_text() -> None:
    assert check.faults("") == ["nobody has a name", "0 sentences", "this is no end"]
    assert check.faults("light room=bedroom state=on")


# ---------------------------------------------------------------- vocabulary


def test_word_by_word_is_the_tokenizer(tales: tuple[Model, Tokenizer], stories: Sequence[str]) -> None:
    _, tokenizer = tales
    encoder = vocabulary.StoryEncoder(tokenizer)
    for story in stories[:300]:
        tokens = encoder.story(story)
        assert tokens == [*encode(tokenizer, story), tokenizer.eos]
        assert tokenizer.unk not in tokens
        assert decode(tokenizer, tokens[1:], tokenizer.bos).decode() == story
    assert max(len(encoder.story(story)) for story in stories) <= evaluate.LIMIT


@given(st.text(alphabet="".join(vocabulary.CHARACTERS) + "7é€*", max_size=40))
def test_word_by_word_is_the_tokenizer_on_any_text(tales: tuple[Model, Tokenizer], text: str) -> None:
    _, tokenizer = tales
    expected = encode(tokenizer, text, bos=False) if text else encode(tokenizer, " ", bos=False)[:1]
    assert vocabulary.StoryEncoder(tokenizer).encode(f" {text}") == expected


def test_learned_pieces_keep_to_words_and_quotes() -> None:
    tokenizer = vocabulary.learn(seed=3, stories=300, size=160)
    merges = [
        piece.decode() for piece, rank in zip(tokenizer.pieces, tokenizer.ranks, strict=True) if rank != NO_MERGE
    ]
    assert len(merges) == 160 - len(vocabulary.CHARACTERS) - len(bpe.SPECIALS)
    assert all(re.fullmatch(r""" ?[A-Za-z']+| "|[.,!?]\"""", piece) for piece in merges)


# ---------------------------------------------------------------- the shipped model


def test_the_shipped_model_is_small_and_complete(tales: tuple[Model, Tokenizer]) -> None:
    model, tokenizer = tales
    facts = json.loads((evaluate.FOLDER / "model.json").read_text())
    assert (evaluate.FOLDER / "model.bin").stat().st_size < 1_100_000
    assert model.config.seq_len == 256 and model.config.vocab_size == len(tokenizer.pieces) == vocabulary.VOCAB_SIZE
    assert not tokenizer.lowercase and tokenizer.prompt_suffix == "" and tokenizer.first_byte is None
    assert facts["name"] == "tales" and "MIT" in facts["data"] and facts["training"]["steps"] > 0


def stated(kind: str) -> evaluate.Figures:
    return evaluate.Figures(**json.loads((evaluate.FOLDER / "model.json").read_text())[kind])


def test_the_shipped_model_is_as_good_as_it_says(tales: tuple[Model, Tokenizer]) -> None:
    size, said = 24, stated("figures")
    found = evaluate.measure(evaluate.float_model(*tales), tales[1], size)
    assert found.perplexity < 1.03 * said.perplexity
    for ours, theirs in ((found.sampled, said.sampled), (found.greedy, said.greedy)):
        assert ours / size > theirs / said.stories - 0.1


def test_the_integers_are_as_good_as_it_says(tales: tuple[Model, Tokenizer]) -> None:
    size, said = 5, stated("integer_figures")
    tell, _ = evaluate.integer_model(*tales)
    sampled, greedy = evaluate.tell_both(tell, size)
    wrong = [story for story in (*sampled, *greedy) if check.faults(story)]
    assert len(wrong) <= 2 + round(2 * size * (1 - (said.sampled + said.greedy) / 2 / said.stories))


@pytest.mark.parametrize(("bits", "nats", "agreement"), [(8, 0.0005, 0.985), (4, 0.01, 0.955)])
def test_the_integers_stay_close_to_float(
    tales: tuple[Model, Tokenizer], bits: int, nats: float, agreement: float
) -> None:
    """Rung 2 for this model, on stories that it never saw: measured 0.0001 nats and 99.4 %; with int4 weights 0.0029
    nats and 97.2 %."""
    model, tokenizer = tales
    graph = lower(quantize(model, self_calibration(model, eos=tokenizer.eos), NEAREST[bits]), 256)
    kl, agree = [], []
    for story in evaluate.unseen(6):
        tokens = np.array(encode(tokenizer, story))
        expected = log_softmax(FloatDecoder(model).forward(tokens[None])[0])
        observed = log_softmax(Simulator(graph).feed(tokens) / 65536)
        kl.append((np.exp(expected) * (expected - observed)).sum(-1))
        agree.append(expected.argmax(-1) == observed.argmax(-1))
    assert np.concatenate(kl).mean() < nats
    assert np.concatenate(agree).mean() > agreement


@pytest.mark.parametrize("prompt", ["", "Once upon a time", "Mia and the red kite", "once upon a time"])
def test_a_story_follows_from_any_beginning(tales: tuple[Model, Tokenizer], prompt: str) -> None:
    tell, _ = evaluate.float_model(*tales)
    (story,) = tell([prompt], 0.0)
    capital = story[:1].upper() + story[1:]
    assert story.startswith(prompt) and not check.faults(capital)


def test_it_verifies_on_this_computer_and_tells_a_story_to_its_end() -> None:
    ladder.require("gcc", ladder.HOST)
    host = ["tales", "--board", "host", "--toolchain", "gcc"]
    verified = CliRunner().invoke(mcugen, ["verify", *host, "--tokens", "30", "--json"], catch_exceptions=False)
    assert json.loads(verified.stdout)["passed"] is True
    for prompt in ("", "Once upon a time"):
        told = CliRunner().invoke(mcugen, ["run", *host, "--quiet", "--prompt", prompt], catch_exceptions=False)
        assert check.faults(prompt + told.stdout.removesuffix("\n")) == []


def test_what_is_greedy_begins_with_a_beginning() -> None:
    assert evaluate.beginning("Mia and the red kite\nMia was. So.") == "Mia and the red kite"
    assert evaluate.beginning("Mia was kind. She had a kite.") == "Mia was kind."


def test_a_story_that_does_not_end_says_so(tales: tuple[Model, Tokenizer]) -> None:
    _, tokenizer = tales
    assert evaluate._text(tokenizer, encode(tokenizer, "Mia was", bos=False)) == "Mia was..."
    assert evaluate._text(tokenizer, [*encode(tokenizer, "Mia was", bos=False), tokenizer.eos, 70]) == "Mia was"
