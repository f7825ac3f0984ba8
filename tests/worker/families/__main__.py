"""`python -m tests.worker.families`: measure every family, and write the table in worker/README.md.

With names it measures these families, and writes nothing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor

from rich.progress import track

from tests.models.architectures.table import families, unavailable
from tests.worker.families.expected import results_of
from tests.worker.families.measuring import measure_anew
from tests.worker.families.table import render, write


def main() -> int:
    """Measure; returns 1 where a family is not as expected."""
    parser = argparse.ArgumentParser(prog="python -m tests.worker.families", description=__doc__)
    parser.add_argument("family", nargs="*", help="else all that mlx-lm has")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at once")
    options = parser.parse_args()
    names = options.family or [name for name in families() if name not in unavailable()]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        measured = pool.map(measure_anew, names)
        results = dict(zip(track(names), measured, strict=True))
    expected = results_of(names)
    for name in names:
        if results[name] != expected[name]:
            print(f"{name}: measured {results[name]}, expected {expected[name]}")
    if not options.family:
        write(render(results, unavailable()))
    return int(results != expected)


if __name__ == "__main__":
    sys.exit(main())
