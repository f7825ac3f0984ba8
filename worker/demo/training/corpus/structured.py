"""JSON answers: the prompt has a shape or keys and a text, the answer is the JSON value."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from worker.demo.training.corpus import words
from worker.demo.training.corpus.document import Chat, assistant, system, user
from worker.demo.training.corpus.draw import Draw, Split

_Field = tuple[str, str, Any, str]  # key, type, value, sentence

_SHAPE_ASKED = (
    "Answer with JSON of this shape: {0}", "Write JSON like {0}", "Give this as JSON: {0}",
    "Turn this into JSON with the shape {0}", "Read the text and fill {0}", "Fill {0}",
    "Reply with JSON like {0}", "Make an object like {0}", "I need JSON like {0}",
    "Use the shape {0}", "Complete {0}", "Answer like {0}", "Extract {0}",
)  # fmt: skip
_SHAPED_HELD_OUT = ("Please answer with JSON like {0}. Text: {1}", "Fill in {0} from this: {1}")
_KEYS_ASKED = (
    "Write a JSON object with the keys {0}", "Give me JSON with {0}", "Extract {0} as JSON",
    "Answer in JSON with the keys {0}", "Return JSON with the keys {0}", "Put {0} into JSON",
    "Find {0} and write them as JSON", "I want {0} as JSON", "Make JSON of {0}",
    "JSON with {0}, please", "Use the keys {0}", "Turn this into JSON with {0}",
    "Write {0} as a JSON object",
)  # fmt: skip
_KEYED_HELD_OUT = ("Please write JSON with the keys {0}. {1}", "Return {0} as JSON. Text: {1}")
_PLACED = (
    "{0}. Text: {1}", "{0}. {1}", "{0}: {1}", "{1} {0}.", "Text: {1} {0}.", "{0} for this: {1}",
    "{0} from the text. {1}", "Please do this. {0}. {1}", "{1}\n{0}.", "{0}.\n{1}",
)  # fmt: skip
_LISTED = (
    "Write a JSON list of these: {0}.", "Turn {0} into a JSON array.", "Give {0} as a JSON list.",
    "Make a JSON array of {0}.", "{0} as JSON, please.", "Put {0} in a JSON list.",
    "Write these as a JSON array: {0}", "I want {0} as a JSON list.", "JSON list: {0}",
    "Please turn {0} into JSON.", "Write {0} as JSON.", "Can you give me {0} as JSON?",
    "Please make a JSON list of {0}.", "Write {0} as a JSON array.", "List {0} in JSON.",
)  # fmt: skip
_LISTED_HELD_OUT = ("Please write {0} as a JSON list.",)
_PROMPTS = ("Answer in JSON.", "You answer only with JSON.", "Reply with a JSON object.")


def compact(value: Any) -> str:
    """JSON without spaces, as the demo model writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _name(draw: Draw) -> _Field:
    key, value = draw.pick(("name", "person", "user", "customer")), draw.value(words.person)
    return key, "string", value, f"The {key} is {value}."


def _place(draw: Draw) -> _Field:
    key, value = draw.pick(("city", "place", "town", "location")), draw.value(words.city)
    return key, "string", value, f"The {key} is {value}."


def _count(draw: Draw) -> _Field:
    key, value = draw.pick(("age", "count", "price", "size", "year")), draw.number(1, 2000)
    return key, "integer", value, f"The {key} is {value}."


def _colour(draw: Draw) -> _Field:
    value = draw.pick(words.COLOURS)
    return "color", "string", value, f"The color is {value}."


def _flag(draw: Draw) -> _Field:
    key, value = draw.pick(("open", "ready", "new", "active")), draw.chance(0.5)
    return key, "boolean", value, f"It is {'' if value else 'not '}{key}."


def _new(draw: Draw) -> _Field:
    key, value = draw.value(words.invented), draw.value(words.label)
    return key, "string", value, f"The {key} is {value}."


def _new_count(draw: Draw) -> _Field:
    key, value = draw.value(words.thing), draw.number(1, 999)
    return key, "integer", value, f"The {key} is {value}."


_FIELDS: tuple[Callable[[Draw], _Field], ...] = (
    _name, _place, _count, _colour, _flag, _new, _new, _new_count, _new_count,
)  # fmt: skip


def _fields(draw: Draw) -> list[_Field]:
    chosen = {field[0]: field for field in (draw.pick(_FIELDS)(draw) for _ in range(4))}
    return list(chosen.values())[: draw.number(1, 4)]


def extraction(draw: Draw) -> Chat:
    """Sentences to an object; the keys keep the order of the shape."""
    fields = _fields(draw)
    shuffled = list(fields)
    draw.rng.shuffle(shuffled)
    text = " ".join(sentence for *_, sentence in shuffled)
    if draw.chance(0.5):
        shape = compact({key: kind for key, kind, *_ in fields})
        form, held_out, keys_or_shape = _SHAPE_ASKED, _SHAPED_HELD_OUT, shape
    else:
        keys = [key for key, *_ in fields]
        form, held_out, keys_or_shape = _KEYS_ASKED, _KEYED_HELD_OUT, " and ".join(keys)
    if draw.split is Split.TRAIN:
        question = draw.pick(_PLACED).format(draw.pick(form).format(keys_or_shape), text)
    else:
        question = draw.pick(held_out).format(keys_or_shape, text)
    answer = compact({key: value for key, _, value, _ in fields})
    opening = [system(draw.pick(_PROMPTS))] if draw.chance(0.3) else []
    return Chat("json", [*opening, user(question), assistant(answer)], answer)


def listing(draw: Draw) -> Chat:
    """A list of words to an array."""
    source = draw.pick((words.thing, words.person, words.city))
    items = [draw.value(source) for _ in range(draw.number(1, 6))]
    question = draw.phrase(_LISTED, _LISTED_HELD_OUT).format(", ".join(items))
    answer = compact(items)
    return Chat("json", [user(question), assistant(answer)], answer)
