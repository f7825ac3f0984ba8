from __future__ import annotations

import pytest

from service.commands.main import COMMANDS, main


def usage_error(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv, {}) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_an_unknown_command_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert usage_error(capsys, "sreve").endswith("sreve is not a command; did you mean serve?")
    assert "launch is not a command" in usage_error(capsys, "launch")


def test_flags_alone_are_those_of_serve(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--port" in usage_error(capsys, "--port", "x")
    assert "--port" in usage_error(capsys, "serve", "--port", "x")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([name, "--help"], {})
    assert exit_info.value.code == 0
    assert f"usage: mlxd {name}" in capsys.readouterr().out


def test_the_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help"], {}) == 0
    output = capsys.readouterr().out
    assert all(f"mlxd {name}" in output for name in COMMANDS)
