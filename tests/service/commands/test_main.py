from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

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


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"], {}) == 0
    assert capsys.readouterr().out == f"mlxd {version('mlxd')}\n"
    main(["help"], {})
    assert "mlxd --version" in capsys.readouterr().out


def test_the_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help"], {}) == 0
    output = capsys.readouterr().out
    assert all(f"mlxd {name}" in output for name in COMMANDS)


@pytest.mark.parametrize("command", ["serve", "models", "agent"])
@pytest.mark.parametrize("character", ["\0", "\n", "\x1b", "\x7f", "\x9b", "\u2028", "\udcff"])
def test_a_control_character_in_a_setting_is_refused_in_one_printable_line(
    command: str, character: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [command, *(["install", "--print"] if command == "agent" else [])]
    bad = f"a{character}b"
    for flag in ("--host", "--log-file", "--keys-file", "--model", "--config"):
        assert usage_error(capsys, *words, flag, bad).isprintable()
    assert main(words, {"MLXD_TLS_CERT": bad}) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    assert "MLXD_TLS_CERT" in line


@pytest.mark.parametrize("setting", ["host", "tls_cert", "prompt_cache_dir", "allowed_hosts"])
def test_a_control_character_in_a_file_is_refused(
    setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mlxd.toml"
    file.write_text(f'{setting} = "a\\u0000b"')
    assert setting in usage_error(capsys, "models", "--config", str(file))
    file.write_text('[[models]]\nsource = "/a"\nadapter = "a\\u001bb"')
    assert "models" in usage_error(capsys, "models", "--config", str(file))


@pytest.mark.parametrize(
    "words",
    [
        ["pull", "org/model"],
        ["serve", "--model", "org/model"],
        ["agent", "install", "--print", "--model", "org/model"],
    ],
)
def test_a_hub_on_another_machine_is_not_asked_over_http(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words, {"HF_ENDPOINT": "http://u:hunter2@hub.example"}) == 2
    error = capsys.readouterr().err
    assert "HF_ENDPOINT" in error
    assert "hunter2" not in error
