from __future__ import annotations

import pytest

from service.commands.main import COMMANDS, main


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv, {}) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_a_word_that_is_no_command_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, "sreve").endswith("sreve is no command; did you mean serve?")
    assert "launch is no command" in refusal(capsys, "launch")


def test_flags_alone_are_those_of_serve(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--port" in refusal(capsys, "--port", "x")
    assert "--port" in refusal(capsys, "serve", "--port", "x")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"], {})
    assert caught.value.code == 0
    assert f"usage: mlxd {name}" in capsys.readouterr().out


def test_the_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help"], {}) == 0
    shown = capsys.readouterr().out
    assert all(f"mlxd {name}" in shown for name in COMMANDS)
