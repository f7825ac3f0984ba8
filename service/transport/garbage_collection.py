"""Python's garbage collector, kept from stopping all streams.

A full collection visits all objects that may be in cycles, and nothing else runs meanwhile: 35 ms
with those that are imported, 60 to 220 ms beside 280 requests (on the slower host of
tests/load/README.md). No request and no connection leaves a cycle
(`tests/service/test_garbage.py`), so that there is hardly anything to find.
"""

from __future__ import annotations

import gc

# How many collections of the middle generation there are between two full ones; Python has 10. At
# most some 700,000 objects wait for one.
MIDDLE_COLLECTIONS = 100


def make_full_collections_rare() -> None:
    """Leave what exists now out of all collections, and run full ones seldom."""
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, MIDDLE_COLLECTIONS)
