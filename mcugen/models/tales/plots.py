"""What happens in a story, and in which words: plots of beats, each told in one of a few ways.

(a|b) is a choice; {N} a slot that grammar.py fills from the story's cast:

N, he, him, his, kid    the hero; "girl", "boy" or an animal
F, fhe, friend          the friend; friend: how {F} comes in: "her friend Tom", "a small owl named Hazel"
E                       a grown-up
trait, red, thing       what the hero is like; the color of what the story is about, and what it is
day, still              "sunny morning"; what the weather still does at the end
to, there               "to the park", "in the park"
spot, spot1, spot2      three places to look; try1, try2: two things to try

and whatever a plot's props add: one row is drawn, whose values belong together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Plot:
    """beats: each a tuple of ways to tell it. props: values that belong together, one row per story.

    friends: "child", "animal" or "any". tries: of which a story has two. weather, things: () for any.
    """

    name: str
    titles: tuple[str, ...]
    beats: tuple[tuple[str, ...], ...]
    props: tuple[Mapping[str, str], ...] = field(default=({},))
    friends: str = "any"
    tries: tuple[str, ...] = ("", "")
    weather: tuple[str, ...] = ()
    things: tuple[str, ...] = ()


def _rows(names: str, *lines: str) -> tuple[Mapping[str, str], ...]:
    """A table of props: "a / b", "1 / 2" is ({"a": "1", "b": "2"},). A "-" leaves a slot to the cast."""
    rows = (zip(names.split(" / "), line.split(" / "), strict=True) for line in lines)
    return tuple({name: value for name, value in row if value != "-"} for row in rows)


OPENING: Final = (
    "once upon a time, there was a {trait} little {kid} named {N}.",
    "once upon a time, there was a little {kid} named {N}. {he} was very {trait}.",
    "once upon a time, a {trait} little {kid} named {N} lived (on a hill|near a river|by the sea).",
    "{N} was a {trait} little {kid} who loved to play outside.",
    "there once was a {trait} little {kid}. {his} name was {N}.",
)
COMES: Final = (
    "just then, {friend} came by.",
    "then {friend} came (by|along).",
    "(soon|after a while), {friend} came along.",
)
THANKS: Final = (
    '"thank you, {F}!" said {N}. "you are (a true|my best) friend."',
    '"thank you, {F}!" said {N} and (smiled|laughed).',
    "{N} was so happy that {he} (hugged {F}|jumped for joy|laughed out loud).",
    '"(hooray|wonderful)!" (shouted|said) {N}, and {he} thanked {F} (again and again|with a big hug).',
    "{N} (hugged {F}|jumped for joy) and laughed.",
)
GOODBYE: Final = (
    *("",) * 5,
    "{still} when they went home.",
    "in the evening, {N} told {E} all about it.",
    'at home, {E} (smiled|nodded). "what a {trait} {kid} you are," {ehe} said.',
)

LOST: Final = Plot(
    name="lost",
    titles=("{N} and the {red} {thing}", "{N} and the {red} {thing}", "the lost {thing}", "where is the {thing}?"),
    beats=(
        OPENING,
        (
            "{his} favorite toy was a {red} {thing}.",
            "{he} had a {red} {thing} and took it everywhere.",
            "{E} had given {him} a {red} {thing}, and {he} loved it very much.",
        ),
        (
            "one {day}, {he} took it {to}, but (when {he} looked around|after a while), the {thing} was gone.",
            "one {day}, {N} wanted to play with it {there}, but (it was gone|{he} could not find it).",
            "one {day}, {he} came home from a walk {to}, and the {thing} was not in {his} bag. {he} ran back.",
        ),
        (
            "{N} looked {spot1}. no {thing}! {he} looked {spot2}. no {thing}!",
            "{he} looked {spot1} and {spot2}, but (the {thing}|it) was not there.",
            "first {he} looked {spot1}, then {spot2}, but there was no {thing}.",
        ),
        COMES,
        (
            '"why are you (crying|so sad)?" asked {F}. "i (lost|cannot find) my {thing}," said {N}.',
            '"what is wrong?" asked {F}. "my {red} {thing} is gone," (said|answered) {N}.',
        ),
        (
            '"(do not cry|don\'t worry)," said {F}. "(i will help you|we will find it together)."',
            '"let us look for it together," said {F}.',
            '"i will help you," said {F}.',
            "",
        ),
        (
            "they looked (here and there|everywhere). at last, {F} found it {spot}!",
            '{F} looked {spot}. "(look|here it is)!" {fhe} shouted.',
            "they (looked and looked|searched for a long time), and then {N} saw something {red} {spot}. "
            "it was the {thing}!",
        ),
        THANKS,
        GOODBYE,
        (
            "from that day on, {N} took good care of the {red} {thing}.",
            "{N} never lost the {red} {thing} again.",
            "then they played with the {red} {thing} until (dinner|it was dark).",
            "that night, the {red} {thing} lay next to {N}, and {he} slept well.",
        ),
    ),
)

STUCK: Final = Plot(
    name="stuck",
    titles=("{N} and the {red} {thing}", "{N} and the {red} {thing}", "the {thing} {high}", "{N} and {F}"),
    beats=(
        OPENING,
        (
            "one {day}, {N} played with {his} {red} {thing} {there}.",
            "one {day}, {he} went {to} with {his} new {red} {thing}.",
            "one {day}, {N} got a {red} {thing} from {E}. {he} ran {to} to play with it.",
        ),
        (
            "suddenly, the wind took the {thing} and blew it away, and it got stuck {high}.",
            "the wind (took it out of {his} hands|was strong), and the {thing} (flew up and|) got stuck {high}.",
            "whoosh! the wind lifted the {thing} up, up, up. now it was stuck {high}.",
        ),
        ("{N} {try1}. then {he} {try2}.", "{he} {try1}.", "{N} {try1}."),
        COMES,
        (
            '"can you help me, please?" asked {N}. "my {thing} is stuck {high}."',
            '"why are you so sad?" asked {F}. "my {thing} is stuck," said {N}.',
        ),
        ('"(of course|yes), i can help you!" said {F}.', '"(i have an idea|wait here)," said {F}.', "", ""),
        (
            "{F} {ability} and got the {thing} down.",
            "{F} {ability}, (gave the {thing} a little push|pulled at the {thing}), and it came down.",
        ),
        THANKS,
        GOODBYE,
        (
            "after that, {N} and {F} (played together every day|were the best of friends).",
            "all day long, they played with the {red} {thing} together.",
            "from that day on, {N} held the {thing} with both hands when the wind blew.",
        ),
    ),
    props=_rows(
        "high",
        "in a tall tree",
        "on the roof",
        "on a high wall",
        "in the old oak",
    ),
    tries=(
        "jumped as high as {he} could, but {he} was too small",
        "threw a stick at it, but the stick missed",
        "ran and jumped, but {he} slipped and fell",
        "shouted at it, but that did not help",
        "stood on a box, but that was not high enough",
    ),
    weather=("windy",),
    things=("kite", "ball", "balloon", "hat", "plane", "scarf"),
)

FOUND: Final = Plot(
    name="found",
    titles=("{N} and the {creature}", "{N} and the {creature}", "the little {creature}", "a home for a {creature}"),
    beats=(
        OPENING,
        (
            "one {day}, {he} went for a walk {there}. {spot}, {he} (found|saw) a tiny {creature}.",
            "one {day}, {N} heard a (soft|sad) little sound {there}. {he} looked {spot} and saw a {creature}.",
            "one {day}, {he} was on {his} way {to} when {he} saw a small {creature} {spot}.",
        ),
        ("the poor {creature} was all alone, and {sign}.", "{sign}.", "it looked up at {N} with big eyes. {sign}."),
        (
            '"(poor thing|you poor little {creature})," said {N}. "(i will help you|don\'t be afraid)."',
            '"hello, little one," {N} (whispered|said). "are you {need}?"',
        ),
        ("{N} {remedy}.", "so {he} {remedy}.", "{he} thought for a moment. then {he} {remedy}."),
        ("soon the {creature} was {well}.", "after a while, the {creature} was {well} and closed its eyes."),
        (
            '"can we keep it?" {N} asked {E}. "yes," said {E}, "(if|when) you take good care of it."',
            '{he} ran to {E}. "may it stay with us?" {he} asked. "of course it may," said {E}.',
            '{N} took it home and showed it to {E}. "(how sweet|what a sweet {creature})!" {ehe} said. '
            '"it can stay."',
        ),
        (
            "{N} made a (little|soft) bed for it (in a basket|out of a box).",
            "{N} gave it (a bowl of water|a soft pillow) and a name: {F}.",
            "",
            "the {creature} (jumped into {his} arms|licked {his} hand).",
        ),
        (
            "from that day on, {N} and the {creature} (were best friends|went everywhere together).",
            "that night, the {creature} slept next to {N}, (warm and safe|and both were happy).",
            "and every morning, the {creature} (woke {him} up|waited at the door) and wanted to play.",
        ),
    ),
    props=_rows(
        "need / sign / remedy / well",
        "hungry / it was so hungry / gave it (some milk|a piece of bread) / full",
        "cold / it was wet and cold / put {his} {red} (scarf|coat) around it / dry again",
        "hurt / its leg was hurt / washed its leg and put a bandage on it / much better",
        "tired / it was tired and could not walk / carried it home in {his} arms / strong again",
    ),
    friends="animal",
    weather=("rainy", "snowy", "cloudy"),
)

SHARE: Final = Plot(
    name="share",
    titles=("{N} and the {red} {thing}", "{N} and the {red} {thing}", "{N} and {F}", "{N} learns to share"),
    beats=(
        OPENING,
        (
            "one {day}, {E} gave {him} a (new|beautiful) {red} {thing}.",
            "{he} had a (new|beautiful) {red} {thing}, and {he} was very proud of it.",
            "for {his} birthday, {he} got a {red} {thing}.",
        ),
        (
            "{he} took it {to} and played (with it|all alone).",
            "{N} played with it {there} (all morning|for a long time).",
        ),
        COMES,
        (
            '"what a nice {thing}!" said {F}. "can i play with it, too?"',
            '"(may|can) i play with you?" asked {F}. "i like your {thing}."',
        ),
        (
            '"no, it is mine!" said {N}.',
            '{N} held the {thing} tight. "no, (it is only for me|you may not)," {he} said.',
        ),
        ("{F} (was sad|hung {fhis} head) and went away.", "{F} did not say a word and sat down {spot}."),
        (
            "{N} played on, but (it was no fun|playing alone was boring).",
            "now {N} was alone again, and it was no fun any more.",
        ),
        (
            '{E} saw it. "(things are more fun|toys are happier) when you share them," {ehe} said.',
            "{he} thought of {F} and felt bad.",
            "",
        ),
        (
            'so {he} ran to {F}. "i am sorry," said {N}. "let us play together!"',
            'so {N} gave {F} the {thing}. "i am sorry, it is your turn," {he} said.',
        ),
        ("{F} smiled, and they took turns.", '"(thank you|i would love to)!" said {F}, and they laughed.', ""),
        (
            "from that day on, {N} always shared the {red} {thing} with {F}.",
            "{N} learned that (sharing is fun|a friend is better than any toy).",
            "they played with the {red} {thing} until {E} called {him} for dinner.",
        ),
    ),
)

BUILD: Final = Plot(
    name="build",
    titles=("{N} and the {project}", "{N} and the {project}", "the best {project}", "try again, {N}!"),
    beats=(
        OPENING,
        (
            "one {day}, {he} wanted to build a {project} {there}.",
            "one {day}, {N} went {to} to build a {project}.",
            'one {day}, {he} went {to}. "today i will build a {project}!" {he} said.',
        ),
        (
            "{he} (took|looked for) {parts} and worked (hard|all morning).",
            "{N} used {parts}, and it took a long time.",
        ),
        ("but then {mishap}.", "the {project} was almost ready when {mishap}.", "oh no! {mishap}!"),
        (
            '"i give up!" said {N}, and {he} (kicked a stone|sat down on the ground).',
            '"i will never do it," said {N}.',
            "{N} was (sad|angry).",
        ),
        COMES,
        (
            '"(do not|don\'t) give up," said {F}. "let us try again together."',
            '"that can happen," said {F}. "two can do it better than one."',
        ),
        (
            "so they started again. {N} {work}, and {F} helped {him}.",
            "{F} brought more {part}, and {N} {work}.",
        ),
        (
            "this time, the {project} was (big and strong|even better).",
            "when they were done, it was the (best|biggest) {project} {there}.",
            "",
        ),
        (
            "{N} and {F} were very proud and (clapped their hands|danced around it).",
            '"we did it!" shouted {N}.',
        ),
        GOODBYE,
        (
            "that night, {N} (dreamed of|was still thinking of) the {project}.",
            "from that day on, {N} never gave up (so soon|so easily) again.",
            "the next day, everyone came to see the {project}.",
        ),
    ),
    props=_rows(
        "project / to / there / parts / part / mishap / work / weather",
        "castle / to the beach / at the beach / sand and shells / sand"
        " / a big wave came and washed it away / made a wall around it / sunny",
        "snowman / - / - / snow and a carrot / snow / the head rolled off / made a bigger body / snowy",
        "tower / - / - / stones and sticks / stones / it fell down with a crash"
        " / put the biggest ones at the bottom / -",
        "raft / to the lake / at the lake / branches and rope / rope / it broke and sank"
        " / tied the branches together / -",
        "hut / to the forest / in the forest / branches and leaves / branches / the roof fell in"
        " / held the walls / -",
    ),
)

NOISE: Final = Plot(
    name="noise",
    titles=("the noise in the night", "{N} and the {source}", "{N} is not afraid"),
    beats=(
        OPENING,
        (
            "but there was one thing {N} did not like: the dark.",
            "",
        ),
        (
            "one night, {N} lay in bed and could not sleep. {sound}!",
            "one dark night, a noise woke {him} up. {sound}!",
            "one night, {he} heard something {where}. {sound}!",
        ),
        (
            "{N} (pulled the blanket over {his} head|hid under the blanket|held {his} pillow tight).",
            '"is it a (monster|ghost)?" {he} (whispered|thought), and {his} heart beat fast.',
        ),
        ("{sound}! there it was again.", "", ""),
        (
            '"{E}!" called {N}. "there is something {where}!"',
            'then {he} called {E}. "i heard a noise {where}," {he} said.',
        ),
        (
            '"let us look together," said {E}, and took {his} hand.',
            '{E} came with a lamp. "(come|let us see)," {ehe} said.',
        ),
        (
            "slowly, they went to look. {where}, there was only a {source}!",
            "they looked {where}. and what did they see? a {source}!",
        ),
        ("{why}.", '"{why}," said {E}.'),
        (
            "{N} laughed and was not afraid any more.",
            '"(so that was all|it was only you, {source})!" said {N}, and (they both laughed|{he} had to laugh).',
        ),
        (
            "then {he} went back to bed and slept until the morning.",
            'soon, {N} was fast asleep. "good night, {source}," {he} (said|whispered) in {his} dream.',
            "from that night on, {N} was never afraid of the dark again.",
        ),
    ),
    props=_rows(
        "source / sound / where / why",
        "mouse / scratch, scratch / under the bed / it was looking for crumbs",
        "branch / tap, tap, tap / at the window / it was dancing in the wind",
        "kitten / bump, bump / behind the door / it wanted to come in and play",
        "owl / hoo, hoo / on the roof / it was singing to the moon",
        "clock / tick, tock / in the old box / it had been there for a long time",
    ),
)

GIFT: Final = Plot(
    name="gift",
    titles=("a {gift} for {F}", "a present for {F}", "{N} and the {gift}"),
    beats=(
        OPENING,
        (
            "{his} best friend was {ffriend}. tomorrow was {F}'s birthday.",
            "one {day}, {N} thought of {friend}. tomorrow was {F}'s birthday!",
        ),
        (
            "{N} wanted to give {fhim} a present, but {he} had no money.",
            '"what can i give {F}?" {he} thought. {he} had (no money|nothing).',
        ),
        (
            'then {he} had an idea. "i will make a {gift}!" said {N}.',
            '"you could make something," said {E}. "a {gift}!" shouted {N}.',
        ),
        ("{he} {work}.", "so {he} {work}."),
        (
            "but (oh no, |){mishap}. {N} was sad, but {he} started again.",
            "at first, {mishap}, but {he} tried again.",
            "",
        ),
        ("when the {gift} was ready, {he} (was proud|smiled).", "", ""),
        (
            'the next day, {N} gave it to {F}. "happy birthday!" {he} said.',
            "the next morning, {N} ran to {F} with the {gift} (behind {his} back|in {his} hands).",
        ),
        (
            '{F} (smiled|laughed). "did you make it for me?" {fhe} asked.',
            "{F}'s eyes grew big.",
            "",
        ),
        (
            '"(oh, |)a {gift}! this is the best present of all," said {F}.',
            '"i love it!" {fhe} said, and (hugged {N}|gave {N} a big hug).',
        ),
        (
            "then they {joy} and had a (lovely|wonderful) day.",
            "{N} was happy. (a present from the heart|what you make yourself) is the best one.",
            "and {F} never forgot the {gift} that {N} had made.",
        ),
    ),
    props=_rows(
        "gift / work / mishap / joy",
        "cake / took flour, eggs and honey, and put it into the oven / it burned / ate it together",
        "crown / cut it out of paper and painted it {red} / the paper tore / played king and queen",
        "necklace / put shells on a long {red} string / the string broke / went to look for more shells",
        "picture / painted a {red} house and two friends / the water fell over it / hung it on the wall",
        "song / sang and wrote down the words / the words did not fit / sang it together",
    ),
)

LEARN: Final = Plot(
    name="learn",
    titles=("{N} learns to {skill}", "{N} learns to {skill}", "{N} and {F}"),
    beats=(
        OPENING,
        (
            "{he} wanted to learn to {skill}, but {he} was (afraid|too afraid to try).",
            "all {his} friends could {skill}. only {N} could not.",
        ),
        (
            'one {day}, {he} went {to}. "today i will learn it," {he} said.',
            "one {day}, {N} tried it {there}.",
        ),
        ("{he} {attempt}, but {fail}.", "first, {he} {attempt}. but {fail}."),
        (
            "{N} tried again, and again {fail}.",
            '"i will never learn it," {he} said.',
            "{N} was sad and wanted to go home.",
        ),
        COMES,
        (
            '"(do not|don\'t) give up," said {F}. "i will show you how."',
            '"(come|look), i will help you," said {F}.',
        ),
        ('{F} {help}. "{hint}," {fhe} said.', '"{hint}," said {F}, and {fhe} {help}.'),
        (
            "{N} {attempt} once more, and this time, it worked!",
            "they tried (all day|for a long time), and suddenly, {N} could do it!",
        ),
        (
            '"(look|hooray)! i can {skill}!" (shouted|cried) {N}.',
            '"you did it!" {F} shouted.',
            "{N} (laughed|jumped for joy).",
        ),
        (
            "from that day on, {N} and {F} went {to} together to {skill} every day.",
            "now {N} knew: if you do not give up, you can learn anything.",
            "that night, {N} fell asleep with a smile. {he} could {skill}!",
        ),
    ),
    props=_rows(
        "skill / to / there / attempt / fail / help / hint / weather",
        "swim / to the lake / in the lake / jumped into the water / {he} went under / held {him} up"
        " / move your arms and legs / sunny",
        "ride a bike / to the park / in the park / sat on the bike / {he} fell off / held the bike"
        " / look ahead, not down / sunny cloudy",
        "skate / to the lake / on the lake / stood up on the ice / {he} slipped and fell"
        " / took {his} hand / small steps first / snowy",
        "climb / to the forest / in the forest / reached for the first branch / {he} slipped down"
        " / pushed {him} up / one foot after the other / sunny cloudy",
    ),
    friends="child",
)

PLOTS: Final = (LOST, STUCK, FOUND, SHARE, BUILD, NOISE, GIFT, LEARN)
