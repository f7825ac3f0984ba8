"""The caches of a batch hold little more than its rows need."""

from __future__ import annotations

from pathlib import Path

from mlx_lm.utils import load_model

from protocol.messages import Sampling
from worker.engine.engine import Engine
from worker.engine.prefill_budget import PrefillLimits
from worker.engine.sampler import make_row


def test_what_the_caches_hold_is_at_most_one_and_a_half_times_what_the_rows_need(
    llama_path: Path,
) -> None:
    model, _ = load_model(llama_path)
    engine = Engine(model, max_running=16, prefill=PrefillLimits(max_tokens=64))
    for id in range(12):
        engine.insert(id, [*range(3, 43)], 400, make_row(Sampling(seed=0, temperature=0.0)))
    while len(engine.step()) < 12:
        pass
    needed_bytes = engine.kv_cost.batch_bytes(12, 256)
    assert needed_bytes <= engine.held_bytes <= 1.5 * needed_bytes
    engine.remove(range(2, 12))
    for _ in range(12):
        engine.step()
    needed_bytes = engine.kv_cost.batch_bytes(2, 256)
    assert needed_bytes <= engine.held_bytes <= 1.5 * needed_bytes
