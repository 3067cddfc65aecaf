"""Draw (utterance, action) pairs: a clause or two from the templates, wrapped the way people talk.

Everything is decided by the random.Random that is passed in, so a seed fixes the stream.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Final

from mcugen.models.patterns import choose, expansions

from .chat import CHAT, CHAT_SLOTS
from .phrases import DEVELOPMENT, TEST
from .slots import COLORS, DEVICE_SLOTS, DOORS, ROOMS, VALUE_SLOTS, Filled, Slot, in_room
from .templates import INTENTS, Intent

_ROOM = "room=(?:" + "|".join(ROOMS) + ")"
_DOOR = "door=(?:" + "|".join(DOORS) + ")"
_LEVEL = r"(?:\d{1,2}|100)"
_ACTIONS = (
    f"(?:light|fan) {_ROOM} state=(?:on|off)",
    f"light {_ROOM} level={_LEVEL}",
    f"light {_ROOM} color=(?:{'|'.join(COLORS)})",
    f"fan {_ROOM} speed=[1-5]",
    rf"heat {_ROOM} (?:temp=[1-3]\d|state=off)",
    f"blind {_ROOM} (?:state=(?:open|close)|pos={_LEVEL})",
    f"lock {_DOOR} state=(?:lock|unlock)",
    r"robot (?:move=(?:forward|back) cm=\d{1,3}|turn=(?:left|right) deg=\d{1,3}|stop|dock)",
    f"robot clean=(?:{'|'.join(ROOMS)})",
    r"timer (?:(?:sec|min|hour)=\d{1,2}|cancel)",
    r"alarm at=(?:[01]\d|2[0-3]):[0-5]\d",
    f"music (?:vol={_LEVEL}|play|pause|next)",
    f"ask (?:(?:temp|humidity) {_ROOM}|lock {_DOOR}|battery|time)",
)
_ACTION = f"(?:{'|'.join(_ACTIONS)})"
ACTION_GRAMMAR: Final = re.compile(f"none|{_ACTION}(?:; {_ACTION})?")
"""What an action may look like, for re.fullmatch."""

HOLD_OUT: Final = 12  # one pattern in so many is never trained on
NONE_SHARE: Final = 0.13  # share of examples that are not for the house
SLOTS: Final[dict[str, Slot]] = {**VALUE_SLOTS, **DEVICE_SLOTS, **CHAT_SLOTS}
_SLOT = re.compile(r"\{(\w+)\}")
_SPACES = re.compile(r" {2,}")


# ---------------------------------------------------------------- patterns


@dataclass(frozen=True, slots=True)
class Template:
    """One pattern of an intent. form: which of the intent's tuples it is from: "order", "wish", "remark"."""

    intent: Intent
    form: str
    pattern: str


def _templates(intent: Intent) -> tuple[Template, ...]:
    forms = (("order", intent.orders), ("wish", intent.wishes), ("remark", intent.remarks))
    return tuple(Template(intent, form, pattern) for form, patterns in forms for pattern in patterns)


