"""A prompt that may not be sliced and does not fit one slice is refused in words."""

from __future__ import annotations

from pathlib import Path

import msgspec

from protocol.batching import BatchRules
from protocol.events import Finished, Rejected
from protocol.messages import ModelSource, Sampling, Submit, TokenPrompt
from tests.worker.driver import end_of, make_config_loader, make_configure, run_loop
from worker.models.pool import ModelPool

RESERVE_BYTES = 1 << 16
# 4 heads x 64 tokens x 64 tokens x 4 bytes.
LONGEST_TOKENS = 64


def test_a_prompt_beyond_the_largest_slice_is_refused_and_a_shorter_one_is_answered(
    llama_path: Path,
) -> None:
    configure = msgspec.structs.replace(
        make_configure([ModelSource(llama_path.name, str(llama_path))]),
        prefill_reserve_bytes=RESERVE_BYTES,
    )
    pool = ModelPool(configure, make_config_loader())
    pool.load_all()
    pool[llama_path.name].engine.rules = BatchRules("decode", False, False)
    submits = [
        Submit(
            id,
            llama_path.name,
            TokenPrompt(list(range(10, 10 + length))),
            Sampling(seed=0, temperature=0.0),
            4,
        )
        for id, length in enumerate([LONGEST_TOKENS, LONGEST_TOKENS + 1])
    ]
    steps = run_loop(pool, submits)
    assert isinstance(end_of(steps, 0), Finished)
    refused = end_of(steps, 1)
    assert isinstance(refused, Rejected)
    assert refused.code == "context_length_exceeded"
    limit = f"maximum context length is {LONGEST_TOKENS} tokens in this server's memory"
    assert limit in refused.message
    assert "cannot be computed in slices" in refused.message
