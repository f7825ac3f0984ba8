"""System prompts that set the style or the name of the model."""

from __future__ import annotations

from collections.abc import Callable

from worker.demo.training.corpus import words
from worker.demo.training.corpus.document import Chat, Exchange, assistant, system, user
from worker.demo.training.corpus.draw import Draw

PLAIN_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are mlxd-demo.",
    "Be brief.",
    "You are a friendly assistant. Answer the user.",
    "Answer shortly and clearly.",
)

_ENDING = (
    'End every answer with "{0}".',
    'Always end with "{0}".',
    'Finish each answer with the word "{0}".',
    'You always say "{0}" at the end.',
    'End each answer with "{0}".',
    'The last word of every answer is "{0}".',
    'Please finish every answer with "{0}".',
    'Put "{0}" at the end of each answer.',
)
_ENDING_HELD_OUT = ('Please end each answer with "{0}".',)
_BEGINNING = (
    'Begin every answer with "{0}".',
    'Always start with "{0}".',
    'Start each answer with the word "{0}".',
    'You always say "{0}" first.',
    'Start every answer with "{0}".',
    'The first word of each answer is "{0}".',
    'Please begin each answer with "{0}".',
    'Put "{0}" before each answer.',
)
_BEGINNING_HELD_OUT = ('Please start each answer with "{0}".',)
_ADDRESS = (
    "Call the user {0}.",
    "The user is called {0}. Use the name in every answer.",
    "You talk to {0}. Use the name in each answer.",
    "Address the user as {0}.",
    "Please call the user {0}.",
    "Call the user {0} in every answer.",
    "The name of the user is {0}. Say it in each answer.",
    "Always call me {0}.",
)
_ADDRESS_HELD_OUT = ("Please call the user {0} in each answer.",)
_PERSONA = (
    "You are {0}, a helpful assistant.",
    "Your name is {0}.",
    "You are {0}.",
    "You play the role of {0}.",
    "You are called {0}.",
    "You are an assistant named {0}.",
    "You are the robot {0}.",
    "Act as {0}.",
)
_PERSONA_HELD_OUT = ("You are a robot named {0}.",)
_WHO = (
    "Who are you?",
    "What is your name?",
    "Tell me your name.",
    "Introduce yourself.",
    "Can you tell me your name?",
    "What are you called?",
    "Who are you, please?",
)
_WHO_HELD_OUT = ("Please tell me your name.",)
_ONE_WORD = (
    "Answer with one word.",
    "Answer in one word only.",
    "Use only one word.",
    "One word only.",
    "Reply in one word.",
    "Give one-word answers.",
)
_ONE_WORD_HELD_OUT = ("Reply with one word only.",)
_PIRATE = (
    "You are a pirate.",
    "Talk like a pirate.",
    "Answer like a pirate.",
    "Reply as a pirate.",
    "You speak as a pirate does.",
)
_PIRATE_HELD_OUT = ("Speak like a pirate.",)


def _word(draw: Draw) -> str:
    return draw.value(words.invented).capitalize() if draw.chance(0.7) else draw.value(words.label)


def _ending(draw: Draw, fact: Exchange) -> tuple[str, str, str]:
    word = _word(draw)
    prompt = draw.phrase(_ENDING, _ENDING_HELD_OUT).format(word)
    return prompt, f"{fact.answer} {word}", f" {word}"


def _beginning(draw: Draw, fact: Exchange) -> tuple[str, str, str]:
    word = _word(draw)
    prompt = draw.phrase(_BEGINNING, _BEGINNING_HELD_OUT).format(word)
    return prompt, f"{word} {fact.answer}", f"{word} "


def _address(draw: Draw, fact: Exchange) -> tuple[str, str, str]:
    name = draw.value(words.person)
    prompt = draw.phrase(_ADDRESS, _ADDRESS_HELD_OUT).format(name)
    return prompt, f"{name}, here is the answer: {fact.answer}", f"{name},"


def _one_word(draw: Draw, fact: Exchange) -> tuple[str, str, str]:
    return draw.phrase(_ONE_WORD, _ONE_WORD_HELD_OUT), fact.key, fact.key


def _pirate(draw: Draw, fact: Exchange) -> tuple[str, str, str]:
    prompt = draw.phrase(_PIRATE, _PIRATE_HELD_OUT)
    return prompt, f"Arr, matey! {fact.answer} Yo ho ho!", "Arr"


def styled(draw: Draw, facts: tuple[Callable[[Draw], Exchange], ...]) -> Chat:
    """A fact, answered in the style of the system prompt."""
    fact = draw.pick(facts)(draw)
    style = draw.pick((_ending, _beginning, _address, _one_word, _pirate))
    prompt, answer, key = style(draw, fact)
    return Chat("style", [system(prompt), user(fact.question), assistant(answer)], key)


def persona(draw: Draw) -> Chat:
    """A question for the name that the system prompt gives the model."""
    name = draw.value(words.person)
    prompt = draw.phrase(_PERSONA, _PERSONA_HELD_OUT).format(name)
    question = draw.phrase(_WHO, _WHO_HELD_OUT)
    return Chat("style", [system(prompt), user(question), assistant(f"I am {name}.")], name)