def _held_out(intent: Intent) -> frozenset[str]:
    """The patterns kept from training: of each intent the 1/12 (rounded) with the lowest CRC-32."""
    patterns = sorted(
        (template.pattern for template in _templates(intent)),
        key=lambda pattern: (zlib.crc32(f"{intent.name}|{pattern}".encode()), pattern),
    )
    return frozenset(patterns[: (len(patterns) + HOLD_OUT // 2) // HOLD_OUT])


TRAINED: Final[dict[str, tuple[Template, ...]]] = {
    intent.name: tuple(t for t in _templates(intent) if t.pattern not in _held_out(intent)) for intent in INTENTS
}
HELD_OUT: Final[dict[str, tuple[Template, ...]]] = {
    intent.name: tuple(t for t in _templates(intent) if t.pattern in _held_out(intent)) for intent in INTENTS
}
HELD_OUT_SKELETONS: Final[frozenset[str]] = frozenset(
    skeleton for templates in HELD_OUT.values() for t in templates for skeleton in expansions(t.pattern)
)


def plain(text: str) -> str:
    """An utterance without its punctuation, to compare it with the held-out phrases."""
    return _SPACES.sub(" ", re.sub(r"[^a-z0-9' ]", " ", text.lower())).strip()


HELD_OUT_PHRASES: Final[frozenset[str]] = frozenset(plain(text) for text, _ in DEVELOPMENT + TEST)


def fill(rng: Random, pattern: str, known: dict[str, str]) -> str:
    """Fill the slots of a settled pattern; the values join `known`, and a room known already is said again."""

    def one(match: re.Match[str]) -> str:
        name = match.group(1)
        if name in ("room", "in_room") and "room" in known:
            text = rng.choice(ROOMS[known["room"]])
            return in_room(rng, text) if name == "in_room" else text
        filled: Filled = SLOTS[name](rng)
        if filled.key:
            known[filled.key] = filled.value
        return fill(rng, filled.text, known)

    return _SLOT.sub(one, pattern)


# ---------------------------------------------------------------- clauses


@dataclass(frozen=True, slots=True)
class Clause:
    """One thing that is said. text: filled, without any politeness around it."""

    template: Template
    text: str
    action: str


_WEIGHTS: Final = {
    held: tuple(
        accumulate(intent.weight if (HELD_OUT if held else TRAINED)[intent.name] else 0.0 for intent in INTENTS)
    )
    for held in (False, True)
}


def draw_template(rng: Random, held_out: bool) -> tuple[Template, str]:
    """Return a template and its skeleton: the pattern with settled alternatives, its slots still open."""
    while True:
        (intent,) = rng.choices(INTENTS, cum_weights=_WEIGHTS[held_out])
        template = rng.choice((HELD_OUT if held_out else TRAINED)[intent.name])
        skeleton = choose(rng, template.pattern)
        if held_out or skeleton not in HELD_OUT_SKELETONS:
            return template, skeleton


def _clause(rng: Random, template: Template, skeleton: str, known: dict[str, str] | None = None) -> Clause:
    values = dict(known or {})
    text = fill(rng, skeleton, values)
    return Clause(template, text, template.intent.action.format_map(values))


def draw_clause(rng: Random, held_out: bool) -> Clause:
    return _clause(rng, *draw_template(rng, held_out))


def _two_rooms(rng: Random, template: Template, skeleton: str) -> Clause | None:
    """ "the kitchen and bedroom lights": one order for two rooms, where the pattern names its room once."""
    action = template.intent.action
    named = [name for name in _SLOT.findall(skeleton) if name in ("room", "in_room")]
    if len(named) != 1 or ";" in action:
        return None
    first, second = rng.sample(tuple(ROOMS), 2)
    a, b = rng.choice(ROOMS[first]), rng.choice(ROOMS[second])
    if named[0] == "in_room":
        joint = rng.choice(
            (f" and the {b}", f" and the {b}", f" and {b}", f" and {in_room(rng, b)}", f" and also the {b}")
        )
        both = in_room(rng, a) + joint
    else:
        both = a + rng.choice((f" and {b}", f" and {b}", f" and the {b}", f" & {b}"))
    if rng.random() < 0.1:
        both = both.replace("in the", "in both the", 1)
    values: dict[str, str] = {}
    text = fill(rng, skeleton.replace("{" + named[0] + "}", both), values)
    return Clause(template, text, "; ".join(action.format_map({**values, "room": r}) for r in (first, second)))


def _shared_room(rng: Random, held_out: bool) -> tuple[Clause, Clause] | None:
    """ "close the blinds and turn on the lamp in the office": two orders, the room said only once."""
    (first, a), (second, b) = draw_template(rng, held_out), draw_template(rng, held_out)
    if "room" not in first.intent.action or "room" not in second.intent.action or first.intent == second.intent:
        return None
    if ";" in first.intent.action + second.intent.action:
        return None
    place = " {in_room}"
    if a.endswith(place) and rng.random() < 0.5:
        a = a.removesuffix(place)
    elif b.endswith(place):
        b = b.removesuffix(place) + rng.choice(("", "", " there", " too", " as well", " in there"))
    else:
        return None
    room = {"room": rng.choice(tuple(ROOMS))}
    return _clause(rng, first, a, room), _clause(rng, second, b, room)


# ---------------------------------------------------------------- the way people talk

ADDRESS: Final = (
    "(hey|ok|okay|robot|house|computer|hi|hello|um|uh|so|well|alright|hey robot|hey house|ok robot|ok house|"
    "oh|and|now|quick|listen|excuse me|sorry|yo|hey there|hey buddy|ok then|right|hmm|good morning|good "
    "evening|hey you|dear house|good night|goodnight|my friend|yeah|also|actually|come on|oh and|first)(,|,|"
    "|||) "
)
ASK: Final = (
    "please ", "please ", "please ", "can you ", "can you ", "could you ", "could you ", "could you please ",
    "can you please ", "would you ", "will you ", "would you please ", "will you please ", "i want you to ",
    "i'd like you to ", "i would like you to ", "i need you to ", "go ahead and ", "you should ", "you can ",
    "you may ", "just ", "let's ", "let us ", "kindly ", "try to ", "remember to ", "don't forget to ",
    "make sure to ", "make sure you ", "it's time to ", "time to ", "be so kind and ", "be a dear and ",
    "be nice and ", "do me a favor and ", "do me a favour and ", "i was wondering if you could ",
    "is it possible to ", "could i ask you to ", "can i ask you to ", "can we ", "could we ",
    "why don't you ", "would it be possible to ", "if you could ", "i wish you would ", "we need to ",
    "we should ", "i want to ", "may i ask you to ", "go and ", "would you be so kind as to ",
    "would you kindly ", "maybe you could ", "perhaps you can ", "you might ", "you have to ", "you need to ",
    "you must ", "i think you should ", "do you think you could ", "quickly ", "now ", "can someone ",
    "could somebody ", "i'd love you to ", "are you able to ", "would you like to ", "simply ", "first ",
    "then ", "help me ", "i need to ", "i'd like to ", "can i ", "better ", "it would be nice if you could ",
)  # fmt: skip
ASK_GERUND: Final = (
    "would you mind ", "would you mind ", "do you mind ", "how about ", "what about ", "mind ",
    "i'd appreciate you ", "any chance of ", "how about you start ", "thanks for ", "i suggest ",
    "would it be ok ", "what do you say to ",
)  # fmt: skip
WISH: Final = (
    "i want ", "i want ", "i need ", "i'd like ", "i'd like ", "i would like ", "can i have ", "can we have ",
    "could i have ", "could we have ", "could we get ", "can i get ", "can you get ", "give me ", "get me ",
    "we need ", "i'd love ", "let's have ", "let me have ", "how about ", "may i have ", "we want ",
    "we'd like ", "do ", "i'd prefer ", "time for ", "let's try ", "get ", "i'll have ", "could you do ",
)  # fmt: skip
ASK_WISH: Final = (
    "give me the ", "tell me the ", "i want the ", "i need the ", "can i have the ", "could you give me the ",
    "the ", "show me the ", "what's the ", "please tell me the ", "can you tell me the ", "i'd like the ",
    "just the ",
)  # fmt: skip
AFTER: Final = (
    " please", " please", " please", " please", " now", " for me", " right now", " thanks", " thank you",
    " would you", " if you can", " right away", " ok", " immediately", " will you", " for me please",
    " when you can", " quick", " for a bit", " again", " today", " tonight", " if you don't mind",
    " this time", " at once", " asap", " mate", " dear", " cheers", " when you get a chance", " if possible",
    " could you", " can you", " before bed", " could you please", " for the night", " for now",
    " for a while", " for a moment", " already", " then", " robot", " house", " buddy", " will ya",
    " if you would", " if that's ok", " or something", " i think", " a second", " for us", " alright", " yes",
    " soon", " straight away", " real quick", " quickly", " this evening", " this morning", " before i go",
    " instead",
)  # fmt: skip
DAYTIME: Final = (" today", " tonight", " this evening", " this morning")  # would change an alarm's meaning
REASON: Final = (
    "(i'm|we're|he's|she's|the baby is|the kids are|my {family} is|{person} is) (so |very |)({mood}|{doing})",
    ("(i'm|we're) (going to bed|home|back|leaving|going out|off to work|about to leave|having guests|off|on my way)"),
    "(it's|it is) (late|early|time for bed|getting late|morning|bedtime|nap time|summer|monday|{adjective})",
    "my {family} is (coming|here|asleep|sleeping|visiting|at home|in the shower)",
    "(before|after|when|because) my {family} (comes|arrives|is here|is asleep|leaves|calls)",
    "(i|we) (want|need|have) to (sleep|work|read|eat|study|leave|watch a movie|cook|relax|{hobby})",
    "(i|we) (have|got) (guests|visitors|a headache|a party|a meeting|company)",
    "(i've|we've) (had enough|got guests|a lot to do|no time)",
    "the {animal} is ({mood}|scared|sleeping|outside|barking)",
    "so (i|we) can (sleep|work|read|eat|relax|see|{hobby})",
)
JOIN: Final = (
    " and ", " and ", " and ", " and then ", ", ", " then ", " and also ", ", then ", ", and ", ", also ",
    " and please ", ", and then ", " plus ", "; ", ". ", " after that ", ", and can you ", " and could you ",
    ". then ", ", please ", " as well as ", " but first ", " & ",
)  # fmt: skip
NEGATION: Final = (
    "don't ", "don't ", "do not ", "please don't ", "never ", "you don't need to ", "no need to ",
    "i don't want you to ", "you shouldn't ", "don't you dare ", "there's no need to ",
)  # fmt: skip
_DOUBLED: Final = frozenset({
    "set", "get", "put", "shut", "let", "stop", "cut", "run", "dim", "flip", "spin", "step", "skip", "hit", "drop",
    "begin", "quit", "pop", "plug", "top", "scrub", "mop", "snap", "forget", "hop", "scrap",
})  # fmt: skip


def gerund(order: str) -> str:
    """ "close the blinds" -> "closing the blinds"."""
    verb, _, rest = order.partition(" ")
    if verb in _DOUBLED:
        verb += verb[-1]
    elif verb.endswith("e") and not verb.endswith("ee") and verb != "be":
        verb = verb[:-1]
    return f"{verb}ing {rest}".strip()


def _starts_with_verb(clause: Clause) -> bool:
    return clause.template.form == "order" and not clause.text.startswith(("do not", "don't", "no "))


def wrap(rng: Random, clause: Clause) -> str:
    """Put politeness before a clause, where its form takes it."""
    draw = rng.random()
    if _starts_with_verb(clause):
        if draw < 0.45:
            return rng.choice(ASK) + clause.text
        if draw < 0.52:
            return rng.choice(ASK_GERUND) + gerund(clause.text)
    elif clause.template.form == "wish":
        if clause.action.startswith("ask"):
            return rng.choice(ASK_WISH) + clause.text if draw < 0.6 else clause.text
        if draw < 0.5:
            return rng.choice(WISH) + rng.choice(("", "the ", "the ")) + clause.text
        if draw < 0.58:
            return rng.choice(("please ", "just ", "please the ", "now ")) + clause.text
    elif draw < 0.05:
        return "please " + clause.text
    return clause.text


def surround(rng: Random, text: str, action: str) -> str:
    """Put an address before, and a particle or a reason around, the whole utterance."""
    if rng.random() < 0.14:
        text = choose(rng, ADDRESS) + " " + text
    draw = rng.random()
    if draw < 0.26:
        after = rng.choice(AFTER)
        text += after if "alarm" not in action or after not in DAYTIME else ""
    elif draw < 0.31:
        text += rng.choice((", ", ", ", " ", " because ", " since ")) + fill(rng, choose(rng, rng.choice(REASON)), {})
    elif draw < 0.35:
        text = fill(rng, choose(rng, rng.choice(REASON)), {}) + rng.choice((", ", ", ", " ", " so ", ", so ")) + text
    if rng.random() < 0.08:
        text += rng.choice((".", ".", "!", "?"))
    return _SPACES.sub(" ", text)


def vary_words(rng: Random, text: str) -> str:
    """Drop or change small words the way people do."""
    if rng.random() < 0.12:
        text = text.replace(" the ", " ", rng.choice((1, 9))).removeprefix("the ")
    elif rng.random() < 0.06:
        text = text.replace(
            " the ", rng.choice((" my ", " my ", " our ", " that ", " this ", " all the ", " those ")), 1
        )
    if "'" in text and rng.random() < 0.2:
        text = text.replace("'", "")
    return text


_NEAR: Final = {
    "q": "wa", "w": "qes", "e": "wrd", "r": "etf", "t": "ryg", "y": "tuh", "u": "yij", "i": "uok", "o": "ipl",
    "p": "ol", "a": "qsz", "s": "awdx", "d": "sefc", "f": "drgv", "g": "fthb", "h": "gyjn", "j": "hukm", "k": "jil",
    "l": "kop", "z": "asx", "x": "zcsd", "c": "xvdf", "v": "cbfg", "b": "vngh", "n": "bmhj", "m": "nkj",
}  # fmt: skip


SHORT_SLIPS: Final = (("the ", "teh "), (" off ", " of "), ("and ", "adn "), ("you ", "u "), ("please", "pls"))


def slip(rng: Random, text: str) -> str:
    """Mistype one letter of a word of four letters or more, or make one of the usual slips in a short one.

    Now and then a character strays in that the vocabulary may not have: the model meets <unk>.
    """
    if rng.random() < 0.15:
        for right, wrong in rng.sample(SHORT_SLIPS, 5):
            if right in text:
                return text.replace(right, wrong, 1)
    if rng.random() < 0.06:
        i, odd = rng.randrange(len(text) + 1), rng.choice('  …()/*"#~+')
        return text[:i] + odd + text[i:] if not text[max(0, i - 1) : i + 1].strip().isdigit() else text + odd
    spots = [match.span() for match in re.finditer(r"[a-z]{4,}", text)]
    if not spots:
        return text
    start, end = rng.choice(spots)
    i, kind = rng.randrange(start, end), rng.random()
    if kind < 0.35:
        return text[:i] + text[i + 1 :]
    if kind < 0.6 and i + 1 < end:
        return text[:i] + text[i + 1] + text[i] + text[i + 2 :]
    if kind < 0.78:
        return text[:i] + text[i] + text[i:]
    return text[:i] + rng.choice(_NEAR[text[i]]) + text[i + 1 :]


# ---------------------------------------------------------------- examples


def _nothing(rng: Random) -> str:
    """Something that is not for the house: chat, an order without its room, an order not to do something."""
    draw = rng.random()
    if draw < 0.84:
        text = fill(rng, choose(rng, rng.choice(CHAT)), {})
        if rng.random() >= 0.8:
            text = rng.choice(("please ", "hey, ", "ok, ", "so ", "robot, ", "can you ")) + text
        return text
    template, skeleton = draw_template(rng, held_out=False)
    if draw < 0.94:
        while not skeleton.endswith(" {in_room}") or template.form == "remark":
            template, skeleton = draw_template(rng, held_out=False)
        return wrap(rng, _clause(rng, template, skeleton.removesuffix(" {in_room}"), {"room": "hall"}))
    while template.form != "order" or skeleton.startswith(("do not", "don't", "leave", "keep", "let")):
        template, skeleton = draw_template(rng, held_out=False)
    negation = rng.choice(NEGATION)
    return negation + _clause(rng, template, skeleton).text


def _something(rng: Random, held_out: bool) -> tuple[str, str]:
    """One or two things for the house."""
    draw = rng.random()
    if draw < 0.04 and (pair := _shared_room(rng, held_out)):
        first, second = pair
    elif draw < 0.17:
        first, second = draw_clause(rng, held_out), draw_clause(rng, held_out)
        if ";" in first.action + second.action:
            return wrap(rng, first), first.action
    else:
        template, skeleton = draw_template(rng, held_out)
        clause = _two_rooms(rng, template, skeleton) if draw < 0.25 else None
        clause = clause or _clause(rng, template, skeleton)
        return wrap(rng, clause), clause.action
    text = wrap(rng, first) + rng.choice(JOIN) + (second.text if rng.random() < 0.8 else wrap(rng, second))
    return text, f"{first.action}; {second.action}"


def example(rng: Random, *, held_out: bool = False, slips: bool = True) -> tuple[str, str]:
    """Draw an utterance and its action.

    held_out: use only the patterns that are kept from training (never those of chat, which are all trained).
    slips: let some utterances be mistyped.
    The hand-written phrases are never drawn.
    """
    while True:
        if not held_out and rng.random() < NONE_SHARE:
            text, action = _nothing(rng), "none"
        else:
            text, action = _something(rng, held_out)
        text = vary_words(rng, surround(rng, text, action))
        if slips:
            for _ in range(rng.choices((0, 1, 2), (0.84, 0.12, 0.04))[0]):
                text = slip(rng, text)
        if plain(text) not in HELD_OUT_PHRASES:
            return text, action


def stream(seed: int, *, held_out: bool = False, slips: bool = True) -> Iterator[tuple[str, str]]:
    """An endless stream of examples, fixed by its seed."""
    rng = Random(seed)
    while True:
        yield example(rng, held_out=held_out, slips=slips)
