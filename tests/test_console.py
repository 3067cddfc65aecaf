"""The application: what is typed at its console, what it answers; on this computer and on the emulated board."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import ladder
import numpy as np
import pytest
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st

from mcugen import ladder as rungs
from mcugen import layout as layouts
from mcugen.console import END_OF_TRANSMISSION as END
from mcugen.console import answers
from mcugen.emulate import host_console
from mcugen.emulate.cortex_m import CortexM
from mcugen.generate import generate, prompt_tokens, suffix_tokens
from mcugen.ir import NO_MERGE, Config, Firmware, Tokenizer
from mcugen.layout import Layout
from mcugen.rendering import build_id
from mcugen.sampler import Sampler, make_sampler, sample
from mcugen.simulate import simulate
from mcugen.tokenizer import decode
from mcugen.toolchain import build

SHAPE = Config(16, 12, 2, 4, 2, 300, 16, True)  # 300 pieces: the 256 byte tokens are among them
LETTERS = Config(16, 12, 1, 2, 1, 24, 12, False)  # few pieces: bos and eos come soon
GREEDY = make_sampler(0, 0, 1, 1)
DEFAULT_TOKENS = layouts.MAX_TOKENS
TOO_LONG = b"? the line is too long\n"
UNKNOWN = b"? #tokens N, #sampler MULTIPLIER SHIFT TOP_K TOP_P SEED, #check N or #build\n"


def letters_tokenizer(suffix: str = "") -> Tokenizer:
    """Specials, a newline that never merges, letters and merges; no byte tokens: others become <unk>."""
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n", b"\n", b" ", *(bytes([c]) for c in b"abcdefghijklm")]
    merges = [b"ab", b"abc", b" a", b"ef", b" abc", b"def"]
    ranks = np.full(24, NO_MERGE, np.int32)
    ranks[18:] = np.arange(6)
    return Tokenizer((*pieces, *merges), ranks, first_byte=None, lowercase=True, prompt_suffix=suffix)


def layout_of(which: str) -> Layout:
    """One that reads prompts token by token, one that takes 4 at once, one with int4 weights that takes 8."""
    if which == "bytes":
        return ladder.laid_out(SHAPE, 10, seed=1)
    if which == "words":
        return ladder.laid_out(SHAPE, 10, seed=1, tokenizer=TOKENIZERS[which])
    bits, batch = {"letters": (8, 4), "suffix": (4, 8)}[which]
    return ladder.laid_out(LETTERS, 7, seed=2, tokenizer=TOKENIZERS[which], bits=bits, batch=batch)


TOKENIZERS = {
    "letters": letters_tokenizer(),
    "suffix": letters_tokenizer("\n"),
    "words": zoo.byte_level_tokenizer(300),  # cut into words, ranks of pairs
}
MODELS = ["bytes", "letters", "suffix", "words"]


def program(layout: Layout) -> Firmware:
    """The application on this computer, with sanitizers."""
    project = layouts.make_project(layouts.on_host(layout), ladder.COMMAND)
    return build(project, ladder.require("gcc", ladder.HOST), opt="-O1", extra_flags=ladder.SANITIZERS)


def on_host(layout: Layout, typed: bytes) -> bytes:
    return b"".join(host_console.console(program(layout), typed))


def on_board(layout: Layout, typed: bytes) -> bytes:
    ladder.require_unicorn()
    return b"".join(CortexM(ladder.nucleo_firmware(layout), watch_accesses=False).console(typed))


BOTH = pytest.mark.parametrize("console", [on_host, on_board], ids=["host", "nucleo"])


def banner(layout: Layout, console: object) -> bytes:
    board = ladder.HOST if console is on_host else layout.board
    return f"random on {board.name}\n".encode()


def answer(layout: Layout, prompt: bytes, tokens: int = DEFAULT_TOKENS, sampler: Sampler = GREEDY) -> bytes:
    """What the simulator says, as the console shows it."""
    found = list(generate(layout.graph, layout.tokenizer, prompt, sampler, tokens))
    text = decode(layout.tokenizer, found, prompt_tokens(layout.tokenizer, prompt)[-1])
    return text.replace(END, b"") + b"\n"


def said(output: bytes) -> list[bytes]:
    """The banner and the answers, without the byte 4 that ends each."""
    assert output.endswith(END)
    return output[:-1].split(END)


# ---------------------------------------------------------------- prompts


@BOTH
@pytest.mark.parametrize("which", MODELS)
def test_greedy_answers_are_the_simulators(which: str, console: type[on_host]) -> None:
    layout = layout_of(which)
    prompts = [b"abc def", b"", b"a", b" ", b"ABC, abc.", "größer".encode(), b"\xff\xfe\x80", b"!" * 40]
    typed = b"#tokens 20\n" + b"".join(prompt + b"\n" for prompt in prompts)
    expected = [answer(layout, prompt, 20) for prompt in prompts]
    assert len(set(expected)) > 2  # the answers depend on the prompts
    assert said(console(layout, typed)) == [banner(layout, console), b"", *expected]


@BOTH
def test_an_answer_ends_after_max_tokens_unless_told_otherwise(console: type[on_host]) -> None:
    """The ring wraps and the keys are turned back while one answer is generated."""
    layout = layout_of("bytes")
    expected = [banner(layout, console), answer(layout, b"abc"), b"", b"\n", b"", answer(layout, b"abc", 1)]
    assert len(simulate(layout.graph, [1] * DEFAULT_TOKENS).rebased) > 2
    assert said(console(layout, b"abc\n#tokens 0\nabc\n#tokens 1\nabc\n")) == expected


SETTINGS = [(1.0, 0, 1.0), (0.7, 5, 1.0), (1.5, 0, 0.9), (2.5, 12, 0.5), (0.05, 1, 0.01), (100.0, 0, 1.0)]


@BOTH
@pytest.mark.parametrize("which", MODELS)
def test_sampled_answers_are_the_simulators(which: str, console: type[on_host]) -> None:
    layout = layout_of(which)
    typed, expected = [b"#tokens 12"], [banner(layout, console), b""]
    for (temperature, top_k, top_p), seed in itertools.product(SETTINGS, (0, 1, 2**32 - 1)):
        sampler = make_sampler(temperature, top_k, top_p, seed)
        typed += [rungs.sampler_line(sampler).encode(), b"abc"]
        expected += [b"", answer(layout, b"abc", 12, sampler)]
    assert len(set(expected)) > 10
    assert said(console(layout, b"\n".join(typed) + b"\n")) == expected


@BOTH
def test_the_random_numbers_go_on_from_answer_to_answer(console: type[on_host]) -> None:
    layout = layout_of("bytes")
    sampler = make_sampler(1.5, 0, 1.0, 7)
    typed = f"#tokens 9\n{rungs.sampler_line(sampler)}\n".encode() + b"x\n" * 3
    found = said(console(layout, typed))[3:]
    for text in found:
        assert text == answer(layout, b"x", 9, sampler)
        sampler = _after(layout, b"x", sampler, 9)
    assert len(set(found)) == 3


def _after(layout: Layout, prompt: bytes, sampler: Sampler, tokens: int) -> Sampler:
    """The sampler after an answer."""
    drawn = prompt_tokens(layout.tokenizer, prompt)
    for _ in range(tokens):
        logits = simulate(layout.graph, drawn).outputs[-1][0][-1]
        token, sampler = sample(sampler, logits)
        if token in (layout.tokenizer.bos, layout.tokenizer.eos):
            break
        drawn.append(token)
    return sampler


@BOTH
def test_an_answer_ends_at_bos_and_at_eos(console: type[on_host]) -> None:
    layout = layout_of("letters")
    typed, expected, ends = [b"#tokens 40"], [banner(layout, console), b""], set()
    for seed in range(30):
        sampler = make_sampler(1.0, 0, 1.0, seed)
        typed += [rungs.sampler_line(sampler).encode(), b"abc"]
        expected += [b"", answer(layout, b"abc", 40, sampler)]
        found = list(generate(layout.graph, layout.tokenizer, b"abc", sampler, 40))
        logits = simulate(layout.graph, [*prompt_tokens(layout.tokenizer, b"abc"), *found]).outputs[-1][0]
        state = sampler
        for row in logits[-len(found) - 1 :]:
            token, state = sample(state, row)
        ends.add(token if len(found) < 40 else None)
    assert ends >= {layout.tokenizer.bos, layout.tokenizer.eos}
    assert said(console(layout, b"\n".join(typed) + b"\n")) == expected


def test_the_suffix_follows_the_prompt() -> None:
    with_suffix, without = layout_of("suffix"), layout_of("letters")
    assert suffix_tokens(with_suffix.tokenizer) == [3]
    assert prompt_tokens(with_suffix.tokenizer, b"abc") == [*prompt_tokens(without.tokenizer, b"abc"), 3]
    assert said(on_host(with_suffix, b"abc\n")) != said(on_host(without, b"abc\n"))


# ---------------------------------------------------------------- lines


@BOTH
def test_every_line_end_is_one(console: type[on_host]) -> None:
    layout = layout_of("letters")
    one = answer(layout, b"ab", 5)
    empty = answer(layout, b"", 5)
    lines = b"#tokens 5\nab\rab\nab\r\nab\n\nab\r\rab\r\n\r\n"
    expected = [b"", one, one, one, one, empty, one, empty, one, empty]
    assert said(console(layout, lines)) == [banner(layout, console), *expected]


@BOTH
def test_backspace_takes_the_last_byte_back(console: type[on_host]) -> None:
    layout = layout_of("letters")
    lines = [b"abx\x08c", b"\x08\x7fabc", b"abcd\x7f", b"x\x08\x08\x08abc", b"a" * 170 + b"\x08" * 170 + b"abc"]
    lines += [b"j" * 170 + b"\x08" * 10, b"j" * 170 + b"\x08" * 9]
    expected = [b"", *[answer(layout, b"abc", 5)] * 5, answer(layout, b"j" * 160, 5), TOO_LONG]
    assert said(console(layout, b"#tokens 5\n" + b"\n".join(lines) + b"\n")) == [banner(layout, console), *expected]


@BOTH
@pytest.mark.parametrize("which", MODELS)
def test_a_line_has_at_most_160_bytes(which: str, console: type[on_host]) -> None:
    """The longest line works with any vocabulary, whatever comes of its bytes, and the one after a longer one too."""
    layout = layout_of(which)
    longest = [b"j" * 160, b"\xff" * 160, "ä".encode() * 80]
    lines = [*longest, b"j" * 161, b"abc", b"j" * 1000, b"#" * 161]
    expected = [*(answer(layout, line, 3) for line in [*longest]), TOO_LONG, answer(layout, b"abc", 3)]
    found = said(console(layout, b"#tokens 3\n" + b"\n".join(lines) + b"\n"))
    assert found == [banner(layout, console), b"", *expected, TOO_LONG, TOO_LONG]


@BOTH
def test_what_has_no_end_of_line_is_not_answered(console: type[on_host]) -> None:
    layout = layout_of("letters")
    assert said(console(layout, b"#tokens 2\nabc\ndef")) == [banner(layout, console), b"", answer(layout, b"abc", 2)]


@settings(max_examples=25)
@given(prompts=st.lists(st.binary(max_size=60), min_size=1, max_size=12))
def test_a_prompt_of_any_bytes_is_answered_as_the_simulator_does(prompts: list[bytes]) -> None:
    typed = [bytes(byte for byte in prompt if byte not in b"\n\r\x08\x7f").lstrip(b"#") for prompt in prompts]
    for which in ("bytes", "suffix"):
        layout = layout_of(which)
        found = said(on_host(layout, b"#tokens 4\n" + b"".join(prompt + b"\n" for prompt in typed)))
        assert found[2:] == [answer(layout, prompt, 4) for prompt in typed]


# ---------------------------------------------------------------- commands


REFUSED = [
    b"#", b"# ", b"#tokens", b"#tokens ", b"#tokens x", b"#tokens 1 2", b"#tokens -1", b"#tokens 1.5",
    b"#tokens 2147483648", b"#tokens 4294967297", b"#tokens 99999999999999999999", b"#Tokens 1", b"#token 1", b"#tokens1",
    b"#sampler", b"#sampler 0 0 0 65536", b"#sampler 0 0 0 65536 1 1", b"#sampler 32768 0 0 65536 1",
    b"#sampler 16384 32 0 65536 1", b"#sampler 16384 5 0 0 1", b"#sampler 16384 5 0 65537 1", b"#sampler 16384 5 0 65536 0",
    b"#sampler 4294967296 5 0 65536 1", b"#check", b"#check x", b"#check 1 1", b"#check 4294967297", b"#help",
    b"#buil", b"#build ", b"#builds", b"#Build",
]  # fmt: skip


@BOTH
def test_a_line_that_is_no_command_is_refused_and_changes_nothing(console: type[on_host]) -> None:
    layout = layout_of("letters")
    typed = b"#tokens 4\n" + b"\n".join(REFUSED) + b"\nabc\n"
    expected = [b"", *[UNKNOWN] * len(REFUSED), answer(layout, b"abc", 4)]
    assert said(console(layout, typed)) == [banner(layout, console), *expected]


@BOTH
def test_commands_take_any_number_of_spaces(console: type[on_host]) -> None:
    layout = layout_of("letters")
    sampler = Sampler(20000, 3, 5, 40000, 77)
    typed = b"#tokens   4  \n#sampler 20000  3 5 40000   77\nabc\n"
    assert said(console(layout, typed)) == [banner(layout, console), b"", b"", answer(layout, b"abc", 4, sampler)]


@BOTH
def test_the_largest_numbers_are_taken(console: type[on_host]) -> None:
    layout = layout_of("letters")
    sampler = Sampler(32767, 31, 2**32 - 1, 65536, 2**32 - 1)
    typed = b"#tokens 2147483647\n#tokens 4\n#sampler 32767 31 4294967295 65536 4294967295\nabc\n"
    assert said(console(layout, typed)) == [
        banner(layout, console), b"", b"", b"", answer(layout, b"abc", 4, sampler)
    ]  # fmt: skip


@BOTH
@pytest.mark.parametrize("which", MODELS)
def test_check_prints_tokens_and_hashes_of_all_logits(which: str, console: type[on_host]) -> None:
    """Over several wraps of the ring; what was said before makes no difference, nor does it to what follows."""
    layout = layout_of(which)
    tokens = rungs.verification_tokens(layout.graph, layout.tokenizer, 40)
    lines = rungs.check_lines(layout.graph, tokens)
    assert lines.count(b"\n") == 40
    found = said(console(layout, b"#tokens 3\nabc\n#check 40\nabc\n#check 0\n"))
    text = answer(layout, b"abc", 3)
    assert found == [banner(layout, console), b"", text, lines, text, b""]


@BOTH
def test_build_says_which_build_it_is(console: type[on_host]) -> None:
    layout = layout_of("letters")
    here = layouts.on_host(layout) if console is on_host else layout
    build = build_id(layouts.make_project(here, ladder.COMMAND).files)
    expected = banner(layout, console).replace(b"\n", f", build {build}\n".encode())
    assert said(console(layout, b"#build\n#build\n")) == [banner(layout, console), expected, expected]


def test_fnv1a_is_the_published_function() -> None:
    """Vectors of the FNV draft (Fowler, Noll, Vo, Eastlake: The FNV Non-Cryptographic Hash Algorithm, appendix)."""
    vectors = {b"": 0x811C9DC5, b"a": 0xE40C292C, b"foobar": 0xBF9CF968}
    assert {text: rungs.fnv1a(text) for text in vectors} == vectors


# ---------------------------------------------------------------- the protocol, seen from Python


@given(parts=st.lists(st.binary(max_size=6)))
def test_answers_cuts_at_every_end_of_transmission(parts: list[bytes]) -> None:
    found: dict[int, bytes] = {}
    for index, text in answers(parts):
        assert text
        found[index] = found.get(index, b"") + text
    expected = dict(enumerate(b"".join(parts).split(END)))
    assert found == {index: text for index, text in expected.items() if text}


def test_answers_come_as_they_come() -> None:
    def stream() -> Iterable[bytes]:
        yield b"one"
        raise AssertionError("read too far")

    assert next(iter(answers(stream()))) == (0, b"one")


def test_the_end_of_transmission_never_comes_from_the_model() -> None:
    """A byte token of 4 would cut the answer in two: the console leaves it out."""
    layout = layout_of("bytes")
    found = {}
    for seed in range(60):
        sampler = make_sampler(100.0, 0, 1.0, seed)
        drawn = generate(layout.graph, layout.tokenizer, b"a", sampler, 100)
        if END in decode(layout.tokenizer, drawn):
            found[f"{rungs.sampler_line(sampler)}\na\n".encode()] = answer(layout, b"a", 100, sampler)
    assert found
    assert said(on_host(layout, b"#tokens 100\n" + b"".join(found)))[3::2] == list(found.values())
