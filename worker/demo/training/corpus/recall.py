"""Statements of the user, and questions about them later in the conversation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from worker.demo.training.corpus import words
from worker.demo.training.corpus.document import Exchange
from worker.demo.training.corpus.draw import Draw, Split
from worker.demo.training.corpus.phrasing import phrasings


@dataclass(frozen=True)
class _Topic:
    """The phrasings of a statement, its reply, its questions and their answer; `{0}` is a value."""

    value: Callable[[Draw], str]
    statements: tuple[str, ...]
    statements_held_out: tuple[str, ...]
    reply: str
    questions: tuple[str, ...]
    nouns: tuple[str, ...]
    clauses: tuple[str, ...]
    questions_held_out: tuple[str, ...]
    answer: str

    def statement(self, draw: Draw) -> str:
        """A phrasing of the statement, sometimes after a few words of chat."""
        form = draw.phrase(self.statements, self.statements_held_out)
        with_lead = draw.pick(_LEADS) + form
        usable = draw.split is Split.TRAIN and with_lead not in self.statements_held_out
        return with_lead if usable and draw.chance(0.25) else form

    def question(self, draw: Draw) -> str:
        """A phrasing of the question."""
        held_out = self.questions_held_out
        return draw.phrase(phrasings(self.questions, self.nouns, self.clauses, held_out), held_out)


_LEADS = ("By the way, ", "Hello! ", "Hi, ", "Please remember: ", "You should know: ", "Well, ")

_TOPICS = (
    _Topic(
        lambda draw: draw.value(words.person),
        ("My name is {0}.", "I am {0}.", "Hi, I am {0}.", "Hello, my name is {0}.", "Call me {0}.",
         "I'm {0}.", "my name is {0}", "Hi! My name is {0}.", "The name is {0}.",
         "I am called {0}."),
        ("Hello! I'm {0}.", "Hey, my name is {0}."),
        "Nice to meet you, {0}!",
        ("What is my name?", "What's my name?", "Do you know my name?", "Who am I?",
         "Do you remember my name?", "Tell me my name.", "what is my name"),
        ("my name",),
        ("what my name is", "who I am", "what I am called",),
        ("Can you tell me my name?", "Please tell me what my name is."),
        "Your name is {0}.",
    ),
    _Topic(
        lambda draw: draw.value(words.city),
        ("I live in {0}.", "I am from {0}.", "My home is in {0}.", "I live in the city of {0}.",
         "My home town is {0}.", "I come from {0}.", "{0} is my city."),
        ("My city is {0}.",),
        "{0} sounds like a nice place.",
        ("Where do I live?", "Where am I from?", "Which city do I live in?", "Where is my home?"),
        ("my city", "my home town",),
        ("where I live", "where I am from", "which city I live in",),
        ("Do you remember where I live?",),
        "You live in {0}.",
    ),
    _Topic(
        lambda draw: draw.pick(words.COLOURS),
        ("My favourite colour is {0}.", "I like the colour {0}.", "I love {0}.",
         "The colour I like best is {0}.", "My colour is {0}.", "{0} is the colour I like most."),
        ("My best colour is {0}.",),
        "I like {0} too.",
        ("What is my favourite colour?", "Which colour do I like?", "What colour do I like best?"),
        ("my favourite colour", "the colour I like",),
        ("which colour I like", "what my favourite colour is",),
        ("Do you remember my favourite colour?",),
        "Your favourite colour is {0}.",
    ),
    _Topic(
        lambda draw: str(draw.number(5, 99)),
        ("I am {0} years old.", "My age is {0}.", "I'm {0} years old.", "I turned {0} last week.",
         "I am now {0} years old."),
        ("I turned {0} this year.",),
        "{0} is a fine age.",
        ("How old am I?", "What is my age?", "Do you remember how old I am?"),
        ("my age",),
        ("how old I am", "what my age is",),
        ("Can you tell me my age?",),
        "You are {0} years old.",
    ),
    _Topic(
        lambda draw: draw.value(words.person),
        ("My dog is called {0}.", "I have a dog named {0}.", "My dog's name is {0}.",
         "I call my dog {0}.", "{0} is the name of my dog."),
        ("The name of my dog is {0}.",),
        "{0} is a lovely name for a dog.",
        ("What is my dog's name?", "What is my dog called?", "Do you know the name of my dog?"),
        ("my dog's name", "the name of my dog",),
        ("what my dog is called", "how my dog is called",),
        ("Do you remember what my dog is called?",),
        "Your dog is called {0}.",
    ),
    _Topic(
        lambda draw: draw.value(words.code),
        ("Remember the code {0}.", "The code is {0}.", "My code is {0}.",
         "Remember this code: {0}.", "Keep the code {0}.", "Please remember the code {0}."),
        ("Please keep the code {0} in mind.",),
        "I will remember the code {0}.",
        ("What is the code?", "What was the code?", "Tell me the code.", "Which code did I give?"),
        ("the code", "my code", "that code",),
        ("what the code is", "which code I gave you", "what the code was",),
        ("Do you still know the code?",),
        "The code is {0}.",
    ),
    _Topic(
        lambda draw: draw.value(words.thing),
        ("I bought a {0}.", "I have a new {0}.", "Today I bought a {0}.", "I just got a {0}.",
         "Last week I bought a {0}.", "I got myself a {0}."),
        ("Yesterday I bought a {0}.",),
        "Enjoy your {0}!",
        ("What did I buy?", "What do I have?", "What did I get?"),
        (),
        ("what I bought", "what I have", "which thing I bought", "what I got",),
        ("Do you remember what I bought?",),
        "You bought a {0}.",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Memory:
    """A statement of the user, and a later question about it."""

    topic: int
    statement: Exchange
    question: Exchange


def memory(draw: Draw, without: frozenset[int] = frozenset()) -> Memory:
    """One memory; `without` are the topics that the conversation already has."""
    number = draw.pick([n for n in range(len(_TOPICS)) if n not in without])
    topic = _TOPICS[number]
    value = topic.value(draw)
    statement, question = topic.statement(draw).format(value), topic.question(draw)
    return Memory(
        topic=number,
        statement=Exchange(statement, topic.reply.format(value), value),
        question=Exchange(question, topic.answer.format(value), value),
    )
