"""Names, places and things to copy: lists, and syllables for invented words."""

from __future__ import annotations

import random

from worker.demo.training.corpus.draw import is_held_out


def listed(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


PEOPLE = listed(
    "Ada Adam Alan Alex Alice Amir Amy Ana Andrew Anna Anton Ben Bella Bob Boris Carl Carla Carmen "
    "Chloe Clara Daniel David Diana Dora Elena Ella Emil Emma Eric Eva Fatima Felix Finn Fiona "
    "Frank Frida George Grace Greta Hana Hannah Harry Hugo Ida Igor Ines Ivan Ivy Jack James Jane "
    "Jasmine Joan John Jonas Julia Karen Karl Kate Kim Lara Laura Leo Lena Liam Lily Linda Lisa "
    "Louis Lucas Lucy Luna Maria Mario Mark Martin Mary Max Maya Mia Mila Milo Mona Nadia Nina "
    "Noah Nora Olga Oliver Omar Oscar Otto Paul Paula Pedro Peter Petra Quinn Rita Robert Rosa "
    "Ruth Sam Sara Simon Sofia Stella Tara Theo Tim Tina Tom Uma Vera Victor Viola Walter Wendy "
    "Yara Yusuf Zara Zoe"
)

CITIES = listed(
    "Aachen Antwerp Barcelona Basel Bergen Bilbao Birmingham Bologna Bordeaux Boston Bristol "
    "Bruges Calgary Chicago Cologne Dallas Denver Dresden Dubai Edinburgh Essen Florence Frankfurt "
    "Geneva Genoa Ghent Glasgow Gothenburg Granada Hamburg Hanover Houston Innsbruck Istanbul "
    "Krakow Kyoto Leeds Leipzig Lille Linz Liverpool Lyon Malaga Manchester Marseille Melbourne "
    "Miami Milan Montreal Mumbai Munich Nantes Naples Nice Osaka Oxford Palermo Paris London Rome "
    "Berlin Madrid Tokyo Oslo Lima Cairo Vienna Phoenix Porto Quebec Rotterdam Salzburg Seattle "
    "Seville Shanghai Stuttgart Sydney Toledo Toronto Toulouse Turin Utrecht Valencia Vancouver "
    "Venice Verona York Zurich"
)

COLOURS = listed("red blue green yellow orange purple pink brown black white grey silver gold")

ANIMALS = listed(
    "ant bat bear bee bird cat cow crab deer dog dragon duck fish fox frog goat goose hare hen "
    "horse lamb lion mole mouse owl pig rabbit seal sheep snail swan tiger turtle whale wolf"
)

THINGS = listed(
    "apple bag ball basket bell bike boat book bottle box bread bridge broom button cake camera "
    "candle card chair clock coat coin cup door drum egg feather flag flute garden gate glove "
    "guitar hammer hat jar jacket key kite ladder lamp leaf letter map milk mirror pencil phone "
    "piano picture plate radio ring rope sail scarf shell shoe spoon stone stove sugar table tea "
    "ticket tomato towel train tree umbrella violin wagon watch wheel window"
)

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

MONTHS = listed(
    "January February March April May June July August September October November December"
)

_LETTERS = "aaabcdeeeefghiiijklmmnnnoooppqrrrsssttttuuvwxyz"
_ONSETS = listed("b br c ch d dr f fl g gr h j k kl l m n p pr qu r s sh st t th tr v w z")
_VOWELS = listed("a e i o u ai ea ie oo ou")
_CODAS = ("", "", "", "l", "n", "r", "s", "m", "t", "nd", "rt", "x", "ck")
_BLENDED = tuple(
    w for w in (*PEOPLE, *CITIES, *COLOURS, *ANIMALS, *THINGS) if len(w) > 2 and not is_held_out(w)
)
_CITY_ENDS = listed("burg ton ville ford field port stad mouth bridge haven dale grad by wick")


def new_word(rng: random.Random) -> str:
    """A pronounceable word of two or three syllables without a meaning."""
    count = rng.choice((2, 2, 3))
    return "".join(
        rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(count)
    )


def blend(rng: random.Random) -> str:
    """The beginning of one word and the end of another; neither word is held out."""
    first, last = rng.choice(_BLENDED), rng.choice(_BLENDED)
    return (first[: rng.randint(1, len(first))] + last[rng.randint(0, len(last) - 2) :]).lower()


def strange_word(rng: random.Random) -> str:
    """Letters in random order."""
    word = "".join(rng.choice(_LETTERS) for _ in range(rng.randint(3, 9)))
    return word.capitalize() if rng.random() < 0.4 else word


def invented(rng: random.Random) -> str:
    """A word without a meaning, in lower case."""
    return rng.choice((new_word, new_word, new_word, blend, strange_word))(rng).lower()


def person(rng: random.Random) -> str:
    """A first name: a common one, or an invented one."""
    return rng.choice(PEOPLE) if rng.random() < 0.5 else invented(rng).capitalize()


def city(rng: random.Random) -> str:
    """A city: a real one, or an invented one."""
    if rng.random() < 0.5:
        return rng.choice(CITIES)
    stem = rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
    return (stem + rng.choice(_CITY_ENDS)).capitalize() if rng.random() < 0.6 else person(rng)


def thing(rng: random.Random) -> str:
    """A common thing, or an invented word."""
    return rng.choice(THINGS) if rng.random() < 0.6 else invented(rng)


def animal(rng: random.Random) -> str:
    """An animal."""
    return rng.choice(ANIMALS)


def label(rng: random.Random) -> str:
    """One to three words, like a title or a short message."""
    return " ".join(thing(rng) for _ in range(rng.choice((1, 1, 2, 2, 3))))


def code(rng: random.Random) -> str:
    """A short code of capitals and digits."""
    letters = "".join(rng.choice("ABCDEFGHJKLMNPRSTUVWXYZ") for _ in range(rng.choice((1, 2))))
    return letters + str(rng.randint(10, 9999))
