"""What quantised keys and values cost and change, on SmolLM2: bytes, divergence, time of a step."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.utils import load
from rich.table import Table

from protocol.messages import Sampling
from protocol.quantisation import KVBits
from tests.load.tables import wide_console
from tests.models.smollm2 import float32_path
from worker.engine.engine import Engine
from worker.engine.prefill_budget import PrefillLimits
from worker.engine.sampler import make_row
from worker.quantised_kv.model_quantisation import KVQuantisation

BITS: tuple[KVBits, ...] = (0, 8, 4)
SHARE_TARGETS: dict[KVBits, float] = {8: 0.55, 4: 0.32}
"""The most bytes that the caches may take, of those in 16 bits."""
PLACES = 256
"""The places whose next tokens are compared, each behind at least as many tokens."""
TEXTS = ("worker/README.md", "CHANGELOG.md", "tests/load/compare.py")
ROWS, STEPS, ROUNDS = 4, 16, 5
GREEDY = Sampling(seed=0, temperature=0.0, ignore_eos=True)


@dataclass(frozen=True, slots=True)
class Change:
    """How the next tokens of a text differ from those of full precision.

    `share` are the caches' bytes, of those in 16 bits. The divergences are in nats.
    """

    share: float
    mean_divergence: float
    largest_divergence: float
    same_first: float


Scores = tuple[mx.array, int]
"""The log-probabilities of the last places, and the caches' bytes."""


def compare(in_full: Scores, quantised: Scores) -> Change:
    """Compare the last places of a text."""
    (full, full_bytes), (other, other_bytes) = in_full, quantised
    divergence = mx.sum(mx.exp(full) * (full - other), axis=-1)
    same = mx.argmax(full, axis=-1) == mx.argmax(other, axis=-1)
    return Change(
        share=other_bytes / (full_bytes * mx.float16.size / mx.float32.size),
        mean_divergence=to_float(divergence.mean()),
        largest_divergence=to_float(divergence.max()),
        same_first=to_float(same.astype(mx.float32).mean()),
    )


def to_float(value: mx.array) -> float:
    """The number of an array that has one."""
    [number] = value.reshape(1).tolist()  # type: ignore[misc]
    return float(number)  # type: ignore[arg-type]


def score(model: nn.Module, tokens: list[int], bits: KVBits) -> Scores:
    """Compute a text in one pass."""
    caches = KVQuantisation.of(model, bits).make_caches(model)
    logits = model(mx.array([tokens]), cache=caches)[0, -PLACES:]
    scores = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    mx.eval(scores)
    return scores, sum(cache.nbytes for cache in caches)


def measure_steps(model: nn.Module, prompt: list[int]) -> dict[KVBits, float]:
    """The median processor time of a decode step of four rows, in ms, in alternating rounds."""
    engines = {bits: fill_engine(model, prompt, bits) for bits in BITS}
    times: dict[KVBits, list[float]] = {bits: [] for bits in BITS}
    for _ in range(ROUNDS):
        for bits, engine in engines.items():
            started = time.process_time()
            for _ in range(STEPS):
                engine.step()
            times[bits].append((time.process_time() - started) * 1000 / STEPS)
    return {bits: median(of_bits) for bits, of_bits in times.items()}


def fill_engine(model: nn.Module, prompt: list[int], bits: KVBits) -> Engine:
    """Rows of unlike lengths that decode."""
    engine = Engine(model, max_running=ROWS, prefill=PrefillLimits(max_tokens=512), kv_bits=bits)
    for id in range(ROWS):
        engine.insert(id, prompt[17 * id :], (ROUNDS + 2) * STEPS, make_row(GREEDY))
    while len(engine.step()) < ROWS:
        pass
    return engine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("--steps", action="store_true", help="measure decode steps, too")


def main(options: argparse.Namespace) -> int:
    """Print the figures."""
    model, tokenizer = load(str(float32_path()))[:2]
    texts = {path: tokenizer.encode(Path(path).read_text())[: 2 * PLACES] for path in TEXTS}
    table = Table("text", "bits", "bytes of 16 bits'", "mean KL", "largest KL", "same first token")
    for path, tokens in texts.items():
        in_full = score(model, tokens, 0)
        for bits in BITS[1:]:
            change = compare(in_full, score(model, tokens, bits))
            table.add_row(
                path,
                str(bits),
                f"{change.share:.3f} (at most {SHARE_TARGETS[bits]})",
                f"{change.mean_divergence:.5f}",
                f"{change.largest_divergence:.3f}",
                f"{change.same_first:.3f}",
            )
    console = wide_console()
    console.print(table)
    if options.steps:
        for bits, step_ms in measure_steps(model, texts[TEXTS[0]]).items():
            console.print(f"{bits or 'full'}: {step_ms:.1f} ms of processor time a step")
    return 0
