"""`mlxd keys`: add, list and revoke API keys. A running service applies changes in a second."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from service.config.api_keys import (
    MAX_LIMIT,
    NAME,
    PRIORITY_BOUND,
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
    """Run the action, and return the exit code.

    Raises:
        SettingsError: the action cannot be done; nothing was changed.
    """
    options = make_parser().parse_args(argv)
    setting = load_settings(flags_of(options), environ).keys_file
    path = keys_path(setting)
    if path is None:
        raise SettingsError(f"keys_file: it is {setting}, so there is no file for keys")
    try:
        match options.action:
            case "add":
                add(path, options)
            case "revoke":
                revoke(path, options.name)
            case _:
                show(path)
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    return 0


def flags_of(options: Namespace) -> list[str]:
    """The options that are settings, as flags of `serve`."""
    values = {"--config": options.config, "--keys-file": options.keys_file}
    return [f"{flag}={value}" for flag, value in values.items() if value is not None]


def make_parser() -> Parser:
    """The command's arguments."""
    file_options = Parser(add_help=False, allow_abbrev=False)
    for flag in ("--config", "--keys-file"):
        file_options.add_argument(flag, metavar="PATH", help="as for mlxd serve")
    parser = Parser(
        prog="mlxd keys",
        description="Add, list and revoke the API keys in the file of the setting keys_file.",
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="add|list|revoke")
    adding = actions.add_parser("add", parents=[file_options], help="make a key, and print it once")
    adding.add_argument("name", help="the key's name, which the log shows")
    adding.add_argument("--admin", action="store_true", help="the key may use /admin too")
    for flag, what in (
        ("--max-concurrent", "concurrent requests"),
        ("--tokens-per-minute", "tokens per minute"),
    ):
        adding.add_argument(flag, type=int, metavar="N", help=f"limit of {what}; 0: no limit")
    adding.add_argument(
        "--priority",
        type=int,
        metavar="N",
        help="the lowest priority of its requests; a lower number comes first",
    )
    actions.add_parser("list", parents=[file_options], help="list names and limits")
    revoking = actions.add_parser("revoke", parents=[file_options], help="revoke a key")
    revoking.add_argument("name")
    return parser


def add(path: Path, options: Namespace) -> None:
    """Make a key and write only its text to standard output. The text is stored nowhere."""
    if not NAME.fullmatch(options.name):
        raise SettingsError(
            f"command line: {excerpt(options.name, 100)} is not a name: "
            "use up to 64 letters, digits, dots, dashes and underscores"
        )
    for flag, limit in (
        ("--max-concurrent", options.max_concurrent),
        ("--tokens-per-minute", options.tokens_per_minute),
    ):
        if limit is not None and not 0 <= limit <= MAX_LIMIT:
            raise SettingsError(f"{flag}: {limit} is not a whole number from 0 to {MAX_LIMIT}")
    if options.priority is not None and abs(options.priority) > PRIORITY_BOUND:
        raise SettingsError(
            f"--priority: {options.priority} is not between -{PRIORITY_BOUND} and {PRIORITY_BOUND}"
        )
    text, key = make_key(
        options.name,
        admin=options.admin,
        max_concurrent=options.max_concurrent,
        tokens_per_minute=options.tokens_per_minute,
        priority=options.priority,
    )
    with lock_keys(path):
        keys = read_or_none(path)
        if any(known.name == key.name for known in keys):
            raise SettingsError(f"{path}: there is a key named {key.name}: revoke it first")
        write_keys(path, [*keys, key])
    sys.stderr.write(f"mlxd: added {key.name} to {path}; the key is shown only this time:\n")
    sys.stdout.write(f"{text}\n")


def revoke(path: Path, name: str) -> None:
    """Remove a key from the file."""
    with lock_keys(path):
        keys = read_or_none(path)
        remaining = [key for key in keys if key.name != name]
        if len(remaining) == len(keys):
            raise SettingsError(f"{path}: there is no key named {excerpt(name, 100)}")
        write_keys(path, remaining)
    sys.stderr.write(f"mlxd: revoked {name}\n")
    if not remaining:
        sys.stderr.write(
            f"mlxd: {path} has no more keys: every request is refused until one is added; "
            "remove the file to serve without keys\n"
        )


def show(path: Path) -> None:
    """Print the name, date and limits of each key."""
    keys = read_or_none(path)
    if not keys:
        sys.stderr.write(f"mlxd: there are no keys in {path}\n")
    width = max((len(key.name) for key in keys), default=0)
    for key in keys:
        sys.stdout.write(f"{key.name:{width}}  {describe(key)}\n")


def describe(key: ApiKey) -> str:
    """The line of one key, after its name."""
    parts = [key.created, "admin" if key.admin else ""]
    if key.max_concurrent is not None:
        parts.append(f"{key.max_concurrent or 'unlimited'} concurrent requests")
    if key.tokens_per_minute is not None:
        parts.append(f"{key.tokens_per_minute or 'unlimited'} tokens per minute")
    if key.priority is not None:
        parts.append(f"priority {key.priority}")
    return "  ".join(filter(None, parts))


def read_or_none(path: Path) -> tuple[ApiKey, ...]:
    """The keys of a file; none if the file does not exist."""
    try:
        return read_keys(path)
    except FileNotFoundError:
        return ()
