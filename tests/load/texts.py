"""Interference of streams that decode with a list of texts for vectors, on all-MiniLM-L6-v2."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
from rich.table import Table

from tests.e2e.daemon import running
from tests.e2e.embedders import CHAT, EMBEDDER, configure, table
from tests.load.figures import Percentiles
from tests.load.generator import ClosedLoop, Load, generate
from tests.load.servers import make_tiny
from tests.load.tables import spread, wide_console
from tests.load.timings import Timing
from tests.load.workload import WORDS, Lengths, Workload
from tests.models.embedding import minilm

TIMEOUT_S = 900.0
# More than the published length, which is that of the texts of its training.
MAX_TOKENS = 512
# Delay of the list: the streams have started by then.
DELAY_S = 0.5
WARM_UP_TEXTS = 4


class Embedded(msgspec.Struct):
    """One list: when it was sent, in seconds of the performance counter, and how long it took."""

    sent_at: float
    seconds: float
    tokens: int


class Result(msgspec.Struct):
    """Milliseconds between tokens of the streams, and tokens of texts a second."""

    undisturbed: Percentiles
    disturbed: Percentiles
    texts_alone: float
    texts_beside: float
    errors: int


def measure(url: str, options: argparse.Namespace, number: int) -> Result:
    """The streams alone, the texts alone, and both together."""
    workload = Workload(Lengths("40"), Lengths(str(options.answer_tokens)), model=CHAT)
    streams = Load(url, workload, ClosedLoop(options.streams, options.streams))
    [undisturbed] = generate([streams])
    alone = embed(url, make_texts(options, f"alone {number}"))
    sent: list[Future[Embedded]] = []
    with ThreadPoolExecutor() as executor:

        def send() -> None:
            texts = make_texts(options, f"beside {number}")
            sent.append(executor.submit(embed, url, texts, DELAY_S))

        [disturbed] = generate([streams], on_begin=send)
        beside = sent[0].result()
    timings = [*undisturbed.timings, *disturbed.timings]
    return Result(
        Percentiles.of(gap for timing in undisturbed.timings for gap in timing.gaps),
        Percentiles.of(gaps_beside(disturbed.timings, beside)),
        alone.tokens / alone.seconds,
        beside.tokens / beside.seconds,
        sum(timing.error is not None for timing in timings),
    )


def embed(url: str, texts: list[str], delay_s: float = 0.0) -> Embedded:
    """Send a list, and wait for its vectors."""
    time.sleep(delay_s)
    began = time.perf_counter()
    body = {"model": EMBEDDER, "input": texts, "encoding_format": "base64"}
    response = httpx.post(f"{url}/v1/embeddings", json=body, timeout=TIMEOUT_S)
    response.raise_for_status()
    seconds = time.perf_counter() - began
    return Embedded(began, seconds, response.json()["usage"]["prompt_tokens"])


def make_texts(options: argparse.Namespace, seed: str) -> list[str]:
    """Texts that no other list has."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=options.words)) for _ in range(options.texts)]


def gaps_beside(timings: Sequence[Timing], list: Embedded) -> Iterator[float]:
    """Between tokens of the streams while the list was computed."""
    for timing in timings:
        for earlier, later in zip(timing.text_at, timing.text_at[1:], strict=False):
            if later >= list.sent_at and earlier <= list.sent_at + list.seconds:
                yield later - earlier


@contextmanager
def service() -> Iterator[str]:
    """The URL of a service with a tiny chat model and the encoder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        encoder = Path(shutil.copytree(minilm.folder_path(), folder / "encoder"))
        lengths = {"max_seq_length": MAX_TOKENS}
        (encoder / "sentence_bert_config.json").write_text(json.dumps(lengths))
        tables = table(CHAT, make_tiny(folder)), table(EMBEDDER, encoder, kind='"embedding"')
        with running(flags=[*configure(folder, *tables), "--log-level", "warning"]) as daemon:
            yield daemon.url


def results_table(results: Sequence[Result]) -> Table:
    """Every round."""
    names = ("between, undisturbed", "between, beside texts", "texts alone", "texts beside")
    table = Table(*names, "errors")
    table.caption = "milliseconds: p50 / p95 / p99; tokens of texts a second"
    for each in results:
        speeds = (f"{each.texts_alone:,.0f}", f"{each.texts_beside:,.0f}")
        table.add_row(str(each.undisturbed), str(each.disturbed), *speeds, str(each.errors))
    return table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this script's arguments."""
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=8, help="that decode")
    parser.add_argument("--answer-tokens", type=int, default=1900, help="of each of them")
    parser.add_argument("--texts", type=int, default=64, help="of the list")
    parser.add_argument("--words", type=int, default=450, help="of each text")


def main(options: argparse.Namespace) -> int:
    """Measure; returns 1 if a stream failed."""
    console = wide_console()
    with service() as url:
        embed(url, make_texts(options, "warm-up")[:WARM_UP_TEXTS])
        results = [measure(url, options, number) for number in range(options.rounds)]
    console.print(results_table(results))
    ratios = [each.disturbed.p99 / each.undisturbed.p99 for each in results]
    console.print(f"between p99, of undisturbed: {spread(ratios)}", highlight=False)
    return int(any(each.errors for each in results))
