"""`python -m worker FD`: started by the service with one end of a pipe."""

from __future__ import annotations

import logging
import sys
from multiprocessing.connection import Connection

from worker.main import run

if __name__ == "__main__":
    logging.basicConfig(format="worker: %(levelname)s %(name)s: %(message)s")
    # It warns of every prompt beyond the context, which is refused here with a reason.
    logging.getLogger("transformers").setLevel(logging.ERROR)
    sys.exit(run(Connection(int(sys.argv[1]))))
