"""Questions that the model cannot answer; it says so."""

from __future__ import annotations

from worker.demo.training.corpus import words
from worker.demo.training.corpus.document import Exchange
from worker.demo.training.corpus.draw import Draw

ANSWER = "I do not know that. I am a very small model."
KEY = "do not know"

_ASKED = (
    "Who wrote the book {0}?",
    "What is the population of {0}?",
    "How old is {0}?",
    "Explain {0} to me.",
    "What is the meaning of {0}?",
    "When was {0} born?",
    "How far is it to {0}?",
    "Who invented the {0}?",
    "What is the price of a {0}?",
    "How does a {0} work?",
    "Who is the king of {0}?",
    "Why is {0} so famous?",
    "Write a program that sorts a {0}.",
    "Translate {0} into Latin.",
    "Who won the game in {0}?",
    "What is the news from {0}?",
    "Who made the {0}?",
    "Who was {0}?",
    "What happened in {0}?",
    "Tell me the history of the {0}.",
    "How big is {0}?",
    "How much does a {0} weigh?",
    "Where is {0}?",
    "Who painted the {0}?",
    "How many people live in {0}?",
)
_HELD_OUT = ("Who built the {0}?", "What is the history of {0}?", "How tall is {0}?")


def unanswerable(draw: Draw) -> Exchange:
    """A question about an invented word, or one that the corpus does not answer."""
    subject = draw.value(draw.pick((words.person, words.city, words.thing)))
    return Exchange(draw.phrase(_ASKED, _HELD_OUT).format(subject), ANSWER, KEY)
