"""Simple facts in tables: colours, opposites, sounds, numbers of legs and others."""

from __future__ import annotations

from worker.demo.training.corpus.document import Exchange
from worker.demo.training.corpus.draw import Draw
from worker.demo.training.corpus.phrasing import phrasings


def _table(text: str) -> tuple[tuple[str, str], ...]:
    pairs = (pair.split(":") for pair in text.split())
    return tuple((left.replace("_", " "), right.replace("_", " ")) for left, right in pairs)


_COLOURS = _table(
    "the_sky:blue grass:green snow:white coal:black blood:red a_lemon:yellow a_banana:yellow "
    "a_carrot:orange milk:white the_sun:yellow a_tomato:red an_orange:orange the_night:black "
    "a_leaf:green an_elephant:grey a_flamingo:pink chocolate:brown a_strawberry:red salt:white "
    "the_sea:blue a_frog:green a_cucumber:green"
)
_COLOURS_HELD_OUT = ("Can you tell me what colour {0} is?", "Which colour does {0} have?")
_COLOURS_ASKED = phrasings(
    (
        "What colour is {0}?",
        "What is the colour of {0}?",
        "Which colour is {0}?",
        "Tell me the colour of {0}.",
        "What color is {0}?",
        "Do you know the colour of {0}?",
        "Name the colour of {0}.",
    ),
    nouns=("the colour of {0}",),
    without=_COLOURS_HELD_OUT,
)

_OPPOSITES = _table(
    "hot:cold big:small up:down left:right day:night open:closed full:empty fast:slow old:new "
    "young:old happy:sad long:short tall:short wet:dry light:dark hard:soft loud:quiet early:late "
    "near:far good:bad strong:weak rich:poor clean:dirty high:low in:out yes:no on:off "
    "first:last true:false thick:thin heavy:light deep:shallow sweet:sour summer:winter win:lose "
    "love:hate begin:end push:pull buy:sell give:take"
)
_OPPOSITES_HELD_OUT = ("Can you give me the opposite of {0}?", "What word is the opposite of {0}?")
_OPPOSITES_ASKED = phrasings(
    (
        "What is the opposite of {0}?",
        "What's the opposite of {0}?",
        "Tell me the opposite of {0}.",
        "Name the opposite of {0}.",
        "Which word is the opposite of {0}?",
        "Give me the opposite of {0}.",
        "The opposite of {0} is what?",
    ),
    nouns=("the opposite of {0}",),
    without=_OPPOSITES_HELD_OUT,
)

_SOUNDS = _table(
    "dog:woof cat:meow cow:moo sheep:baa duck:quack pig:oink horse:neigh lion:roar "
    "bee:buzz owl:hoot frog:croak mouse:squeak snake:hiss"
)
_SOUNDS_ASKED = (
    "What does a {0} say?",
    "What sound does a {0} make?",
    "Which sound does a {0} make?",
    "Tell me what a {0} says.",
    "What noise does a {0} make?",
    "Do you know what a {0} says?",
    "Please tell me what sound a {0} makes.",
    "What is the sound of a {0}?",
    "Tell me which sound a {0} makes.",
)
_SOUNDS_HELD_OUT = ("Do you know what sound a {0} makes?",)

_YOUNG = _table(
    "dog:puppy cat:kitten cow:calf sheep:lamb horse:foal hen:chick duck:duckling bear:cub "
    "goat:kid frog:tadpole deer:fawn"
)
_YOUNG_ASKED = (
    "What is a young {0} called?",
    "What do you call a young {0}?",
    "What is a baby {0} called?",
    "Tell me the word for a young {0}.",
    "What is the name for a young {0}?",
    "What is a baby of a {0} called?",
    "Do you know what a young {0} is called?",
    "How do you call a baby {0}?",
    "What do people call a young {0}?",
    "Tell me what a baby {0} is called.",
)
_YOUNG_HELD_OUT = ("What do you call a baby {0}?",)

_COUNTS = _table(
    "days_are_in_a_week:seven months_are_in_a_year:twelve hours_are_in_a_day:twenty-four "
    "minutes_are_in_an_hour:sixty seconds_are_in_a_minute:sixty legs_does_a_dog_have:four "
    "legs_does_a_spider_have:eight legs_does_an_ant_have:six legs_does_a_bird_have:two "
    "letters_are_in_the_alphabet:twenty-six wheels_does_a_bike_have:two "
    "wheels_does_a_car_have:four fingers_are_on_a_hand:five sides_does_a_triangle_have:three "
    "sides_does_a_square_have:four arms_does_an_octopus_have:eight "
    "seasons_are_in_a_year:four years_are_in_a_century:hundred"
)
_COUNTS_ASKED = (
    "How many {0}?",
    "Tell me how many {0}.",
    "Do you know how many {0}?",
    "how many {0}",
    "Can you tell me how many {0}?",
    "I want to know how many {0}.",
    "Say how many {0}.",
    "Could you tell me how many {0}?",
)
_COUNTS_HELD_OUT = ("Please tell me how many {0}.", "Can you say how many {0}?")


def colour(draw: Draw) -> Exchange:
    """The colour of a well-known thing."""
    thing, name = draw.pick(_COLOURS)
    question = draw.phrase(_COLOURS_ASKED, _COLOURS_HELD_OUT).format(thing)
    return Exchange(question, f"{thing[0].upper()}{thing[1:]} is {name}.", name)


def opposite(draw: Draw) -> Exchange:
    """The opposite of a word."""
    word, other = draw.pick(_OPPOSITES)
    question = draw.phrase(_OPPOSITES_ASKED, _OPPOSITES_HELD_OUT).format(word)
    return Exchange(question, f"The opposite of {word} is {other}.", other)


def sound(draw: Draw) -> Exchange:
    """The sound of an animal."""
    animal, noise = draw.pick(_SOUNDS)
    question = draw.phrase(_SOUNDS_ASKED, _SOUNDS_HELD_OUT).format(animal)
    return Exchange(question, f"A {animal} says {noise}.", noise)


def young(draw: Draw) -> Exchange:
    """The word for the young of an animal."""
    animal, name = draw.pick(_YOUNG)
    question = draw.phrase(_YOUNG_ASKED, _YOUNG_HELD_OUT).format(animal)
    return Exchange(question, f"A young {animal} is called a {name}.", name)


def count(draw: Draw) -> Exchange:
    """The number of something."""
    what, number = draw.pick(_COUNTS)
    question = draw.phrase(_COUNTS_ASKED, _COUNTS_HELD_OUT).format(what)
    return Exchange(question, f"The answer is {number}.", number)
