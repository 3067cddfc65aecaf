"""Is a story consistent? Judged by its text alone: tables of words are the grammar's, its plots are not followed.

What is found: names, pronouns, things, colors, places and the like that change on the way; a place that is looked at
twice; what does not belong together, as a castle and a rolling head; words that no story has; a sentence told twice;
quotes that are not closed; a story that does not come to its end.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import islice
from typing import Final

from .grammar import COLORS, CREATURES, ELDERS, GENDERS, HELPERS, HEROES, PLACES, SPOTS, THINGS, TRAITS, stream
from .plots import BUILD, FOUND, GIFT, LEARN, NOISE

SENTENCES: Final = range(8, 27)  # in a story; of what is spoken, each counts
ONE_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "thing": THINGS,
    "color": COLORS,
    "trait": TRAITS,
    "elder": tuple(ELDERS),
    "helper": tuple(HELPERS),
    "creature": CREATURES,
    "place": tuple(place.split()[-1] for place in PLACES),
    "weather": ("sunny|sun", "windy|wind", "rainy|raining", "snowy|snowing", "cloudy|clouds"),
    **{
        key: tuple(row[key] for row in plot.props)
        for plot, key in ((BUILD, "project"), (NOISE, "source"), (GIFT, "gift"), (LEARN, "skill"), (FOUND, "need"))
    },
}
"""Of each line a story has one word at most; forms of one word are joined by a bar."""
TOGETHER: Final = (BUILD, FOUND, GIFT, LEARN, NOISE)  # plots whose props do not mix
KIDS: Final = {"girl": "she", "boy": "he", **dict.fromkeys(HEROES, "")}
PRONOUNS: Final = {"he": "he", "him": "he", "his": "he", "she": "she", "her": "she"}

_NAME = re.compile(rf"\b(?:{'|'.join(GENDERS)})\b")
_PERSON = re.compile(rf"\b(?:{'|'.join([*GENDERS, *ELDERS])})\b|\b(?i:{'|'.join(PRONOUNS)})\b")
_KID = re.compile(rf"\b(?:little|{'|'.join(TRAITS)}) ({'|'.join(KIDS)})\b")
_SENTENCE = re.compile(r'[^.!?]+[.!?]+"?')
_WORD = re.compile(r"[A-Za-z']+")


def faults(story: str) -> list[str]:
    """Return what is wrong with a story, nothing where it is consistent."""
    title, _, body = story.rpartition("\n")
    return [
        *_mixed(story),
        *_people(title, body),
        *_told(body),
        *(f"no story says {word!r}" for word in sorted(set(_WORD.findall(story)) - _known()[0])),
    ]


def _has(text: str, word: str) -> bool:
    return re.search(rf"\b(?:{word})\b", text) is not None


def _mixed(story: str) -> Iterator[str]:
    """What there should be one of, and what does not belong together."""
    for kind, words in ONE_OF.items():
        found = [word for word in words if _has(story, word)]
        if len(found) > 1:
            yield f"more than one {kind}: {', '.join(found)}"
    for plot in TOGETHER:
        key = next(iter(plot.props[0]))
        for row in plot.props:
            if _has(story, row[key]):
                others = {other[slot] for other in plot.props for slot in row if slot in other}
                strange = {phrase for phrase in others if phrase not in row.values() and " " in phrase}
                yield from (f"{row[key]} and {phrase!r}" for phrase in sorted(strange) if phrase in story)
    spots = [spot for spot in SPOTS for _ in re.findall(spot, story, re.IGNORECASE)]
    yield from (f"looked twice {spot}" for spot, times in Counter(spots).items() if times > 1)


def _people(title: str, body: str) -> Iterator[str]:
    """Names and pronouns: at most two names, and no pronoun before one whom it can mean."""
    names = list(dict.fromkeys(_NAME.findall(body)))
    if not names:
        yield "nobody has a name"
        return
    hero = GENDERS[names[0]]
    if len(names) > 2:
        yield f"more than two names: {', '.join(names)}"
    if strangers := sorted(set(_NAME.findall(title)) - set(names)):
        yield f"only the title knows {', '.join(strangers)}"
    kids = set(_KID.findall(body))
    if len(kids) != 1 or KIDS[min(kids)] not in ("", hero):
        yield f"{names[0]} is {', '.join(sorted(kids)) or 'nobody'}"
    seen = {hero}
    for word in _PERSON.findall(body):
        if word.lower() not in PRONOUNS:
            seen.add({**GENDERS, **ELDERS}[word])
        elif PRONOUNS[word.lower()] not in seen:
            yield f"nobody is {word!r}"
    for word in re.findall(r"\b(?:He|His|She|Her)\b", body):  # where a sentence begins with it, it is the hero
        if PRONOUNS[word.lower()] != hero:
            yield f"{names[0]} is not {word!r}"


def _told(body: str) -> Iterator[str]:
    """Sentences, quotes, and the end."""
    sentences = [sentence.strip() for sentence in _SENTENCE.findall(body)]
    if len(sentences) not in SENTENCES:
        yield f"{len(sentences)} sentences"
    yield from (f"told twice: {s}" for s, n in Counter(sentences).items() if n > 1 and len(s.split()) > 4)
    if body.count('"') % 2:
        yield "a quote is not closed"
    if body.endswith("...") or not sentences or _bare(sentences[-1]) not in _known()[1]:
        yield "this is no end"


def _bare(sentence: str) -> str:
    """A sentence without what differs from story to story."""
    words = {*GENDERS, *KIDS, *PRONOUNS, *(word for words in ONE_OF.values() for word in words)}
    return " ".join("_" if word in words or word.lower() in PRONOUNS else word for word in _WORD.findall(sentence))


@cache
def _known() -> tuple[frozenset[str], frozenset[str]]:
    """All words that stories have, and all their last sentences, laid bare."""
    stories = list(islice(stream(0), 4_000))
    words = {word for story in stories for word in _WORD.findall(story)}
    return frozenset(words), frozenset(_bare(_SENTENCE.findall(story)[-1]) for story in stories)
