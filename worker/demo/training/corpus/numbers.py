"""Arithmetic, comparison and counting with small numbers."""

from __future__ import annotations

from worker.demo.training.corpus.document import Exchange
from worker.demo.training.corpus.draw import Draw, Split, is_held_out

_SUM = (
    "What is {0} {2} {1}?",
    "{0} {2} {1}?",
    "What is {0} {2} {1}",
    "How much is {0} {2} {1}?",
    "What does {0} {2} {1} make?",
    "Please work out {0} {2} {1}.",
    "Tell me {0} {2} {1}.",
    "Calculate {0} {2} {1}.",
    "{0} {2} {1} =",
    "{0} {2} {1}",
    "How much do I get for {0} {2} {1}?",
    "What is the result of {0} {2} {1}?",
    "What does {0} {2} {1} give?",
    "Work out {0} {2} {1} for me, please.",
    "What do I get for {0} {2} {1}?",
    "Please tell me what {0} {2} {1} is.",
    "Can you tell me how much {0} {2} {1} makes?",
    "Please calculate {0} {2} {1}.",
    "Do you know {0} {2} {1}?",
)
_TIGHT = ("{0}{2}{1}", "{0}{2}{1}=", "What is {0}{2}{1}?", "{0}{2}{1}?", "{0}{2}{1}=?")
_SUM_HELD_OUT = ("What do you get for {0} {2} {1}?", "Please tell me how much {0} {2} {1} is.")
_SIGNS = {"+": ("+", "+", "plus", "and"), "-": ("-", "-", "minus"), "*": ("*", "times", "times")}

_COUNT = (
    "Count from {0} to {1}.",
    "Please count from {0} to {1}.",
    "Can you count from {0} to {1}?",
    "Count up from {0} to {1}.",
    "List the numbers from {0} to {1}.",
    "Say the numbers from {0} to {1}.",
    "Please count up from {0} to {1}.",
    "Write all numbers from {0} to {1}.",
    "Can you list the numbers from {0} to {1}?",
    "Count for me from {0} to {1}.",
    "Could you say the numbers from {0} to {1}?",
)
_COUNT_HELD_OUT = ("Could you count from {0} to {1} for me?", "Write the numbers from {0} to {1}.")
_LARGER = (
    "Which is larger, {0} or {1}?",
    "Which number is bigger, {0} or {1}?",
    "Is {0} or {1} more?",
    "Which is bigger, {0} or {1}?",
    "Which of {0} and {1} is larger?",
    "What is the larger number, {0} or {1}?",
    "Tell me which is more, {0} or {1}.",
)
_LARGER_HELD_OUT = ("Which number is larger, {0} or {1}?",)
_NEXT = (
    "What number comes after {0}?",
    "Which number follows {0}?",
    "What comes after {0}?",
    "What is the number after {0}?",
    "Tell me the number after {0}.",
    "Which is the next number after {0}?",
)
_NEXT_HELD_OUT = ("Which number comes after {0}?",)


def _pair(draw: Draw, low: int, high: int, tag: str) -> tuple[int, int]:
    """Two numbers of this split; each `tag` has other pairs held out."""
    while True:
        a, b = draw.number(low, high), draw.number(low, high)
        if is_held_out(f"{tag}{a},{b}") == (draw.split is Split.HELD_OUT):
            return a, b


def arithmetic(draw: Draw) -> Exchange:
    """A sum, difference or product of numbers up to 10; training has every pair, as a fact."""
    sign = draw.pick("++--*")
    a, b = draw.number(0, 10), draw.number(0, 10)
    if sign == "-":
        a, b = max(a, b), min(a, b)
    result = {"+": a + b, "-": a - b, "*": a * b}[sign]
    forms: tuple[str, ...] = _SUM
    spoken = draw.pick(_SIGNS[sign])
    if spoken == sign and draw.split is Split.TRAIN and draw.chance(0.3):
        forms = _TIGHT
    question = draw.phrase(forms, _SUM_HELD_OUT).format(a, b, spoken)
    return Exchange(question, f"{a} {sign} {b} = {result}", f"= {result}")


def counting(draw: Draw) -> Exchange:
    """Counting upwards, at most eleven numbers."""
    low, steps = _pair(draw, 1, 20, "count")
    high = low + 2 + steps % 9
    numbers = ", ".join(str(n) for n in range(low, high + 1))
    question = draw.phrase(_COUNT, _COUNT_HELD_OUT).format(low, high)
    return Exchange(question, numbers + ".", numbers)


def larger(draw: Draw) -> Exchange:
    """The larger of two different numbers."""
    a, b = _pair(draw, 0, 99, "larger")
    b = b if a != b else a + 1
    question = draw.phrase(_LARGER, _LARGER_HELD_OUT).format(a, b)
    low, high = sorted((a, b))
    return Exchange(question, f"{high} is larger than {low}.", f"{high} is larger")


def following(draw: Draw) -> Exchange:
    """The number after a number."""
    number = draw.number(0, 98)
    question = draw.phrase(_NEXT, _NEXT_HELD_OUT).format(number)
    return Exchange(question, f"After {number} comes {number + 1}.", f"comes {number + 1}")
