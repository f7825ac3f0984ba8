"""Makes `answers.json`: the expected answers of the built-in model.

    python -m worker.selftest.make_answers

It is run on a CPU, again after each change of the model. The tokens are those of rows alone in
the engine; the candidates come from one pass over prompt and answer.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import msgspec
import numpy as np

from protocol.messages import ModelSource
from protocol.selftest import BUILT_IN
from worker.engine.bitmask import mask_logits
from worker.engine.engine import Engine
from worker.engine.sampler import Row, noisy_logits, process_logits
from worker.memory.device import prepare_device
from worker.selftest.answers import STORED, Answer, Kind, make_answer_row
from worker.selftest.subject import Subject, load_subject

TOKENS = 24
CANDIDATES = 5
DIGITS = 5
ANIMALS = ("fox", "bear", "cat", "dog", "mouse", "bird", "frog", "horse")
SAMPLED: tuple[tuple[Kind, int], ...] = (
    # kind, and how many of its answers are stored
    ("seeded", 4),
    ("penalised", 2),
    ("masked", 2),
)


def make_answers(subject: Subject) -> Iterator[Answer]:
    """The answers of all kinds."""
    prompts = [make_prompt(subject, animal) for animal in ANIMALS]
    for prompt in prompts:
        yield make_answer(subject, "greedy", prompt)
    for kind, count in SAMPLED:
        for prompt in prompts[:count]:
            yield make_answer(subject, kind, prompt)


def make_prompt(subject: Subject, animal: str) -> list[int]:
    """A question whose answer is longer than `TOKENS`; the prompts have unlike lengths."""
    words = f"Tell me a story about a {animal}" + " please" * len(animal)
    message = {"role": "user", "content": words}
    tokenizer = subject.loaded.config.prompts.tokenizer
    prompt: list[int] = tokenizer.apply_chat_template([message], add_generation_prompt=True)
    return prompt


def make_answer(subject: Subject, kind: Kind, prompt: list[int]) -> Answer:
    """One answer with its candidates.

    Raises:
        ValueError: the engine has not drawn the best candidate.
    """
    size = subject.vocabulary_size
    tokens = draw_alone(subject.make_engine(), prompt, make_answer_row(kind, size, prompt=prompt))
    # The logits of position n are computed from the tokens before it.
    logits = subject.model(mx.array([prompt + tokens[:-1]]))[0, len(prompt) - 1 :]
    row = make_answer_row(kind, size, prompt=prompt)
    candidates = []
    for position, token in enumerate(tokens):
        candidates.append(best_of(logits[position : position + 1], row))
        if candidates[-1][0][0] != token:
            raise ValueError(f"{kind}: token {position} is not the best candidate")
        row.accept(token)
        row.position += 1
    return Answer(kind, prompt, tokens, candidates)


def draw_alone(engine: Engine, prompt: list[int], row: Row) -> list[int]:
    """The tokens of a row alone."""
    engine.insert(0, prompt, TOKENS, row)
    tokens: list[int] = []
    while len(engine):
        tokens += [token.token for token in engine.step()]
    return tokens


def best_of(logits: mx.array, row: Row) -> list[tuple[int, float]]:
    """The candidates of the row's next draw, best first, from logits of shape [1, vocabulary]."""
    values = mask_logits(process_logits(logits, [row]), [row.mask()])
    if row.sampling.temperature > 0:
        values = noisy_logits(values, [row])
    numbers = np.array(values.astype(mx.float32))[0]
    best = np.argsort(-numbers)[:CANDIDATES]
    # A token that a filter has dropped is no candidate.
    scores = [(int(id), round(float(numbers[id]), DIGITS)) for id in best]
    return [(id, score) for id, score in scores if score > float("-inf")]


def main(path: Path = STORED) -> None:
    """Write the file, an answer a line."""
    prepare_device()
    answers = make_answers(load_subject(ModelSource(BUILT_IN, None)))
    lines = [msgspec.json.encode(answer).decode() for answer in answers]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n", "utf-8")
    sys.stdout.write(f"{len(lines)} answers in {path}\n")


if __name__ == "__main__":
    main()
