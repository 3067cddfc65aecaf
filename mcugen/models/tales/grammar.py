"""Tell stories: a plot, a cast that stays the same to the end, and for each beat one of its ways.

Everything is decided by the random.Random that is passed in, so a seed fixes the stream. All text is ASCII and the
project's own, under its licence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Final

from mcugen.models.patterns import choose

from .plots import PLOTS, Plot

GIRLS: Final = ("Mia", "Lily", "Anna", "Ella", "Zoe", "Rosa", "Nora", "Ida", "Emma", "Lucy")
BOYS: Final = ("Ben", "Tom", "Max", "Leo", "Sam", "Finn", "Noah", "Paul", "Jack", "Otto")
ANIMALS: Final = {
    **dict.fromkeys(("Dot", "Hazel", "Poppy", "Luna"), "she"),
    **dict.fromkeys(("Pip", "Rusty", "Bruno", "Oscar"), "he"),
}
GENDERS: Final[Mapping[str, str]] = {**dict.fromkeys(GIRLS, "she"), **dict.fromkeys(BOYS, "he"), **ANIMALS}
ELDERS: Final = {"Mom": "she", "Dad": "he", "Grandma": "she", "Grandpa": "he"}
CASES: Final = {"he": ("he", "him", "his"), "she": ("she", "her", "her")}

HEROES: Final = ("fox", "rabbit", "bear", "frog", "duck")
HELPERS: Final = {"squirrel": "climbed up", "cat": "climbed up", "owl": "flew up", "robin": "flew up"}
CREATURES: Final = ("kitten", "puppy", "bird", "lamb")
TRAITS: Final = ("kind", "brave", "clever", "curious", "cheerful")
COLORS: Final = ("red", "blue", "green", "yellow", "orange", "purple")
THINGS: Final = (
    "kite", "ball", "balloon", "hat", "plane", "scarf", "boat", "drum", "car", "doll", "book",
)  # fmt: skip
PLACES: Final = ("in the park", "in the garden", "in the forest", "in the meadow", "at the beach", "at the lake")
SPOTS: Final = (
    "behind a tree", "under a bench", "in the grass", "behind a wall", "under a bush", "next to a fence",
    "between two stones", "under some leaves",
)  # fmt: skip
WEATHER: Final = {
    "sunny": "the sun was still shining",
    "windy": "the wind was still blowing",
    "rainy": "it was still raining",
    "snowy": "it was still snowing",
    "cloudy": "the clouds were gone",
}
TITLED: Final = 0.4  # share of stories that begin with a title

_SLOT = re.compile(r"\{(\w+)\}")
_SENTENCE = re.compile(r'(^"?|[.!?] "?|[.!]" "|\." )([a-z])')


def cast(rng: Random, plot: Plot) -> dict[str, str]:
    """Draw what the slots of a plot stand for."""
    props = rng.choice(plot.props)
    hero_is_animal = plot.friends != "child" and rng.random() < 0.3
    hero = rng.choice(tuple(ANIMALS) if hero_is_animal else GIRLS + BOYS)
    child = not hero_is_animal and (plot.friends == "child" or (plot.friends == "any" and rng.random() < 0.6))
    friend = rng.choice([name for name in (GIRLS + BOYS if child else tuple(ANIMALS)) if name != hero])
    animal = rng.choice(tuple(HELPERS))
    elder = rng.choice(tuple(ELDERS))
    weather = rng.choice(props.get("weather", "").split() or plot.weather or tuple(WEATHER))
    place = rng.choice(PLACES)
    he, him, his = CASES[GENDERS[hero]]
    fhe, fhim, fhis = CASES[GENDERS[friend]]
    spot, spot1, spot2 = rng.sample(SPOTS, 3)
    try1, try2 = rng.sample(plot.tries, 2)
    kid = rng.choice(HEROES) if hero_is_animal else {"she": "girl", "he": "boy"}[GENDERS[hero]]
    met = f"a {rng.choice(('small', 'young', 'nice'))} {animal} named {friend}"
    return {
        **{"N": hero, "he": he, "him": him, "his": his, "kid": kid, "trait": rng.choice(TRAITS)},
        **{"F": friend, "fhe": fhe, "fhim": fhim, "fhis": fhis},
        "friend": f"{his} friend {friend}" if child else met,
        "ffriend": friend if child else met,
        "ability": "came back with a ladder" if child else HELPERS[animal],
        **{"E": elder, "ehe": ELDERS[elder]},
        **{"red": rng.choice(COLORS), "thing": rng.choice(plot.things or THINGS), "creature": rng.choice(CREATURES)},
        **{"day": f"{weather} {rng.choice(('day', 'morning', 'afternoon'))}", "still": WEATHER[weather]},
        **{"to": place.replace("in ", "to ").replace("at ", "to "), "there": place},
        **{"spot": spot, "spot1": spot1, "spot2": spot2, "try1": try1, "try2": try2},
        **{slot: value for slot, value in props.items() if slot != "weather"},
    }


def say(rng: Random, pattern: str, words: Mapping[str, str]) -> str:
    """Settle a pattern and fill its slots, whose values may hold alternatives and slots, too."""
    text = choose(rng, pattern)
    while _SLOT.search(text):
        text = choose(rng, _SLOT.sub(lambda match: words[match[1]], text))
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def capitalize(text: str) -> str:
    """Capital letters where sentences start, and for I. A question or an exclamation goes on behind its quote."""
    text = _SENTENCE.sub(lambda match: match[1] + match[2].upper(), text)
    return re.sub(r"\bi\b", "I", text)


def tell(rng: Random, plot: Plot, *, short: bool = False) -> str:
    """Return one story: a title and a newline where it has one, then sentences in one line.

    short: only the opening and two of the other beats, to learn first who is who.
    """
    words = cast(rng, plot)
    chosen = [0, *sorted(rng.sample(range(1, len(plot.beats)), 2))] if short else range(len(plot.beats))
    beats = [say(rng, rng.choice(plot.beats[i]), words) for i in chosen]
    text = " ".join(capitalize(beat) for beat in beats if beat)
    if rng.random() < TITLED:
        return f"{capitalize(say(rng, rng.choice(plot.titles), words))}\n{text}"
    return text


def stream(seed: int, *, plots: Sequence[Plot] = PLOTS, short: bool = False) -> Iterator[str]:
    """An endless stream of stories, fixed by its seed."""
    rng = Random(seed)
    while True:
        yield tell(rng, rng.choice(plots), short=short)
