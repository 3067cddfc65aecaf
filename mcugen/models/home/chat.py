"""What is said near a house without being for it: the action is "none"."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Final

from .slots import Filled, Slot, words

CONSONANTS: Final = "bcdfghjklmnprstvwz"
VOWELS: Final = "aeiou"


def _strange_word(rng: Random) -> Filled:
    """A word that no list has, so that the unknown is met in training."""
    syllables = rng.randrange(1, 4)
    text = "".join(
        rng.choice(CONSONANTS) + rng.choice(VOWELS) + rng.choice(("", "n", "r", "s", "l", "t"))
        for _ in range(syllables)
    )
    return Filled(text)


def _keyboard_mash(rng: Random) -> Filled:
    return Filled("".join(rng.choice("asdfghjklqwertyuiopzxcvbnm") for _ in range(rng.randrange(2, 10))))


def _small_number(rng: Random) -> Filled:
    return Filled(
        rng.choice(
            (
                "two",
                "three",
                "four",
                "five",
                "six",
                "seven",
                "eight",
                "nine",
                "ten",
                "twelve",
                "2",
                "3",
                "7",
                "15",
                "20",
                "100",
            )
        )
    )


def _split(text: str) -> Slot:
    return words(*(item.strip() for item in text.split(",")))


CHAT_SLOTS: Final[Mapping[str, Slot]] = {
    "strange": _strange_word,
    "mash": _keyboard_mash,
    "count": _small_number,
    "person": _split(
        "anna, tom, sarah, mike, peter, maria, john, lisa, emma, paul, alex, david, julia, ben, kate, max, "
        "nina, oscar, lucy, omar"
    ),
    "family": _split(
        "mother, father, mom, dad, brother, sister, wife, husband, daughter, son, aunt, uncle, grandma, "
        "grandfather, cousin, neighbour, friend, boss, parents, kids, baby, colleague, teacher, girlfriend, "
        "boyfriend, roommate, doctor"
    ),
    "visitor": _split(
        "plumber, postman, guests, cleaner, delivery, neighbour, babysitter, gardener, courier, dog walker, "
        "electrician, visitors"
    ),
    "animal": _split(
        "dog, cat, bird, horse, rabbit, fish, mouse, hamster, cow, sheep, lion, elephant, spider, fox, "
        "bear, parrot, turtle, duck, bee, frog"
    ),
    "food": _split(
        "pizza, soup, bread, cheese, pasta, rice, salad, cake, apples, coffee, tea, milk, chocolate, sushi, "
        "eggs, fish, chicken, bananas, ice cream, pancakes, potatoes, cookies, sandwiches, curry, noodles, "
        "beer, wine, breakfast, dinner, lunch, steak, toast"
    ),
    "place": _split(
        "france, london, paris, berlin, tokyo, italy, spain, new york, the moon, the beach, the park, "
        "school, the station, the airport, the office downtown, the supermarket, the mountains, the sea, "
        "the city, japan, canada, rome, brazil, the zoo, the museum, mars, the theatre, the gym, the "
        "library, the hospital, india, egypt, the lake, the forest, the village, work, the cinema, the "
        "dentist"
    ),
    "thing": _split(
        "phone, keys, car, bike, book, table, chair, bag, shoes, hat, glasses, computer, wallet, umbrella, "
        "guitar, piano, ball, ticket, letter, picture, camera, watch, bottle, knife, cup, plate, toy, box, "
        "newspaper, jacket, shirt, ring, plant, sofa"
    ),
    "gadget": _split(
        "tv, television, oven, fridge, washing machine, dishwasher, coffee machine, computer, toaster, "
        "kettle, microwave, stove, printer, laptop, dryer, sprinkler, pool pump, tap, shower, vacuum "
        "cleaner, game console, freezer, router, projector, iron, water, phone, car, engine, air "
        "conditioner, doorbell, camera, alarm system, dehumidifier, screen"
    ),
    "elsewhere": _split(
        "castle, barn, pool, car, church, balcony, school, shop, hotel, gym, stable, tower, tent, library, "
        "store, sauna, elevator"
    ),
    "openable": _split(
        "fridge, window, bottle, box, book, drawer, cupboard, oven, car, letter, umbrella, suitcase, jar, "
        "can, app, file, bag, tent"
    ),
    "topic": _split(
        "football, politics, the weather, history, music theory, art, love, science, cats, dragons, space, "
        "the war, pirates, physics, philosophy, movies, books, dinosaurs, the ocean, robots, school, money, "
        "the economy, religion, tennis, cars, travel, fashion, ghosts, the news, knights, computers, "
        "mathematics, cooking, gardening, chess, the universe, dreams"
    ),
    "adjective": _split(
        "nice, bad, good, great, terrible, funny, boring, beautiful, strange, difficult, easy, interesting, "
        "expensive, cheap, old, new, broken, lovely, wonderful, awful, crazy, fast, slow, sad, happy, late, "
        "early, delicious, tasty, ugly, huge, tiny, heavy"
    ),
    "mood": _split(
        "tired, happy, sad, hungry, thirsty, bored, angry, sick, fine, excited, sleepy, busy, late, lost, "
        "in love, nervous, proud, worried, confused, lonely, ready, drunk, on holiday, at work, pregnant, "
        "allergic, retired, famous, rich, awake, better, ok"
    ),
    "day": _split(
        "today, yesterday, tomorrow, last week, next week, on monday, on friday, last night, at the "
        "weekend, this morning, last summer, in july, soon, on sunday, next year, later"
    ),
    "past": _split(
        "went to, came from, drove to, flew to, walked to, moved to, got lost in, grew up in, got back "
        "from, worked in, spent a week in, met someone in, left for"
    ),
    "ate": _split("ate, cooked, bought, made, ordered, had, tried, forgot, burned, shared, baked, liked, finished"),
    "hobby": _split(
        "play tennis, read books, play chess, go swimming, watch movies, ride a bike, dance, sing, paint, "
        "cook, sleep, run, learn french, play the piano, travel, go fishing, go shopping, play football, "
        "study, work, write poems, climb, ski, knit, draw, go for a walk"
    ),
    "doing": _split(
        "going to school, working late, sleeping, watching a movie, reading a book, cooking dinner, playing "
        "outside, having a party, doing homework, coming home, getting married, learning english, riding a "
        "bike, playing cards, eating, talking, laughing, crying, singing, taking a shower, writing a book, "
        "looking for a job, waiting for the bus, going on holiday, feeling sick, moving out"
    ),
    "chore": _split(
        "buy milk, feed the cat, walk the dog, water the plants, wash the car, iron my shirts, do the "
        "laundry, do my homework, set the table, make dinner, cook some pasta, bake a cake, take out the "
        "trash, write a letter, pay the bills, make coffee, fix the sink, mow the lawn, find my keys, bring "
        "me a beer, call a taxi, book a flight, order a pizza, read the news, send an email, take a "
        "picture, paint a picture, do the dishes, fold the clothes, answer the phone, wash the dishes, "
        "print this, write some code, sell the house, get the mail, reserve a table, buy some bread, fetch "
        "the newspaper, peel the potatoes, pack my bag, make the bed"
    ),
    "who": _split(
        "won the game, wrote that book, invented the telephone, is the president, painted this, discovered "
        "america, are you, made you, called, is the tallest man, ate my cake, is coming, sang that, built "
        "the pyramids, was einstein, lives next door, am i"
    ),
    "what": _split(
        "your name, the capital of {strange}, the meaning of life, the best movie, your favourite food, "
        "your favourite color, for dinner, new, up, the problem, going on, love, on tv, my name, that "
        "noise, the weather like, the score, the date, the price of gold, in the news, the plan, wrong with "
        "you, the difference, a neuron, your opinion, the tallest mountain, the square root of {count}"
    ),
    "how": _split(
        "are you, old are you, do you do, far is the moon, tall are you, much is a ticket, much does it "
        "cost, do i cook rice, do i get to {place}, do birds fly, was your day, many people live in "
        "{place}, big is the sun, do you spell that, is your {family}, long is a marathon, many legs has a "
        "spider, does this work, deep is the ocean, do i say that in french, was the party, are things, "
        "heavy is an elephant"
    ),
}

CHAT: Final[tuple[str, ...]] = (
    (
        "(hello|hi|hey|hey there|hi there|good morning|good evening|good night|good afternoon|bye|goodbye|"
        "see you|see you later|welcome back|howdy)"
    ),
    "(hello|hi|good morning|good night|goodbye|bye) (robot|house|{person}|my friend|everyone|computer)",
    (
        "(thanks|thank you|thank you very much|thanks a lot|thanks, {person}|cheers|many thanks|well done|"
        "good job|nice work|good robot|great job)"
    ),
    (
        "(that's|that is|that was|this is|this was|it was|it's|you're|you are|he is|she is|they are|we "
        "were) (very|really|so|too|pretty|quite|) {adjective}"
    ),
    (
        "(never mind|forget it|nothing|no|yes|maybe|ok|okay|sure|not now|not yet|no thanks|no thank you|i "
        "don't know|whatever|leave it|wait what|oh no|oops|sorry|excuse me|ok then|fine|it's nothing|it's "
        "ok|never mind that)"
    ),
    (
        "(wow|ha|haha|lol|hmm|well|oh|ouch|yay|cool|great|nice|really|damn|ugh|huh|exactly|of course|why|"
        "why not|what|who|how|where|when)"
    ),
    "(tell|read|give) me (a|another|one more) (joke|story|riddle|poem|secret|fact|bedtime story)",
    "(tell|show|teach) me (something|more|everything|a story|a joke) about {topic}",
    "what do you (think|know) (about|of) {topic}",
    (
        "(do you like|i like|i love|i hate|we love|everybody likes|nobody likes|i'm interested in|i know "
        "nothing about) ({topic}|{food})"
    ),
    (
        "(can|could) you (sing|dance|cook|swim|fly|think|dream|speak french|count to {count}|play chess|"
        "feel pain|read my mind|{hobby})"
    ),
    "(i|we|they|you) (like|love|hate|want|have|need|used|had|started|learned) to {hobby}",
    "(do|did|will|would|can) (you|we|they|i) {hobby} {day}",
    "my {family} (likes|loves|hates|wants|bought|sold|lost|found|made) (a|the|my|his|her) {thing}",
    "my {family} (likes|loves|hates|wants|made|eats) {food}",
    "my {family} (is|was|will be|seems) (very|really|so|) ({adjective}|{mood})",
    "my {family} (is|was|keeps) {doing} ({day}|)",
    "my {family} (lives|works|was born|is) in {place}",
    "my {family} {past} {place} ({day}|)",
    "(i|we|they|he|she|{person}) {past} {place} ({day}|)",
    "(i|we|they|he|she|{person}|my {family}) {ate} (some|the|too much|a lot of|) {food} ({day}|)",
    "(i'm|i am|we're|we are|he's|she's|they're|{person} is) (so|very|really|a bit|too|not|) {mood} ({day}|)",
    "(i'm|we're|he's|she's|they're|{person} is|who is|nobody is) {doing} ({day}|)",
    "(are you|is {person}|is he|is she|are they) (so|very|really|still|) ({mood}|{doing}|{adjective})",
    "the {animal} (is|was|sat|sleeps|sits) (on|under|behind|near) the ({thing}|roof|tree|{gadget})",
    "the {animal} (ate|stole|likes|wants|found|broke|chased) the ({thing}|{animal}|{food})",
    "(my|our|the|your|her|his) {animal} (is|looks|was) ({adjective}|{mood}|brown|black|ill)",
    "(i|we) (saw|heard|want|bought|found|lost) (a|an|the|my) ({animal}|{thing}) {day}",
    "(my|our|the|your|this|that) {thing} is (so|very|too|) {adjective}",
    (
        "(my|our|the|this|that) {thing} (broke|fell|is gone|is missing|was stolen|got wet|is red|is blue|is "
        "on the table) ({day}|)"
    ),
    "where (is|are|did i put|did you put|can i find|can i buy) (my|the|our|a) {thing}",
    "(who|do you know who) {who}",
    "(what is|what's|whats) {what}",
    "(how|so how|tell me how) {how}",
    (
        "(why|when) (is|was|did|do|does|are|will) (the|my|your|you|we|they) ({animal}|{family}|{thing}|sky|"
        "train) ({adjective}|{mood}|come|leave|start|blue|late)"
    ),
    ("(why|when|where) (did|do|will|should|can) (you|we|i|they) (go|sleep|eat|come|start|live|meet|leave|{hobby})"),
    (
        "(the|this|that|your|my) {food} (is|was|tastes|smells|looks) (so|too|very|really|) ({adjective}|"
        "cold|burned|spicy|salty|hot)"
    ),
    "(i want|i'd like|give me|bring me|order|buy|get me|cook|make|i need|we need) (some|a|more|two|) {food}",
    "{chore} ({day}|)",
    (
        "(please|can you|could you|i have to|i need to|we should|don't forget to|help me|remind my {family} "
        "to|i want to|you should|would you) {chore} ({day}|please|)"
    ),
    "(open|close|shut|unlock) (the|my|a|this|that) {openable}",
    "(please|can you|could you|would you) (open|close|shut) (the|my|a) {openable}",
    "(turn|switch) (on|off) the {gadget} ({in_room}|please|)",
    "(turn|switch) the {gadget} (on|off) ({in_room}|please|)",
    (
        "(can you|could you|please|would you) (start|stop|run|turn on|turn off|switch on|fix|clean|check) "
        "the {gadget} ({in_room}|please|)"
    ),
    "(start|stop|run|fix|repair|unplug|check|set|program) the {gadget} ({in_room}|)",
    "{gadget} (on|off) ({in_room}|)",
    (
        "(set|heat|turn|preheat) the (oven|stove|kettle|microwave|grill) to (180|200|two hundred|hundred|"
        "220|90) degrees"
    ),
    "(turn on|turn off|dim|switch off|switch on) the {lamp} in the {elsewhere}",
    "(open|close) the {blind} in the {elsewhere}",
    "(clean|vacuum|heat) the {elsewhere}",
    "how (warm|cold|humid) is (it|it outside|the {elsewhere}|the water|the soup|the {gadget})",
    "(lock|unlock) (the|my) (car|bike|safe|phone|drawer|window|computer|suitcase|{gadget})",
    "(is|was) (the|my) (car|bike|safe|phone|window|suitcase|{gadget}) (locked|open|closed)",
    "(call|phone|text|email|message|invite|visit|ask) (my {family}|{person}|the police|the doctor|a taxi)",
    "(send|write) (a message|an email|a letter|flowers|a text) to (my {family}|{person})",
    "(say|sing|whisper) (hello|something|happy birthday|goodbye|a song) to (me|my {family}|{person})",
    ("(translate|spell|define|explain|write|remember|google) ({strange}|this|that word|the word {strange}|{topic})"),
    (
        "(we|i|they|the {animal}|my {family}|{person}) (had|ate|found|lost|saw|left|put|bought) (a|the|some|"
        "my) ({food}|{thing}|{animal}) {in_room} ({day}|)"
    ),
    (
        "(we|i|they|the {animal}|my {family}|{person}) (slept|danced|worked|sat|stayed|played|cried|was|"
        "were) {in_room} ({day}|)"
    ),
    ("(i|we|they) (like|love|bought|want|painted|sold|rented|need) (the|a|this|that) (new|big|small|old|) {room}"),
    "the {room} (is|looks|smells|was) (very|so|really|) ({adjective}|big|small|pretty|cosy)",
    "(my {family}|{person}|the {animal}|nobody|someone) is {in_room}",
    "(the {thing}|the {animal}|my {family}|your {thing}) is {in_room}",
    "where is the {room}",
    "is (my {family}|{person}|the {animal}|anybody) {in_room}",
    "(the|that) {door} is (so|very|really|) ({adjective}|green|made of wood)",
    "(i|we|{person}) (painted|repaired|bought|like|saw) the {door} ({day}|)",
    "the {lamp} {in_room} (is|was|looks) ({adjective}|from {place}|a gift)",
    (
        "(it|the weather) (is|was|will be|looks) (raining|snowing|sunny|windy|cloudy|foggy|stormy|"
        "{adjective}) ({day}|in {place}|)"
    ),
    "(will it|is it going to|did it) (rain|snow|be sunny|be windy|freeze|clear up) ({day}|)",
    "what's the weather (like|going to be|) ({day}|in {place}|)",
    "(what is|what's|calculate|how much is) {count} (plus|minus|times|divided by|and) {count}",
    "(i|we) have {count} (children|cats|dogs|brothers|sisters|cars|books|friends|problems)",
    "it's (my|your|our|his|her) (birthday|wedding|turn|fault|problem|day off|idea) ({day}|)",
    "(happy|merry) (birthday|new year|christmas|easter) (to you|everyone|)",
    (
        "(i|we) (think|believe|guess|hope|know|heard|dreamed|said) (that |)(you are {adjective}|it will "
        "rain|{person} is {mood}|the {animal} is {adjective}|we are {mood})"
    ),
    (
        "(are|were) you (a robot|human|real|alive|there|listening|a machine|my friend|smart|able to learn|"
        "asleep|awake)"
    ),
    (
        "(i love you|i hate you|i miss you|you're funny|you are my friend|you're stupid|you are clever|"
        "marry me|i trust you|shame on you|you're welcome|bless you)"
    ),
    (
        "(the|our|my) (train|bus|flight|car|meeting|class|party) (is|was|will be) (late|cancelled|full|"
        "early|over|{adjective}) ({day}|)"
    ),
    "(the|our|my) (neighbours|guests|friends|kids|parents) (are|were) ({doing}|{mood}|{adjective}) (again|)",
    ("(let's|let us|we should|shall we) ({hobby}|go to {place}|eat {food}|go home together|talk about {topic})"),
    (
        "i (have|had|think i have|got) a (cold|headache|fever|question|problem|dream|meeting|date|new job|"
        "day off|idea) ({day}|)"
    ),
    "(have you|has {person}|did you) (ever|) (seen|been to|heard of|read about) ({place}|{topic}|a {animal})",
    (
        "(play|watch|start|win|lose) (chess|a movie|cards|a game|the game|football|hide and seek|tennis) "
        "(with me|with {person}|tonight|)"
    ),
    (
        "(i|we) (just|already|finally|really|never) (learned|finished|watched|bought|forgot|broke|met|"
        "cooked) (it|that|the {thing}|{food}|{person}|a movie)"
    ),
    "the (quick|lazy|little|big|old) {animal} (jumps over|runs after|looks at|eats) the ({animal}|{thing})",
    "{strange} {strange}",
    "{strange} (is|the|of|and|a|in|to|my) {strange} ({strange}|{adjective}|)",
    "(i|we|you|the) {strange} (the|a|my|your|with) {strange} ({day}|)",
    "what is (a|the|) {strange}",
    "(please|can you|could you|would you) {strange} (the|my|a) ({strange}|{thing})",
    "{mash}",
    "{mash} {mash}",
    "{thing}",
    "({animal}|{food}|{topic}|{adjective}|{mood}|{family}|{gadget})",
    "{room}",
    "the {room}",
    "({lamp}|{fan}|{heat}|{blind})",
    "{count}",
    "(on|off|up|down|open|closed|louder|quieter|more|less|faster|slower|warmer|colder|brighter)",
    "(turn|make|set|put) it (up|down|louder|quieter|higher|lower|nicer|on|off)",
    "(turn up|turn down) the (volume|music)",
    "(go|move|drive|come) (forward|back|ahead|here|over there|away|outside|upstairs)",
    "(set|start|make) a timer",
    "set an alarm",
    "(cancel|delete|stop) (the|my) alarm",
    "(turn|switch) (everything|it all|all of it) (on|off)",
)
