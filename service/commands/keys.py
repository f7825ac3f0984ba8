"""`mlxd keys`: make, list and revoke API keys. A running service notices within a second."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from service.config.api_keys import (
    MAX_LIMIT,
    NAME,
    ApiKey,
    keys_path,
    lock_keys,
    make_key,
    read_keys,
    write_keys,
)
from service.config.scalars import SettingsError
from service.config.sources import Parser, load_settings
from service.errors import excerpt


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Do what was asked; the exit code.

    Raises:
        SettingsError: it cannot be done; nothing was changed.
    """
    asked = make_parser().parse_args(argv)
    setting = load_settings(flags_of(asked), environ).keys_file
    path = keys_path(setting)
    if path is None:
        raise SettingsError(f"keys_file: it is {setting}: there is no file to keep keys in")
    try:
        match asked.action:
            case "add":
                add(path, asked)
            case "revoke":
                revoke(path, asked.name)
            case _:
                show(path)
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    return 0


def flags_of(asked: Namespace) -> list[str]:
    """What was asked that is a setting, as `serve` takes it."""
    given = {"--config": asked.config, "--keys-file": asked.keys_file}
    return [f"{flag}={value}" for flag, value in given.items() if value is not None]


def make_parser() -> Parser:
    """What the command understands."""
    where = Parser(add_help=False, allow_abbrev=False)
    for flag in ("--config", "--keys-file"):
        where.add_argument(flag, metavar="PATH", help="as for mlxd serve")
    parser = Parser(
        prog="mlxd keys",
        description="Make, list and revoke API keys, kept in the file of the setting keys_file.",
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="add|list|revoke")
    adding = actions.add_parser("add", parents=[where], help="make a key, and print it once")
    adding.add_argument("name", help="whose key it is; the log tells it")
    adding.add_argument("--admin", action="store_true", help="it may use /admin, too")
    for flag, what in (("--max-concurrent", "requests at once"), ("--tokens-per-minute", "tokens")):
        adding.add_argument(flag, type=int, metavar="N", help=f"{what}; 0: without limit")
    actions.add_parser("list", parents=[where], help="tell names and limits")
    revoking = actions.add_parser("revoke", parents=[where], help="take a key back")
    revoking.add_argument("name")
    return parser


def add(path: Path, asked: Namespace) -> None:
    """Make a key: its text goes to standard output, alone, and is kept nowhere."""
    if not NAME.fullmatch(asked.name):
        raise SettingsError(
            f"command line: {excerpt(asked.name, 100)} is no name: "
            "up to 64 letters, digits, dots, dashes and underscores"
        )
    for flag, limit in (
        ("--max-concurrent", asked.max_concurrent),
        ("--tokens-per-minute", asked.tokens_per_minute),
    ):
        if limit is not None and not 0 <= limit <= MAX_LIMIT:
            raise SettingsError(f"{flag}: {limit} is not a whole number from 0 to {MAX_LIMIT}")
    text, key = make_key(
        asked.name,
        admin=asked.admin,
        max_concurrent=asked.max_concurrent,
        tokens_per_minute=asked.tokens_per_minute,
    )
    with lock_keys(path):
        keys = read_or_none(path)
        if any(known.name == key.name for known in keys):
            raise SettingsError(f"{path}: there is a key named {key.name}: revoke it first")
        write_keys(path, [*keys, key])
    sys.stderr.write(f"mlxd: added {key.name} to {path}; this is the only time it is shown:\n")
    sys.stdout.write(f"{text}\n")


def revoke(path: Path, name: str) -> None:
    """Take a key back."""
    with lock_keys(path):
        keys = read_or_none(path)
        left = [key for key in keys if key.name != name]
        if len(left) == len(keys):
            raise SettingsError(f"{path}: there is no key named {excerpt(name, 100)}")
        write_keys(path, left)
    sys.stderr.write(f"mlxd: revoked {name}\n")
    if not left:
        sys.stderr.write(
            "mlxd: no key is left: every request is refused until one is added; "
            f"remove {path} to serve without keys\n"
        )


def show(path: Path) -> None:
    """Tell what is known of each key."""
    keys = read_or_none(path)
    if not keys:
        sys.stderr.write(f"mlxd: there are no keys in {path}\n")
    width = max((len(key.name) for key in keys), default=0)
    for key in keys:
        sys.stdout.write(f"{key.name:{width}}  {describe(key)}\n")


def describe(key: ApiKey) -> str:
    """One key's line after its name."""
    parts = [key.created, "admin" if key.admin else ""]
    if key.max_concurrent is not None:
        parts.append(f"{key.max_concurrent or 'any number'} at once")
    if key.tokens_per_minute is not None:
        parts.append(f"{key.tokens_per_minute or 'any number of'} tokens a minute")
    return "  ".join(filter(None, parts))


def read_or_none(path: Path) -> tuple[ApiKey, ...]:
    """The keys of a file; none where there is no file yet."""
    try:
        return read_keys(path)
    except FileNotFoundError:
        return ()
