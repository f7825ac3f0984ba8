"""Forms of questions for any subject, so that the model understands unseen phrasings."""

from __future__ import annotations

from collections.abc import Iterable

_NOUN_FORMS = (
    "What is {0}?", "What's {0}?", "what is {0}", "Tell me {0}.", "Please tell me {0}.",
    "Can you tell me {0}?", "Could you tell me {0}?", "Do you know {0}?", "Give me {0}.",
    "Name {0}.", "I want to know {0}.", "I would like to know {0}.", "Say {0}.", "{0}?",
    "{0}, please.", "Do you remember {0}?", "Please give me {0}.", "I need {0}.",
    "Can you give me {0}?", "Hello, what is {0}?", "Please name {0}.", "What was {0}?",
    "Can you name {0}?", "Could you please say {0}?", "Do you still know {0}?",
)  # fmt: skip
_CLAUSE_FORMS = (
    "Tell me {0}.", "Please tell me {0}.", "Can you tell me {0}?", "Could you tell me {0}?",
    "Do you know {0}?", "Do you remember {0}?", "I want to know {0}.", "Can you say {0}?",
    "Say {0}.", "Please say {0}.", "Do you still know {0}?", "Can you remember {0}?",
    "I forgot {0}.", "I would like to know {0}.", "Tell me again {0}.",
)  # fmt: skip


def phrasings(
    plain: Iterable[str],
    nouns: Iterable[str] = (),
    clauses: Iterable[str] = (),
    without: Iterable[str] = (),
) -> tuple[str, ...]:
    """`plain` and every form around `nouns` ("my name") and `clauses` ("who I am").

    `plain` occurs twice, because these forms are the most common. `without` are the
    phrasings held out for evaluation.
    """
    formed = [form.format(noun) for noun in nouns for form in _NOUN_FORMS]
    formed += [form.format(clause) for clause in clauses for form in _CLAUSE_FORMS]
    phrases = [*plain, *plain, *(text[0].upper() + text[1:] for text in formed)]
    held_out = set(without)
    return tuple(text for text in phrases if text not in held_out)
