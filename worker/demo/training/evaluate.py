"""Evaluates the demo model on prompts that are not in its training corpus.

    python -m worker.demo.training.evaluate

Every prompt is answered greedily by mlxd's engine. MODEL_CARD.md has the results.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from protocol.messages import Sampling
from worker.demo import demo_model_path
from worker.demo.training.corpus import mixture, weather
from worker.demo.training.corpus.document import Chat
from worker.open_files import open_files_limit_kept
from worker.transformers_scan import models_scanned_once

with open_files_limit_kept(), models_scanned_once():
    from mlx_lm import load

    from worker.engine.engine import Engine
    from worker.engine.prefill_budget import PrefillLimits
    from worker.engine.sampler import make_row
    from worker.models.model_files import stop_tokens_of

SEED = 7
PROMPTS_PER_KIND = 60
MAX_RUNNING = 16
MAX_TOKENS = 320
CONTEXT_TOKENS = 2048
MIN_STORY_WORDS = 50


@dataclass(frozen=True)
class Answer:
    """The model's text, and whether it ended with a stop token."""

    text: str
    ended: bool


class Subject:
    """The model under evaluation, run by mlxd's engine."""

    def __init__(self, path: Path) -> None:
        self._model, self._tokenizer = load(str(path))[:2]
        self._stop_tokens = stop_tokens_of(path, self._tokenizer)

    def answer(self, chats: Sequence[Chat]) -> list[Answer]:
        """The model's answer in place of each chat's last turn."""
        engine = Engine(
            self._model, max_running=MAX_RUNNING, prefill=PrefillLimits(max_tokens=CONTEXT_TOKENS)
        )
        for number, chat in enumerate(chats):
            row = make_row(Sampling(seed=0, temperature=0.0), self._stop_tokens)
            engine.insert(number, self._prompt(chat), MAX_TOKENS, row)
        tokens: dict[int, list[int]] = defaultdict(list)
        ended: dict[int, bool] = {}
        while len(engine):
            for token in engine.step():
                if token.reason != "stop":
                    tokens[token.id].append(token.token)
                if token.reason is not None:
                    ended[token.id] = token.reason == "stop"
        return [Answer(self._tokenizer.decode(tokens[n]), ended[n]) for n in range(len(chats))]

    def _prompt(self, chat: Chat) -> list[int]:
        prompt: list[int] = self._tokenizer.apply_chat_template(
            chat.messages[:-1], tools=chat.tools or None, add_generation_prompt=True
        )
        return prompt

    def calls(self, text: str) -> list[Any]:
        """The tool calls in an answer, by mlx-lm's parser; None for one that is not valid."""
        start, end = self._tokenizer.tool_call_start, self._tokenizer.tool_call_end
        return [_parse(self._tokenizer.tool_parser, c.split(end)[0]) for c in text.split(start)[1:]]


def _parse(parser: Callable[[str], Any], text: str) -> Any:
    try:
        return parser(text)
    except ValueError:
        return None


def is_right(subject: Subject, chat: Chat, text: str) -> bool:
    """Whether `text` is a correct last turn for `chat`."""
    expected = [call["function"] for call in chat.messages[-1].get("tool_calls", [])]
    if subject.calls(text) != expected:
        return False
    if chat.kind == "json":
        return bool(_parse(json.loads, text) == json.loads(chat.key))
    if chat.kind == "story":
        return text.endswith(chat.key) and len(text.split()) >= MIN_STORY_WORDS
    key = re.escape(chat.key.strip())
    return re.search(rf"(?<!\w){key}(?!\w)", text) is not None


def prompts(each: int) -> Iterator[Chat]:
    """`each` held-out chats of every kind, and as many with the weather tool, new to the model."""
    documents = mixture.held_out(SEED, each)
    yield from (document for document in documents if isinstance(document, Chat))
    yield from weather.chats(each)


@dataclass
class Tally:
    """The results of the prompts of one kind."""

    prompts: int = 0
    right: int = 0
    ended: int = 0
    valid_json: int = 0


def evaluate(subject: Subject, each: int) -> list[tuple[Chat, Answer]]:
    """Every prompt with its answer."""
    chats = list(prompts(each))
    return list(zip(chats, subject.answer(chats), strict=True))


def count_results(subject: Subject, answers: Sequence[tuple[Chat, Answer]]) -> dict[str, Tally]:
    """The results by kind of prompt."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    for chat, answer in answers:
        tally = tallies[chat.kind]
        tally.prompts += 1
        tally.right += is_right(subject, chat, answer.text)
        tally.ended += answer.ended
        tally.valid_json += _parse(json.loads, answer.text) is not None
    return tallies


def mistakes(subject: Subject, answers: Sequence[tuple[Chat, Answer]]) -> Iterator[str]:
    """The wrong answers, each with the expected one."""
    for chat, answer in answers:
        if not is_right(subject, chat, answer.text):
            question, expected = chat.messages[-2]["content"], chat.messages[-1]
            right = expected.get("tool_calls") or expected["content"]
            yield f"{chat.kind}: {question}\n  answer   {answer.text}\n  expected {right}"


def table(tallies: dict[str, Tally]) -> str:
    """The rates as a Markdown table."""
    lines = ["| kind | prompts | right | ends its turn |", "|---|---|---|---|"]
    for kind, tally in tallies.items():
        right, ended = tally.right / tally.prompts, tally.ended / tally.prompts
        lines.append(f"| {kind} | {tally.prompts} | {right:.0%} | {ended:.0%} |")
    count = sum(t.prompts for t in tallies.values())
    right = sum(t.right for t in tallies.values()) / count
    ended = sum(t.ended for t in tallies.values()) / count
    lines.append(f"| all | {count} | {right:.0%} | {ended:.1%} |")
    if "json" in tallies:
        valid = tallies["json"].valid_json / tallies["json"].prompts
        lines.append(f"\nValid JSON: {valid:.0%} of the JSON prompts.")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser("python -m worker.demo.training.evaluate", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", type=Path, default=demo_model_path(), help="folder of the model")
    parser.add_argument("--each", type=int, default=PROMPTS_PER_KIND, help="prompts of each kind")
    parser.add_argument("--show", action="store_true", help="print the wrong answers")
    arguments = parser.parse_args()
    console, started_at = Console(highlight=False, markup=False, soft_wrap=True), time.monotonic()
    subject = Subject(arguments.model)
    answers = evaluate(subject, arguments.each)
    for mistake in mistakes(subject, answers) if arguments.show else ():
        console.print(mistake)
    console.print(table(count_results(subject, answers)))
    console.print(f"\n{time.monotonic() - started_at:.0f} s")


if __name__ == "__main__":
    main()
