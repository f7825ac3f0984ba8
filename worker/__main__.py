"""`python -m worker FD`: the service starts it with one end of a pipe."""

from __future__ import annotations

import gc
import logging
import os
import sys
from multiprocessing.connection import Connection

from worker.isolation.parent_watch import end_with_parent, watch_parent
from worker.open_files import open_files_limit_kept
from worker.transformers_scan import models_scanned_once

# The pipe is watched once all is imported.
watch_parent()
end_with_parent(int(sys.argv[1]) if __name__ == "__main__" else None)
# What imports make stays: looking for garbage among it is a fifteenth of their time.
gc.disable()
with open_files_limit_kept(), models_scanned_once():
    from worker.main import run
gc.enable()

if __name__ == "__main__":
    logging.basicConfig(format="worker: %(levelname)s %(name)s: %(message)s")
    # It warns about every prompt over the context length; the worker rejects those itself.
    logging.getLogger("transformers").setLevel(logging.ERROR)
    descriptor = int(sys.argv[1])
    # A compiler process that MLX starts must not inherit the pipe: it would stay open after
    # this process has ended.
    os.set_inheritable(descriptor, False)
    sys.exit(run(Connection(descriptor)))
