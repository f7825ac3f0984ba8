"""Ordered sequences: the alphabet, the days of the week, the months of the year."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase

from worker.demo.training.corpus import words
from worker.demo.training.corpus.document import Exchange
from worker.demo.training.corpus.draw import Draw

_AFTER = (
    "What {1} comes after {0}?",
    "Which {1} comes after {0}?",
    "Which {1} follows {0}?",
    "Tell me the {1} after {0}.",
    "What is the {1} after {0}?",
    "Name the {1} that comes after {0}.",
    "Do you know which {1} comes after {0}?",
    "Please tell me the {1} after {0}.",
    "What comes after the {1} {0}?",
    "Can you tell me which {1} follows {0}?",
)
_AFTER_HELD_OUT = ("Please tell me which {1} comes after {0}.", "Do you know the {1} after {0}?")
_BEFORE = (
    "What {1} comes before {0}?",
    "Which {1} comes before {0}?",
    "Tell me the {1} before {0}.",
    "What is the {1} before {0}?",
    "Name the {1} that comes before {0}.",
    "Do you know which {1} comes before {0}?",
    "Please tell me the {1} before {0}.",
    "What comes before the {1} {0}?",
    "Can you tell me which {1} is before {0}?",
)
_BEFORE_HELD_OUT = (
    "Please tell me which {1} comes before {0}.",
    "Do you know the {1} before {0}?",
)
_LIST = (
    "List the {0}.", "What are the {0}?", "Name the {0}.", "Say the {0}.", "Tell me the {0}.",
    "Please list the {0}.", "Can you name the {0}?", "Write the {0}.", "Please say all the {0}.",
    "List all the {0}.", "Could you tell me the {0}?", "Give me the {0}.", "the {0}, please",
)  # fmt: skip
_LIST_HELD_OUT = ("Can you list the {0}?", "Please name all the {0}.")
_SEQUENCES: tuple[tuple[str, str, Sequence[str]], ...] = (
    ("letter", "letters of the alphabet", ascii_uppercase),
    ("day", "days of the week", words.DAYS),
    ("month", "months of the year", words.MONTHS),
)


def neighbour(draw: Draw) -> Exchange:
    """The item before or after a letter, a day or a month."""
    unit, _, items = draw.pick(_SEQUENCES)
    index = draw.number(1, len(items) - 2)
    if draw.chance(0.5):
        question = draw.phrase(_AFTER, _AFTER_HELD_OUT).format(items[index], unit)
        answer = items[index + 1]
        return Exchange(question, f"After {items[index]} comes {answer}.", f"comes {answer}")
    question = draw.phrase(_BEFORE, _BEFORE_HELD_OUT).format(items[index], unit)
    answer = items[index - 1]
    return Exchange(question, f"Before {items[index]} comes {answer}.", f"comes {answer}")


def listing(draw: Draw) -> Exchange:
    """A whole sequence in order."""
    _, name, items = draw.pick(_SEQUENCES)
    listed = ", ".join(items)
    return Exchange(draw.phrase(_LIST, _LIST_HELD_OUT).format(name), listed + ".", listed)
