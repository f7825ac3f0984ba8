"""The entry point of `python -m service`."""

from __future__ import annotations

import sys

from service.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
