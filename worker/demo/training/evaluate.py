"""Pass rates of the demo model on prompts that training never saw, by mlx-lm's own path.

    python -m worker.demo.training.evaluate

Every prompt is answered greedily. The figures of MODEL_CARD.md come from here.
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

from mlx_lm import load
from rich.console import Console

from protocol.messages import Sampling
from worker.demo import demo_model_path
from worker.demo.training.corpus import mixture, weather
from worker.demo.training.corpus.document import Chat
from worker.engine.engine import Engine
from worker.engine.sampler import make_row
from worker.models.model_files import stop_tokens_of

SEED = 7
EACH = 60
BATCH = 16
MAX_TOKENS = 320
CONTEXT_TOKENS = 2048
STORY_LEAST_WORDS = 50


@dataclass(frozen=True)
class Answer:
    """What the model said, and whether it stopped by itself."""

    text: str
    ended: bool


class Subject:
    """The model under evaluation, loaded and run as mlxd runs any other model."""

    def __init__(self, path: Path) -> None:
        self._model, self._tokenizer = load(str(path))[:2]
        self._stop_tokens = stop_tokens_of(path, self._tokenizer)

    def answer(self, chats: Sequence[Chat]) -> list[Answer]:
        """Everything but a chat's last turn goes in; the model's own last turn comes out."""
        engine = Engine(self._model, max_running=BATCH, prefill_step_tokens=CONTEXT_TOKENS)
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
        """The tool calls in an answer, by mlx-lm's parser; an unreadable one is None."""
        start, end = self._tokenizer.tool_call_start, self._tokenizer.tool_call_end
        return [
            _parsed(self._tokenizer.tool_parser, c.split(end)[0]) for c in text.split(start)[1:]
        ]


def _parsed(parser: Callable[[str], Any], text: str) -> Any:
    try:
        return parser(text)
    except ValueError:
        return None


def is_right(subject: Subject, chat: Chat, text: str) -> bool:
    """Whether `text` is a right last turn for `chat`."""
    wanted = [call["function"] for call in chat.messages[-1].get("tool_calls", [])]
    if subject.calls(text) != wanted:
        return False
    if chat.kind == "json":
        return bool(_parsed(json.loads, text) == json.loads(chat.key))
    if chat.kind == "story":
        return text.endswith(chat.key) and len(text.split()) >= STORY_LEAST_WORDS
    key = re.escape(chat.key.strip())
    return re.search(rf"(?<!\w){key}(?!\w)", text) is not None


def prompts(each: int) -> Iterator[Chat]:
    """Held-out chats of every kind, and the question for the weather that names a new tool."""
    documents = mixture.held_out(SEED, each)
    yield from (document for document in documents if isinstance(document, Chat))
    yield from weather.chats(each)


@dataclass
class Tally:
    """How the prompts of one kind went."""

    asked: int = 0
    right: int = 0
    ended: int = 0
    readable: int = 0


def evaluate(subject: Subject, each: int) -> list[tuple[Chat, Answer]]:
    """Every prompt with its answer."""
    chats = list(prompts(each))
    return list(zip(chats, subject.answer(chats), strict=True))


def tallied(subject: Subject, answered: Sequence[tuple[Chat, Answer]]) -> dict[str, Tally]:
    """The answers counted by kind of prompt."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    for chat, answer in answered:
        tally = tallies[chat.kind]
        tally.asked += 1
        tally.right += is_right(subject, chat, answer.text)
        tally.ended += answer.ended
        tally.readable += _parsed(json.loads, answer.text) is not None
    return tallies


def mistakes(subject: Subject, answered: Sequence[tuple[Chat, Answer]]) -> Iterator[str]:
    """The wrong answers, each beside what was wanted."""
    for chat, answer in answered:
        if not is_right(subject, chat, answer.text):
            question, wanted = chat.messages[-2]["content"], chat.messages[-1]
            right = wanted.get("tool_calls") or wanted["content"]
            yield f"{chat.kind}: {question}\n  said   {answer.text}\n  wanted {right}"


def table(tallies: dict[str, Tally]) -> str:
    """The rates in Markdown."""
    lines = ["| kind | prompts | right | ends its turn |", "|---|---|---|---|"]
    for kind, tally in tallies.items():
        right, ended = tally.right / tally.asked, tally.ended / tally.asked
        lines.append(f"| {kind} | {tally.asked} | {right:.0%} | {ended:.0%} |")
    asked, ended = (sum(getattr(t, f) for t in tallies.values()) for f in ("asked", "ended"))
    right = sum(t.right for t in tallies.values())
    lines.append(f"| all | {asked} | {right / asked:.0%} | {ended / asked:.1%} |")
    if "json" in tallies:
        valid = tallies["json"].readable / tallies["json"].asked
        lines.append(f"\nValid JSON: {valid:.0%} of the JSON prompts.")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser("python -m worker.demo.training.evaluate", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", type=Path, default=demo_model_path(), help="folder of the model")
    parser.add_argument("--each", type=int, default=EACH, help="prompts of each kind")
    parser.add_argument("--show", action="store_true", help="print the wrong answers")
    arguments = parser.parse_args()
    console, began = Console(highlight=False, markup=False, soft_wrap=True), time.monotonic()
    subject = Subject(arguments.model)
    answered = evaluate(subject, arguments.each)
    for mistake in mistakes(subject, answered) if arguments.show else ():
        console.print(mistake)
    console.print(table(tallied(subject, answered)))
    console.print(f"\n{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
