"""The families that are not answered rightly yet, and in which checks.

A family that is not here must be right in every check. Once one here becomes right, its test fails
until it is removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tests.worker.families.comparison import CHECKS, Outcome, Outcomes
from tests.worker.families.table import QUANTISED

# mlx-lm's caches of these cannot be merged, or its attention takes no mask of a batch.
NOT_SERVED: Outcomes = dict.fromkeys(CHECKS, "fails")
NOT_BATCHED: Outcomes = {"eight at once": "fails", "alone after": "fails"}
# Padding reaches a recurrence, a convolution or shared keys and values, and the prompt cache
# keeps what the batch has computed.
WRONG_IN_BATCHES: Outcomes = {"eight at once": "wrong", "alone after": "wrong"}

EXCEPTIONS: Mapping[str, Outcomes] = {
    "afm7": WRONG_IN_BATCHES,
    "baichuan_m1": WRONG_IN_BATCHES,
    "bailing_moe_linear": WRONG_IN_BATCHES,
    "deepseek_v41": NOT_SERVED,
    "gemma2": NOT_BATCHED,
    "gpt_bigcode": NOT_BATCHED,
    "jamba": WRONG_IN_BATCHES,
    "llama4": NOT_SERVED,
    "longcat_flash_ngram": WRONG_IN_BATCHES,
    "mamba": WRONG_IN_BATCHES,
    "minimax_m3_vl": WRONG_IN_BATCHES,
    "nemotron_h": WRONG_IN_BATCHES,
    "olmo_hybrid": WRONG_IN_BATCHES,
    # Its mask of blocks depends on where a slice begins.
    "phi3small": {**NOT_BATCHED, "alone": "wrong", "again": "wrong", "next turn": "wrong"},
    # Its mask is one token wider than its cache, so that slices differ from the whole.
    "plamo3": {"next turn": "wrong"},
    "recurrent_gemma": WRONG_IN_BATCHES,
    "rwkv7": WRONG_IN_BATCHES,
}

# Where the quantised model differs from the one in float32 when eight prompts arrive at once.
QUANTISED_EXCEPTIONS: Mapping[str, Outcome] = {
    "afm7": "none",
    "prism_hadamard_qwen35": "none",
}


def expected_of(family: str) -> dict[str, Outcome]:
    """What each check of this family gives today."""
    return {check: EXCEPTIONS.get(family, {}).get(check, "right") for check in CHECKS}


def expected_quantised_of(family: str) -> Outcome:
    """What eight prompts at once give today with weights of 4 bits."""
    return QUANTISED_EXCEPTIONS.get(family, expected_of(family)["eight at once"])


def results_of(families: Iterable[str]) -> dict[str, dict[str, str]]:
    """What is expected of each family, by the columns of the table."""
    return {
        family: {**expected_of(family), QUANTISED: expected_quantised_of(family)}
        for family in families
    }
