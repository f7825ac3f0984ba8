"""The workload: lengths of prompts and answers, shared prefixes, sampling."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.load.apis import ApiName

WORDS = (
    "the",
    "and",
    "of",
    "to",
    "in",
    "is",
    "it",
    "you",
    "that",
    "was",
    "for",
    "on",
    "are",
    "with",
)
PARAMETERS: list[dict[str, float]] = [
    {"temperature": 0},
    {"temperature": 0.7},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 1.0, "top_k": 40},
    {"temperature": 0.9, "min_p": 0.05},
    {"temperature": 0.6, "top_p": 0.95, "top_k": 20},
]

SamplingKind = Literal["greedy", "drawn", "mixed"]


@dataclass(frozen=True)
class Lengths:
    """A length, sampled anew each time.

    `128` is fixed, `16-512` uniform, `128~0.5` log-normal with that median and deviation.
    """

    text: str

    def __post_init__(self) -> None:
        self.draw(random.Random(0))

    def draw(self, chance: random.Random) -> int:
        """The next one, at least 1.

        Raises:
            ValueError: `text` is none of the three forms.
        """
        if "~" in self.text:
            median, deviation = map(float, self.text.split("~"))
            return max(1, round(median * chance.lognormvariate(0, deviation)))
        low, _, high = self.text.partition("-")
        return chance.randint(int(low), int(high or low))


@dataclass(frozen=True)
class Workload:
    """The requests of one run. `shared_words` begin every prompt; after them no two are equal.

    They are those of chat completions, and sent through `api`.
    """

    prompt_words: Lengths = Lengths("65")
    answer_tokens: Lengths = Lengths("128")
    shared_words: int = 0
    stream: bool = True
    sampling: SamplingKind = "greedy"
    model: str = "default"
    extra: dict[str, Any] = field(default_factory=dict)
    api: ApiName = "chat"

    def body(self, number: int) -> dict[str, Any]:
        """The request of this number, always the same one."""
        chance = random.Random(f"request {number}")
        words = chance.choices(WORDS, k=self.prompt_words.draw(chance))
        shared = random.Random("shared").choices(WORDS, k=self.shared_words)
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": " ".join([*shared, str(number), *words])}],
            "max_tokens": self.answer_tokens.draw(chance),
            **self._parameters(number),
            **self.extra,
        }
        if self.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body

    def _parameters(self, number: int) -> dict[str, float]:
        match self.sampling:
            case "greedy":
                return PARAMETERS[0]
            case "drawn":
                return PARAMETERS[2]
            case "mixed":
                return PARAMETERS[number % len(PARAMETERS)]
