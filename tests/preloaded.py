"""MLX in the test processes computes with the libraries that a worker is started with.

On Linux that halves the processor time of the tests that run models in their own process.
"""

from __future__ import annotations

from collections.abc import MutableMapping

from service.supervision.preloads import find_preloads

NAMES = ("LD_PRELOAD", "OPENBLAS_NUM_THREADS")


def give(environ: MutableMapping[str, str]) -> None:
    """Preload for the processes that are started next, unless somebody preloads already."""
    if not any(name in environ for name in NAMES):
        environ.update(find_preloads("auto", "auto").apply_to({}))


def take_back(environ: MutableMapping[str, str]) -> None:
    """Preload nothing for the processes that are started next."""
    for name in NAMES:
        environ.pop(name, None)
