"""The whole corpus: the share of each kind, and the seeded shards.

A shard is a pure function of the seed and its number, so training can stop and continue
at any shard, and reads no document twice.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from worker.demo.training.corpus import (
    calls,
    drills,
    facts,
    geography,
    greetings,
    numbers,
    recall,
    sequences,
    stories,
    structured,
    styles,
    unknown,
)
from worker.demo.training.corpus.document import (
    Chat,
    Document,
    Exchange,
    assistant,
    system,
    turns,
    user,
)
from worker.demo.training.corpus.draw import Draw, Split

SHARD_DOCUMENTS = 2048
# The first shards of the second and the third phase. The first phase is mostly copying, the second
# adds facts, and the third has more answers that combine several parts of the prompt.
PHASE_STARTS = (8, 28)

FACTS: tuple[Callable[[Draw], Exchange], ...] = (
    geography.capital, geography.capital, geography.capital, geography.capital,
    facts.colour, facts.opposite, facts.sound, facts.young, facts.count,
    numbers.arithmetic, numbers.arithmetic, numbers.counting, numbers.larger, numbers.following,
    sequences.neighbour, sequences.listing,
)  # fmt: skip
_ANYTHING = (*FACTS, greetings.small_talk, greetings.small_talk, unknown.unanswerable)
_POLITE = ("Hello. ", "Hi! ", "Please answer: ", "Question: ", "Tell me: ")


def _opening(draw: Draw) -> list[dict[str, str]]:
    return [system(draw.pick(styles.PLAIN_PROMPTS))] if draw.chance(0.3) else []


def _single(kind: str, draw: Draw, exchange: Exchange) -> Chat:
    question = exchange.question
    if kind == "fact" and draw.chance(0.08):
        question = draw.pick(_POLITE) + question
    messages = [*_opening(draw), user(question), assistant(exchange.answer)]
    return Chat(kind, messages, exchange.key)


def _fact(draw: Draw) -> Chat:
    return _single("fact", draw, draw.pick(FACTS)(draw))


def _small_talk(draw: Draw) -> Chat:
    return _single("small talk", draw, greetings.small_talk(draw))


def _unknown(draw: Draw) -> Chat:
    return _single("unknown", draw, unknown.unanswerable(draw))


def _several(draw: Draw, most: int) -> list[Exchange]:
    return [draw.pick(_ANYTHING)(draw) for _ in range(draw.number(1, most))]


def _conversation(draw: Draw) -> Chat:
    exchanges = geography.follow_up(draw) if draw.chance(0.15) else _several(draw, 4)
    return Chat("conversation", [*_opening(draw), *turns(exchanges)], exchanges[-1].key)


def _recalling(draw: Draw) -> Chat:
    """One to three statements, sometimes other exchanges, and a question about one statement."""
    memories: list[recall.Memory] = []
    exchanges: list[Exchange] = []
    for _ in range(draw.pick((1, 1, 2, 2, 3))):
        memories.append(recall.memory(draw, frozenset(m.topic for m in memories)))
        exchanges.append(memories[-1].statement)
        exchanges += _several(draw, 2) if draw.chance(0.4) else []
    question = draw.pick(memories).question
    return Chat("recall", [*_opening(draw), *turns([*exchanges, question])], question.key)


def _long(draw: Draw) -> Chat:
    """A statement, 4 to 40 other exchanges, and a question about the statement."""
    most = draw.pick((8, 12, 16, 24, 40))
    memory = recall.memory(draw)
    between = [draw.pick(_ANYTHING)(draw) for _ in range(draw.number(4, most))]
    exchanges = [memory.statement, *between, memory.question]
    return Chat("long recall", turns(exchanges), memory.question.key)


def _styled(draw: Draw) -> Chat:
    return styles.persona(draw) if draw.chance(0.3) else styles.styled(draw, FACTS)


def _calling_later(draw: Draw) -> Chat:
    return calls.calling_later(draw, _several(draw, 2) if draw.chance(0.5) else [])


def _not_calling(draw: Draw) -> Chat:
    return calls.not_calling(draw, _several(draw, 2))


def _sums(draw: Draw) -> Chat:
    """Several sums, one in each turn, to be memorised."""
    exchanges = [numbers.arithmetic(draw) for _ in range(draw.number(2, 6))]
    return Chat("conversation", turns(exchanges), exchanges[-1].key)


@dataclass(frozen=True)
class Kind:
    """A generator of documents, and its share of the documents in each of the three phases."""

    write: Callable[[Draw], Document]
    shares: tuple[float, float, float]


KINDS = (
    Kind(drills.repeating, (14, 3, 3)),
    Kind(drills.looking_up, (20, 5, 8)),
    Kind(_fact, (12, 20, 20)),
    Kind(_sums, (2, 7, 7)),
    Kind(_small_talk, (3, 5, 5)),
    Kind(_unknown, (2, 4, 4)),
    Kind(_conversation, (5, 8, 8)),
    Kind(_recalling, (10, 11, 11)),
    Kind(_long, (0.0, 1.2, 1.2)),
    Kind(_styled, (5, 7, 7)),
    Kind(structured.extraction, (9, 9, 15)),
    Kind(structured.listing, (4, 3, 5)),
    Kind(stories.story, (1.5, 3, 2)),
    Kind(stories.passage, (0.5, 0.5, 0.5)),
    Kind(calls.calling, (8, 9, 10)),
    Kind(calls.calling_in_turn, (4, 7, 7)),
    Kind(calls.closing, (3, 5, 5)),
    Kind(_calling_later, (1, 3, 3)),
    Kind(_not_calling, (2, 4, 4)),
)


def shard(seed: int, number: int) -> list[Document]:
    """`SHARD_DOCUMENTS` training documents, by the shares of `KINDS`."""
    draw = Draw(random.Random(f"train {seed} {number}"), Split.TRAIN)
    phase = sum(number >= start for start in PHASE_STARTS)
    shares = [kind.shares[phase] for kind in KINDS]
    return [draw.rng.choices(KINDS, shares)[0].write(draw) for _ in range(SHARD_DOCUMENTS)]


def held_out(seed: int, each: int) -> Iterator[Document]:
    """`each` documents of every kind, for evaluation only."""
    draw = Draw(random.Random(f"held-out {seed}"), Split.HELD_OUT)
    for kind in KINDS:
        yield from (kind.write(draw) for _ in range(each))
