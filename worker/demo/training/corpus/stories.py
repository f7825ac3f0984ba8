"""Short stories with a hero, a wish, a problem, a helper and an end."""

from __future__ import annotations

from dataclasses import dataclass

from worker.demo.training.corpus import words
from worker.demo.training.corpus.document import Chat, Passage, assistant, user
from worker.demo.training.corpus.draw import Draw

KEY = "The end."

_ASKED = (
    "Tell me a story about a {0}.",
    "Tell me a short story about a {0}.",
    "Write a short story about a {0}.",
    "Write a story about a {0}.",
    "I want a story about a {0}.",
    "Can you tell me a story about a {0}?",
    "A story about a {0}, please.",
    "Please tell me a tale of a {0}.",
    "Tell a story about a {0}.",
)
_HELD_OUT = ("Could you tell me a short story about a {0}?", "I would love a story about a {0}.")
_NO_SUBJECT = (
    "Tell me a story.",
    "Tell me a short story.",
    "Write a story.",
    "A story, please.",
)
_NO_SUBJECT_HELD_OUT = ("Can you tell me a story?", "Please write a short story.")
_TRAITS = words.listed("small brave shy clever kind lazy happy lonely quiet curious hungry young")
_HOMES = (
    "in a green forest", "by the sea", "on a hill", "near a river", "in a small village",
    "in an old house", "behind a red barn", "under a tall tree", "in the mountains",
)  # fmt: skip
_WISHES = (
    ("find a {thing}", "found a {thing}"),
    ("have a {thing}", "had a {thing}"),
    ("make a {thing}", "made a {thing}"),
    ("bring a {thing} home", "brought a {thing} home"),
)
_TROUBLES = (
    ("it began to rain", "The rain stopped"),
    ("the wind blew hard", "The wind grew quiet"),
    ("the way was dark", "The moon came out"),
    ("the river was too wide", "They built a small bridge"),
    ("the hill was too high", "They climbed it step by step"),
    ("the path was lost in the snow", "They followed the stars"),
)
_MOODS = (
    "was very happy", "smiled all day", "danced with joy", "slept well that night",
    "sang a song", "laughed out loud",
)  # fmt: skip
_LESSONS = (
    "From that day on they were friends.",
    "They never forgot that day.",
    "And they shared everything after that.",
    "And so a good day came to a good end.",
)


@dataclass(frozen=True)
class _Cast:
    hero: str
    animal: str
    helper: str
    friend: str
    thing: str


def _cast(draw: Draw) -> _Cast:
    hero = draw.value(words.person)
    friend = draw.value(words.person)
    animal = draw.pick(words.ANIMALS)
    helper = draw.pick([a for a in words.ANIMALS if a != animal])
    return _Cast(hero, animal, helper, friend, draw.pick(words.THINGS))


def _tell(draw: Draw, cast: _Cast) -> str:
    wish, fulfilled = (form.format(thing=cast.thing) for form in draw.pick(_WISHES))
    trouble, relief = draw.pick(_TROUBLES)
    return " ".join((
        f"Once upon a time there was a {draw.pick(_TRAITS)} {cast.animal} named {cast.hero}.",
        f"{cast.hero} lived {draw.pick(_HOMES)} and wanted to {wish}.",
        f"One day {cast.hero} went out to look for it, but {trouble}.",
        f'A {cast.helper} named {cast.friend} came by and said, "I will help you."',
        f"{relief}, and at last {cast.hero} {fulfilled}.",
        f"{cast.hero} {draw.pick(_MOODS)} and thanked {cast.friend}.",
        f"{draw.pick(_LESSONS)} {KEY}",
    ))  # fmt: skip


def story(draw: Draw) -> Chat:
    """A request for a story, with or without an animal and its name, and the story."""
    cast = _cast(draw)
    form = draw.number(0, 3)
    if form == 0:
        question = draw.phrase(_NO_SUBJECT, _NO_SUBJECT_HELD_OUT)
    else:
        about = f"{cast.animal} named {cast.hero}" if form == 1 else cast.animal
        question = draw.phrase(_ASKED, _HELD_OUT).format(about)
    return Chat("story", [user(question), assistant(_tell(draw, cast))], KEY)


def passage(draw: Draw) -> Passage:
    """A story that is not in a conversation."""
    return Passage("passage", _tell(draw, _cast(draw)))
