"""The families that are not right in every check, and what these checks give.

A family that is not here must be right in every check. Once one here becomes right, its test fails
until it is removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tests.worker.families.comparison import CHECKS, Outcome, Outcomes
from tests.worker.families.table import QUANTISED

# Right, but nothing is kept in the prompt cache.
UNCACHED: Outcomes = {"again": "anew"}

EXCEPTIONS: Mapping[str, Outcomes] = {
    # Its caches cannot be merged.
    "deepseek_v41": UNCACHED,
    # Its mask of blocks depends on where a slice begins.
    "phi3small": UNCACHED,
    # Its mask is one token wider than its cache, so that slices differ from the whole.
    "plamo3": UNCACHED,
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
