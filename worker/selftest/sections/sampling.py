"""The sampler at a large vocabulary, and whether compiling it pays."""

from __future__ import annotations

import mlx.core as mx

from protocol.messages import Sampling
from worker.engine.batches.compiled_sampling import CompiledSampling
from worker.engine.sampler import Row, Sample, draw_tokens, make_row, sample_tokens
from worker.selftest.answers import AlternateTokens
from worker.selftest.measurement import MS_PER_S, Section

ROWS, VOCABULARY = 32, 150_000
NUCLEUS = 0.9
# A smaller gain is not worth a compilation for each shape of a batch.
LEAST_GAIN = 1.1
KINDS = ("plain", "top_p", "masked")


def measure(section: Section, rows: int = ROWS, vocabulary: int = VOCABULARY) -> None:
    """The time to draw, with MLX's compiler and without."""
    logits = mx.random.normal((rows, vocabulary), key=mx.random.key(0)) * 4
    mx.eval(logits)
    compiled = CompiledSampling() if mx.metal.is_available() else None
    measure_samplers(section, logits, sample_tokens, compiled)


def measure_samplers(
    section: Section, logits: mx.array, plain: Sample, compiled: Sample | None
) -> None:
    """The times of both samplers; `compiled` is None where MLX does not compile."""
    gains = []
    shares = len(KINDS) * (1 if compiled is None else 2)
    for number, kind in enumerate(KINDS):
        if not section.left_s:
            section.skip(f"{kind}_ms", at=logits.shape[-1])
            continue
        plain_ms = time_draw(section, kind, logits, plain, shares - number)
        section.report(f"{kind}_ms", round(plain_ms, 3), "ms", at=logits.shape[-1])
        if compiled is not None:
            compiled_ms = time_draw(section, kind, logits, compiled, shares - number)
            section.report(f"compiled_{kind}_ms", round(compiled_ms, 3), "ms", at=logits.shape[-1])
            gains.append(plain_ms / compiled_ms)
    if compiled is None:
        section.skip("compiled_gain", "MLX compiles the sampler only on Metal")
    elif len(gains) < len(KINDS):
        section.skip("compiled_gain")
    else:
        section.report("compiled_gain", round(min(gains), 2), note=advise(min(gains)))


def advise(gain: float) -> str:
    """What to do with this gain."""
    if gain >= LEAST_GAIN:
        return 'pays: set compiled_sampling = "on"'
    return "does not pay: leave compiled_sampling off"


def time_draw(section: Section, kind: str, logits: mx.array, sample: Sample, shares: int) -> float:
    """Milliseconds to draw all rows once."""
    rows = [make_kind(kind, seed, logits.shape[-1]) for seed in range(logits.shape[0])]
    budget_s = section.left_s / max(1, shares)
    draw_s = section.time_s(lambda: mx.eval(draw_tokens(logits, rows, sample)), budget_s)
    return draw_s * MS_PER_S


def make_kind(kind: str, seed: int, vocabulary: int) -> Row:
    """A row of one of the `KINDS`."""
    sampling = Sampling(seed, temperature=0.8, top_p=1.0 if kind == "plain" else NUCLEUS)
    return make_row(sampling, constraint=AlternateTokens(vocabulary) if kind == "masked" else None)
