"""`python -m worker.selftest FD`: `mlxd doctor --selftest` starts it with one end of a pipe."""

from __future__ import annotations

import logging
import os
import sys

from worker.open_files import open_files_limit_kept
from worker.transformers_scan import models_scanned_once

with open_files_limit_kept(), models_scanned_once():
    from worker.selftest.program import run

if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR, format="selftest: %(levelname)s %(name)s: %(message)s")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)
    with os.fdopen(descriptor, "wb") as output:
        run(sys.stdin.buffer.read(), output)
