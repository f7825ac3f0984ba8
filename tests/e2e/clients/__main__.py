"""Runs every client's scenario and prints the table; `--write` puts it into service/README.md.

usage: python -m tests.e2e.clients [--write] [ENVIRONMENTS]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.e2e.clients import scenario, table
from tests.e2e.clients.catalogue import CLIENTS


def main() -> int:
    """The exit status: 1 if a client fails or is not there."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.clients", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"rewrite {table.README.name}")
    parser.add_argument("environments", nargs="?", type=Path, default=scenario.DEFAULT_ENVIRONMENTS)
    chosen = parser.parse_args()
    environments = chosen.environments.resolve()
    rows = []
    failed = False
    with scenario.service() as daemon:
        for client in CLIENTS:
            outcome = scenario.run(client, environments, daemon)
            failed = failed or bool(outcome.faults)
            print(
                f"{client.name}: {outcome.seconds:.0f} s", *outcome.faults, sep="\n  ", flush=True
            )
            rows.append(table.row(client, table.installed(client, environments), outcome))
    print(table.render(rows))
    if chosen.write:
        table.write(rows)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
