"""`python -m tests.load SCRIPT`."""

from __future__ import annotations

import argparse
import sys

from tests.load import (
    agents,
    beside,
    compare,
    decode,
    dialects,
    equality,
    eviction,
    hostile,
    interference,
    lookup,
    prefix,
    quantisation,
    run,
    soak,
    stored,
    texts,
)


def main() -> int:
    """Run the script named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    scripts = parser.add_subparsers(required=True, metavar="SCRIPT")
    for script in (
        run,
        compare,
        decode,
        agents,
        equality,
        eviction,
        beside,
        dialects,
        interference,
        texts,
        prefix,
        lookup,
        stored,
        quantisation,
        soak,
        hostile,
    ):
        name = script.__name__.rpartition(".")[2]
        words = scripts.add_parser(name, help=script.__doc__, description=script.__doc__)
        script.add_arguments(words)
        words.set_defaults(main=script.main)
    options = parser.parse_args()
    status: int = options.main(options)
    return status


if __name__ == "__main__":
    sys.exit(main())
