"""The entry point of `python -m service`."""

from __future__ import annotations

import gc
import sys

# What imports make stays: looking for garbage among it is a tenth of their time.
gc.disable()
from service.commands.main import main  # noqa: E402

gc.enable()

if __name__ == "__main__":
    sys.exit(main())
