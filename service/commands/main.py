"""Dispatches `mlxd COMMAND` to the command's module."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import NamedTuple

from service.commands import agent, doctor, keys, models, pull, serve
from service.config.scalars import SettingsError
from service.config.secrets import conceal_secrets
from service.config.settings import read_environment
from service.errors import excerpt
from service.host.standard_streams import occupy_standard_streams

EXIT_USAGE = 2
MESSAGE_CHARS = 2000

Run = Callable[[Sequence[str], Mapping[str, str]], int]


class Command(NamedTuple):
    """A command: `run` gets the words after its name; `summary` is its line in the help."""

    run: Run
    summary: str


COMMANDS = {
    "serve": Command(serve.run, "serve models until a signal (the default command)"),
    "pull": Command(pull.run, "download a model from the hub"),
    "models": Command(models.run, "list the configured models, and which are on disk and loaded"),
    "agent": Command(agent.run, "install the service to run from login on (macOS)"),
    "doctor": Command(doctor.run, "show what serve would use, and report problems with it"),
    "keys": Command(keys.run, "add, list and revoke API keys"),
}


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run the command named by the first word, `serve` by default, and return its exit code."""
    occupy_standard_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    environ = read_environment() if environ is None else environ
    if words[:1] == ["help"]:
        sys.stdout.write(describe_commands())
        return 0
    if words[:1] == ["--version"]:
        sys.stdout.write(f"mlxd {version('mlxd')}\n")
        return 0
    name = words.pop(0) if words and not words[0].startswith("-") else "serve"
    try:
        return find(name).run(words, environ)
    except SettingsError as error:
        sys.stderr.write(f"mlxd: {excerpt(conceal_secrets(str(error)), MESSAGE_CHARS)}\n")
        return EXIT_USAGE


def find(name: str) -> Command:
    """The command of this name.

    Raises:
        SettingsError: there is no such command.
    """
    if name in COMMANDS:
        return COMMANDS[name]
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
    raise SettingsError(f"command line: {excerpt(name, 100)} is not a command; {advice}")


def describe_commands() -> str:
    """The output of `mlxd help`."""
    lines = [f"  mlxd {name:8} {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(["Commands; each has its own --help:", "", *lines, "", "  mlxd --version", ""])
