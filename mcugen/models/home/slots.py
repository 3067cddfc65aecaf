"""The slots of the patterns: what can be said for a value, and how the action spells it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

ROOMS: Final[Mapping[str, tuple[str, ...]]] = {
    "kitchen": ("kitchen", "kitchen", "kitchen", "kitchenette"),
    "bedroom": ("bedroom", "bedroom", "bedroom", "master bedroom"),
    "bath": ("bathroom", "bathroom", "bathroom", "bath", "washroom", "toilet"),
    "living": ("living room", "living room", "lounge", "sitting room", "family room", "living"),
    "office": ("office", "office", "study", "home office"),
    "garage": ("garage",),
    "hall": ("hall", "hallway", "corridor", "entrance hall"),
    "garden": ("garden", "yard", "patio", "backyard", "terrace"),
    "attic": ("attic", "loft"),
    "basement": ("basement", "cellar"),
    "nursery": ("nursery", "nursery", "kids room", "children's room", "kid's room", "baby's room"),
    "dining": ("dining room", "dining room", "dining area", "dining"),
}
COLORS: Final[Mapping[str, tuple[str, ...]]] = {
    "red": ("red",),
    "green": ("green",),
    "blue": ("blue",),
    "white": ("white", "white", "plain white", "cold white"),
    "warm": ("warm white", "warm white", "warm"),
    "orange": ("orange", "orange", "amber"),
    "purple": ("purple", "purple", "violet"),
    "pink": ("pink",),
    "yellow": ("yellow",),
}
DOORS: Final[Mapping[str, tuple[str, ...]]] = {
    "front": ("front door", "front door", "main door", "entrance door", "house door"),
    "back": ("back door", "back door", "rear door"),
    "garage": ("garage door", "garage door", "garage"),
    "gate": ("gate", "gate", "garden gate", "front gate"),
    "shed": ("shed", "shed door"),
}
AHEAD: Final[Mapping[str, tuple[str, ...]]] = {
    "forward": ("forward", "forward", "forwards", "ahead", "straight", "straight ahead", "straight on"),
    "back": ("back", "back", "backward", "backwards"),
}
DRIVE: Final[Mapping[str, tuple[str, ...]]] = {
    "forward": ("advance", "proceed", "drive on", "carry on", "go on"),
    "back": ("reverse", "back up", "back off", "retreat", "go in reverse"),
}
SIDES: Final[Mapping[str, tuple[str, ...]]] = {"left": ("left",), "right": ("right",)}
HALFWAY: Final[Mapping[str, tuple[str, ...]]] = {
    "50": ("halfway", "half way", "half", "half-way"),
    "25": ("a quarter of the way", "one quarter"),
    "75": ("three quarters of the way", "three quarters"),
}
LEVEL_WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "0": ("zero", "nothing"),
    "25": ("a quarter",),
    "50": ("half", "half", "one half", "half power", "the middle"),
    "75": ("three quarters",),
    "100": ("full", "maximum", "the maximum", "full power", "max", "the max"),
}
ONES: Final = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS: Final = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


@dataclass(frozen=True, slots=True)
class Filled:
    """What a slot became: the text that is said, and the value the action shows under `key`."""

    text: str
    key: str = ""
    value: str = ""


Slot = Callable[[Random], Filled]


def number_words(rng: Random, n: int) -> str:
    """Spell n, 0 <= n < 1000, with the hyphen and the "and" that some people write."""
    if n < 20:
        return ONES[n]
    if n < 100:
        joint = "-" if rng.random() < 0.15 else " "
        return TENS[n // 10] + (joint + ONES[n % 10] if n % 10 else "")
    hundreds = rng.choice(("a", "one", "")) if n < 200 else ONES[n // 100]
    rest = (" and " if rng.random() < 0.4 else " ") + number_words(rng, n % 100) if n % 100 else ""
    return f"{hundreds} hundred{rest}".strip()


def number(rng: Random, n: int) -> str:
    return str(n) if rng.random() < 0.55 else number_words(rng, n)


def _pick(rng: Random, names: Mapping[str, tuple[str, ...]], key: str) -> Filled:
    value = rng.choice(tuple(names))
    return Filled(rng.choice(names[value]), key, value)


def in_room(rng: Random, text: str) -> str:
    """Put a preposition before a room."""
    if text in ("patio", "terrace"):
        before = rng.choice(("on", "on", "out on", "in", "over on"))
    elif text in ("garden", "yard", "backyard"):
        before = rng.choice(("in", "in", "in", "out in", "over in"))
    elif text in ("attic", "loft"):
        before = rng.choice(("in", "in", "in", "up in"))
    elif text in ("basement", "cellar"):
        before = rng.choice(("in", "in", "in", "down in"))
    else:
        before = rng.choice(("in",) * 12 + ("inside", "over in", "of", "for"))
    return f"{before} the {text}"


def room(rng: Random) -> Filled:
    return _pick(rng, ROOMS, "room")


def _in_room(rng: Random) -> Filled:
    filled = room(rng)
    return Filled(in_room(rng, filled.text), "room", filled.value)


def _percent_value(rng: Random) -> int:
    return rng.choice((rng.randrange(101), 5 * rng.randrange(21), 10 * rng.randrange(1, 11)))


def _percent(rng: Random) -> Filled:
    n = _percent_value(rng)
    unit = rng.choice((" percent",) * 5 + ("%",) * 4 + (" %", " per cent"))
    return Filled((str(n) if unit == "%" else number(rng, n)) + unit, "level", str(n))


def _num_level(rng: Random) -> Filled:
    n = _percent_value(rng)
    return Filled(number(rng, n), "level", str(n))


def _level(rng: Random) -> Filled:
    draw = rng.random()
    if draw < 0.08:
        return _pick(rng, LEVEL_WORDS, "level")
    return _percent(rng) if draw < 0.65 else _num_level(rng)


def _speed(rng: Random) -> Filled:
    n = rng.randrange(1, 6)
    return Filled(number(rng, n), "speed", str(n))


def _degrees(rng: Random) -> Filled:
    n = rng.choice((rng.randrange(15, 26), rng.randrange(10, 31)))
    unit = rng.choice((" degrees",) * 8 + ("°", "°", " °c", "°c", " c", " degrees celsius", " deg", " celsius"))
    return Filled((str(n) if unit.startswith("°") else number(rng, n)) + unit, "temp", str(n))


def _temp(rng: Random) -> Filled:
    if rng.random() < 0.55:
        return _degrees(rng)
    n = rng.choice((rng.randrange(15, 26), rng.randrange(10, 31)))
    return Filled(number(rng, n), "temp", str(n))


def _meters(rng: Random) -> Filled:
    unit = rng.choice(("meter", "metre"))
    text, cm = rng.choice(
        (
            (f"{rng.choice(('a', 'one', '1'))} {unit}", 100),
            (f"{rng.choice(('two', '2'))} {unit}s", 200),
            (f"{rng.choice(('three', '3'))} {unit}s", 300),
            (f"{rng.choice(('half a', 'a half', '0.5', 'half'))} {unit}", 50),
            (f"{rng.choice(('one and a half', '1.5', 'one point five'))} {unit}s", 150),
            (f"{rng.choice(('two and a half', '2.5', 'two point five'))} {unit}s", 250),
            (rng.choice(("1 m", "1m")), 100),
            (rng.choice(("2 m", "2m")), 200),
        )
    )
    return Filled(text, "distance", str(cm))


def _distance(rng: Random) -> Filled:
    if rng.random() < 0.16:
        return _meters(rng)
    n = rng.choice(
        (rng.randrange(1, 301), 10 * rng.randrange(1, 31), 5 * rng.randrange(1, 41), rng.randrange(1, 101))
    )
    unit = rng.choice((" centimeters",) * 4 + (" cm",) * 4 + (" centimetres", " centimetres", "cm", "", ""))
    if n == 1:
        unit = unit.removesuffix("s")
    return Filled((str(n) if unit == "cm" else number(rng, n)) + unit, "distance", str(n))


def _angle_value(rng: Random) -> int:
    return rng.choice((rng.randrange(1, 181), 15 * rng.randrange(1, 13), 10 * rng.randrange(1, 19), 90, 45))


def _angle(rng: Random) -> Filled:
    n = _angle_value(rng)
    unit = rng.choice((" degrees",) * 8 + ("", "", " deg", "°"))
    return Filled((str(n) if unit == "°" else number(rng, n)) + unit, "angle", str(n))


def _angle_adj(rng: Random) -> Filled:
    n = _angle_value(rng)
    return Filled(number(rng, n) + rng.choice((" degree", " degree", "-degree")), "angle", str(n))


UNITS: Final[Mapping[str, tuple[str, ...]]] = {
    "sec": ("second", "second", "second", "sec"),
    "min": ("minute", "minute", "minute", "minute", "min"),
    "hour": ("hour",),
}
DURATION_PHRASES: Final[tuple[tuple[str, str], ...]] = (
    ("half an hour", "min=30"),
    ("half an hour", "min=30"),
    ("a half hour", "min=30"),
    ("a quarter of an hour", "min=15"),
    ("quarter of an hour", "min=15"),
    ("three quarters of an hour", "min=45"),
    ("an hour", "hour=1"),
    ("one hour", "hour=1"),
    ("an hour and a half", "min=90"),
    ("one and a half hours", "min=90"),
    ("a minute", "min=1"),
    ("half a minute", "sec=30"),
    ("a couple of minutes", "min=2"),
    ("a minute and a half", "sec=90"),
)


def _duration_value(rng: Random) -> tuple[int, str]:
    unit = rng.choice(("sec", "min", "min", "hour"))
    if unit == "hour":
        return rng.choice((rng.randrange(1, 13), rng.randrange(1, 25))), unit
    return rng.choice((rng.randrange(1, 100), rng.randrange(1, 21), 5 * rng.randrange(1, 13))), unit


def _duration(rng: Random) -> Filled:
    if rng.random() < 0.14:
        text, value = rng.choice(DURATION_PHRASES)
        return Filled(text, "duration", value)
    n, unit = _duration_value(rng)
    word = rng.choice(UNITS[unit]) + ("" if n == 1 else "s")
    short = {"sec": "s", "min": "min", "hour": "h"}[unit]
    text = f"{n}{rng.choice(('', ' '))}{short}" if rng.random() < 0.06 else f"{number(rng, n)} {word}"
    return Filled(text, "duration", f"{unit}={n}")


def _duration_adj(rng: Random) -> Filled:
    if rng.random() < 0.06:
        return Filled("half hour", "duration", "min=30")
    n, unit = _duration_value(rng)
    return Filled(
        f"{number(rng, n)}{rng.choice((' ', ' ', '-'))}{rng.choice(UNITS[unit])}", "duration", f"{unit}={n}"
    )


MORNING: Final[tuple[str, ...]] = (" am", " am", " a.m.", "am", " in the morning", " tomorrow morning")
EVENING: Final[tuple[str, ...]] = (" pm", " pm", " p.m.", "pm", " in the evening", " tonight", " this evening")
AFTERNOON: Final[tuple[str, ...]] = (" pm", " pm", " p.m.", "pm", " in the afternoon", " this afternoon")


def _clock_text(rng: Random, h: int, m: int) -> str:
    """Say h:m on a clock of 24 hours, or of 12 where the caller adds "am" or "pm"."""
    if rng.random() < 0.4:
        return rng.choice((f"{h}:{m:02d}", f"{h}:{m:02d}", f"{h:02d}:{m:02d}", f"{h}.{m:02d}"))
    after = number_words(rng, (h + 1) % 24 if h != 12 else 1)
    hour = number_words(rng, h)
    minute = number_words(rng, m)
    if m == 0:
        return rng.choice((f"{number(rng, h)} o'clock", f"{hour} o'clock", f"{hour} sharp", hour, str(h)))
    spoken = f"{hour} {minute}" if m >= 10 else f"{hour} {rng.choice(('oh', 'o', 'zero'))} {minute}"
    if m == 30:
        return rng.choice((f"half past {hour}", f"half past {h}", spoken, f"half {hour}"[5:] + " thirty"))
    if m == 15:
        return rng.choice((f"quarter past {hour}", f"a quarter past {hour}", f"quarter past {h}", spoken))
    if m == 45:
        return rng.choice((f"quarter to {after}", f"a quarter to {after}", spoken))
    if m % 5 == 0 and rng.random() < 0.7:
        count, word, base = (m, "past", hour) if m < 30 else (60 - m, rng.choice(("to", "to", "before")), after)
        return f"{number(rng, count)} {rng.choice(('', '', 'minutes '))}{word} {base}"
    return spoken


def _clock(rng: Random) -> Filled:
    if rng.random() < 0.03:
        text, value = rng.choice((("noon", "12:00"), ("midnight", "00:00"), ("midday", "12:00")))
        return Filled(text, "clock", value)
    h = rng.choice((rng.randrange(24), rng.randrange(5, 11)))
    m = rng.choice((0, 0, 15, 30, 45, 5 * rng.randrange(12), rng.randrange(60)))
    day = " tomorrow" if rng.random() < 0.06 else ""
    if rng.random() < 0.3:
        half = MORNING if h < 12 else AFTERNOON if h < 18 else EVENING
        text = _clock_text(rng, h % 12 or 12, m).replace(" o'clock", "" if rng.random() < 0.5 else " o'clock")
        return Filled(text + rng.choice(half), "clock", f"{h:02d}:{m:02d}")
    return Filled(_clock_text(rng, h, m) + day, "clock", f"{h:02d}:{m:02d}")


def _names(key: str, names: Mapping[str, tuple[str, ...]]) -> Slot:
    return lambda rng: _pick(rng, names, key)


def words(*texts: str) -> Slot:
    """A slot that the action does not show."""
    return lambda rng: Filled(rng.choice(texts))


VALUE_SLOTS: Final[Mapping[str, Slot]] = {
    "room": room,
    "in_room": _in_room,
    "color": _names("color", COLORS),
    "door": _names("door", DOORS),
    "ahead": _names("ahead", AHEAD),
    "drive": _names("ahead", DRIVE),
    "side": _names("side", SIDES),
    "halfway": _names("level", HALFWAY),
    "level": _level,
    "percent": _percent,
    "num_level": _num_level,
    "speed": _speed,
    "temp": _temp,
    "degrees": _degrees,
    "distance": _distance,
    "angle": _angle,
    "angle_adj": _angle_adj,
    "duration": _duration,
    "duration_adj": _duration_adj,
    "clock": _clock,
}

DEVICE_SLOTS: Final[Mapping[str, Slot]] = {
    "lamp": words(
        *("light", "lights", "lamp") * 4,
        *("lamps", "ceiling light", "lighting", "bulb", "bulbs", "spotlights", "overhead light", "floor lamp"),
        *("ceiling lights", "ceiling lamp", "main light", "bedside lamp", "desk lamp", "led lights"),
    ),
    "fan": words("fan", "fan", "fan", "fan", "ceiling fan", "ventilator", "ventilation", "extractor fan", "air fan"),
    "heat": words("heating", "heating", "heater", "thermostat", "radiator", "heat", "radiators", "central heating"),
    "blind": words(
        "blinds", "blinds", "blind", "curtains", "curtains", "shutters", "shades", "curtain", "roller blind"
    ),
    "sound": words(
        "volume", "volume", "volume", "music volume", "sound", "music", "sound level", "speaker", "loudness"
    ),
    "dock": words(
        "dock", "base", "charger", "charging station", "docking station", "charging dock", "home base", "station"
    ),
    "speed_word": words("speed ", "speed ", "level ", "setting ", "stage ", "", ""),
}
