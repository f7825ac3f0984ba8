"""Drills in copying: words to repeat, and keys to look up.

In other kinds few tokens of an answer are copied from the prompt. Here nearly all are,
and most words have no meaning, so the model learns early to copy any text.
"""

from __future__ import annotations

from worker.demo.training.corpus import words
from worker.demo.training.corpus.document import Chat, Exchange, turns
from worker.demo.training.corpus.draw import Draw

_REPEATED = (
    "Repeat: {0}",
    "Repeat this: {0}",
    "Repeat after me: {0}",
    "Say: {0}",
    "Please repeat: {0}",
    "Copy this: {0}",
    'Write "{0}".',
    'Say "{0}".',
)
_REPEATED_HELD_OUT = ("Please say: {0}", "Can you repeat this? {0}")
_FORMS = ("{0}: {1}", "{0} is {1}.", "{0} = {1}", '"{0}":"{1}"', "{0} {1}", "The {0} is {1}.")
_JOINTS = (", ", "\n", "; ", " ")
_ASKED = ("What is {0}?", "{0}?", "Give me {0}.", "Which is {0}?", "And {0}?", "{0}")
_ASKED_HELD_OUT = ("And what is {0}?", "Tell me {0}.")


def any_word(draw: Draw) -> str:
    """A word of any kind: common, invented, random, a name, a place, a code, a number."""
    return draw.value(draw.pick((
        words.strange_word, words.blend, words.new_word, words.new_word, words.thing,
        words.person, words.city, words.code, lambda rng: str(rng.randint(0, 9999)),
    )))  # fmt: skip


def repeating(draw: Draw) -> Chat:
    """One to three requests to repeat words."""
    exchanges = []
    for _ in range(draw.number(1, 3)):
        text = " ".join(any_word(draw) for _ in range(draw.number(1, 8)))
        question = draw.phrase(_REPEATED, _REPEATED_HELD_OUT).format(text)
        exchanges.append(Exchange(question, text, text))
    return Chat("repeating", turns(exchanges), exchanges[-1].key)


def looking_up(draw: Draw) -> Chat:
    """Keys with values, then questions for some of the keys."""
    table: dict[str, str] = {}
    for _ in range(draw.number(2, 8)):
        table[any_word(draw)] = " ".join(any_word(draw) for _ in range(draw.pick((1, 1, 1, 2))))
    form, joint = draw.pick(_FORMS), draw.pick(_JOINTS)
    listed = joint.join(form.format(key, value) for key, value in table.items())
    keys = draw.rng.sample(list(table), draw.number(1, len(table)))
    exchanges = [
        Exchange(draw.phrase(_ASKED, _ASKED_HELD_OUT).format(key), table[key], table[key])
        for key in keys
    ]
    first = exchanges[0]
    exchanges[0] = Exchange(f"{listed}\n{first.question}", first.answer, first.key)
    return Chat("looking up", turns(exchanges), exchanges[-1].key)
