"""`python -m worker.ranks`: the service starts one for each rank but the first."""

from __future__ import annotations

import gc
import logging
import sys

from worker.isolation.parent_watch import end_with_parent, watch_parent
from worker.open_files import open_files_limit_kept
from worker.transformers_scan import models_scanned_once

# Standard input is watched once all is imported.
watch_parent()
end_with_parent(sys.stdin.fileno() if __name__ == "__main__" else None)
# What imports make stays: looking for garbage among it is a fifteenth of their time.
gc.disable()
with open_files_limit_kept(), models_scanned_once():
    from worker.ranks.program import run
gc.enable()

if __name__ == "__main__":
    logging.basicConfig(format="rank: %(levelname)s %(name)s: %(message)s")
    sys.exit(run(sys.stdin.buffer))
