"""`python -m worker FD`: started by the service with one end of a pipe."""

from __future__ import annotations

import logging
import os
import sys
from multiprocessing.connection import Connection

from worker.main import run

if __name__ == "__main__":
    logging.basicConfig(format="worker: %(levelname)s %(name)s: %(message)s")
    # It warns of every prompt beyond the context, which is refused here with a reason.
    logging.getLogger("transformers").setLevel(logging.ERROR)
    descriptor = int(sys.argv[1])
    # A compiler that MLX starts must not hold the pipe open beyond this process's death.
    os.set_inheritable(descriptor, False)
    sys.exit(run(Connection(descriptor)))
