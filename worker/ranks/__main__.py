"""`python -m worker.ranks`: the service starts one for each rank but the first."""

from __future__ import annotations

import logging
import sys

from worker.open_files import open_files_limit_kept

with open_files_limit_kept():
    from worker.ranks.program import run

if __name__ == "__main__":
    logging.basicConfig(format="rank: %(levelname)s %(name)s: %(message)s")
    sys.exit(run(sys.stdin.buffer))
