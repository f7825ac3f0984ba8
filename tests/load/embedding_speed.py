"""The speed of embeddings beside sentence-transformers, in alternating rounds of one run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx

from tests.load import sentences
from tests.load.apis import to_embedding_body
from tests.load.workload import Workload

TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Round:
    """Tokens a second of both, one request after the other."""

    served: float
    baseline: float

    @property
    def ratio(self) -> float:
        """How many times as fast the service is."""
        return self.served / self.baseline


class Baseline:
    """A process with sentence-transformers."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def embed(self, texts: list[str]) -> tuple[float, int]:
        """The seconds and the tokens of these texts."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(texts) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return answer["seconds"], answer["tokens"]


@contextmanager
def baseline(python: str, folder: Path) -> Iterator[Baseline]:
    """sentence-transformers of this Python, with the model of a folder."""
    command = [python, str(Path(sentences.__file__)), str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Baseline(process)
        assert process.stdin is not None
        process.stdin.close()


def compare(
    url: str, workload: Workload, python: str, folder: Path, rounds: int, requests: int
) -> list[Round]:
    """Rounds of some requests to each, by turns; the first round of each is not counted."""
    measured = []
    with baseline(python, folder) as other, httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
        for number in range(rounds + 1):
            bodies = [
                to_embedding_body(workload.body(number * requests + index))
                for index in range(requests)
            ]
            served = [serve(client, body) for body in bodies]
            based = [other.embed(body["input"]) for body in bodies]
            measured.append(Round(speed_of(served), speed_of(based)))
    return measured[1:]


def serve(client: httpx.Client, body: dict[str, object]) -> tuple[float, int]:
    """The seconds and the tokens of one request."""
    answer = client.post("/v1/embeddings", json=body)
    answer.raise_for_status()
    return answer.elapsed.total_seconds(), answer.json()["usage"]["prompt_tokens"]


def speed_of(measured: list[tuple[float, int]]) -> float:
    """Tokens a second."""
    return sum(tokens for _, tokens in measured) / sum(seconds for seconds, _ in measured)


def describe(rounds: list[Round]) -> str:
    """The medians, and the ratio of each round."""
    served, based = (
        median(getattr(each, name) for each in rounds) for name in ("served", "baseline")
    )
    ratios = sorted(each.ratio for each in rounds)
    return (
        f"embeddings: {served:,.0f} tokens a second, sentence-transformers {based:,.0f}; "
        f"ratio {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )
