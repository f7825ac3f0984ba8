"""`python -m tests.load.attack KIND`: one hostile client, until it is ended."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

from tests.load.attack.kinds import KINDS
from tests.load.attack.wire import READY, Target, say


def main() -> None:
    """Run the client named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.attack", description=__doc__)
    parser.add_argument("kind", choices=list(KINDS))
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--context", type=int, default=2048, help="of the model, in tokens")
    parser.add_argument("--part", type=int, default=0, help="the client's number in its kind")
    parser.add_argument("--wait", action="store_true", help="for a line on standard input")
    parser.add_argument("--nice", type=int, default=0, help="what is added to its niceness")
    options = parser.parse_args()
    os.nice(options.nice)
    if options.wait:
        say(READY)
        sys.stdin.readline()
    target = Target(options.host, options.port, options.context)
    asyncio.run(KINDS[options.kind].run(target, options.part))


if __name__ == "__main__":
    main()
