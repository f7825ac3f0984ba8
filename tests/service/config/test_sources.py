from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from service.config.model_settings import ModelSettings, model_id
from service.config.scalars import SettingField, SettingsError
from service.config.settings import Settings, describe_settings
from service.config.sources import load_settings, softened_parameters


def write(folder: Path, toml: str) -> str:
    path = folder / "mlxd.toml"
    path.write_text(toml, "utf-8")
    return str(path)


def refusal(argv: Sequence[str] = (), **environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(argv, environ)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_by_default_the_demo_model_is_served_on_loopback() -> None:
    settings = load_settings([], {})
    assert settings == Settings()
    assert settings.host == "127.0.0.1"
    assert settings.port == 8000
    assert [model_id(model) for model in settings.models] == ["mlxd-demo"]


def test_flags_override_the_file_and_the_file_overrides_variables(tmp_path: Path) -> None:
    path = write(tmp_path, 'port = 2\nmax_running = 2\nhost = "file"')
    environ = {"MLXD_PORT": "1", "MLXD_MAX_RUNNING": "1", "MLXD_DRAIN_S": "1.5"}
    settings = load_settings(["--config", path, "--port=3"], environ)
    assert (settings.port, settings.max_running, settings.host) == (3, 2, "file")
    assert settings.drain_s == 1.5


def test_the_file_of_a_flag_overrides_the_file_of_a_variable(tmp_path: Path) -> None:
    path = write(tmp_path, "port = 2")
    assert load_settings([], {"MLXD_CONFIG": path}).port == 2
    assert load_settings(["--config", path], {"MLXD_CONFIG": "/nowhere.toml"}).port == 2


@pytest.mark.parametrize("name", describe_settings())
def test_every_setting_has_a_variable_a_key_and_a_flag(name: str, tmp_path: Path) -> None:
    field = describe_settings()[name]
    default = field.default
    path = write(tmp_path, f"{name} = {default!r}")
    expected = msgspec.structs.replace(Settings(), **{name: field.check(default, "default")})
    for settings in (
        load_settings([], {field.variable: str(default)}),
        load_settings(["--config", path], {}),
        load_settings([field.flag, str(default)], {}),
    ):
        assert settings == expected


PATHS = [field for field in describe_settings().values() if field.is_path]


@pytest.mark.parametrize("field", PATHS, ids=lambda field: field.name)
def test_every_path_may_begin_with_the_home_folder_of_a_user_that_exists(
    field: SettingField, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert field.check("~/file", "--flag") == f"{tmp_path}/file"
    assert field.check("file/~", "--flag") == "file/~"
    with pytest.raises(SettingsError, match=r"^--flag: ~no-such-user/file: "):
        field.check("~no-such-user/file", "--flag")


def test_an_adapter_may_be_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write(tmp_path, '[[models]]\nid = "m"\nadapter = "~/adapter"')
    [model] = load_settings(["--config", path], {}).models
    assert model.adapter == f"{tmp_path}/adapter"
    path = write(tmp_path, '[[models]]\nid = "m"\nadapter = "~no-such-user/adapter"')
    assert "adapter: ~no-such-user/adapter: " in refusal(["--config", path])


@pytest.mark.parametrize("name", describe_settings())
def test_every_setting_is_described_in_a_sentence(name: str) -> None:
    assert describe_settings()[name].description.endswith(".")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("port", "-1"),
        ("port", "65536"),
        ("port", "1.5"),
        ("port", "http"),
        ("port", ""),
        ("port", "9" * 5_000),
        ("max_running", "0"),
        ("max_running", "1025"),
        ("drain_s", "-1"),
        ("drain_s", "nan"),
        ("drain_s", "inf"),
        ("keep_alive_s", "0"),
        ("keep_alive_s", "soon"),
        ("unknown_fields", "ignore"),
        ("log_level", "LOUD"),
        ("host", ""),
        ("replica_tag", "A"),
        ("replica_tag", "a_b"),
        ("replica_tag", "ä"),
        ("replica_tag", "a" * 17),
    ],
)
def test_an_invalid_value_is_refused_with_its_variable_or_flag(name: str, text: str) -> None:
    field = describe_settings()[name]
    for message, origin in (
        (refusal(**{field.variable: text}), field.variable),
        (refusal([f"{field.flag}={text}"]), field.flag),
    ):
        assert message.startswith(f"{origin}: ")
        assert message.endswith(f"is not {field.kind}")
        assert len(message) < 300


@pytest.mark.parametrize(
    "line",
    [
        'port = "8000"',
        "port = true",
        "port = 1.5",
        "port = 70000",
        "drain_s = nan",
        "drain_s = inf",
        "drain_s = 2020-01-01",
        "log_level = 5",
        "host = []",
    ],
)
def test_an_invalid_value_is_refused_with_its_file_and_key(line: str, tmp_path: Path) -> None:
    path = write(tmp_path, line)
    assert refusal(["--config", path]).startswith(f"{path}: {line.partition(' ')[0]}: ")


def test_an_error_describes_the_bounds() -> None:
    assert refusal(MLXD_PORT="70000") == "MLXD_PORT: 70000 is not a whole number from 0 to 65535"
    assert "is not a number above 0, up to 3600" in refusal(MLXD_KEEP_ALIVE_S="0")
    assert "is not one of messages, refuse, warn" in refusal(MLXD_UNKNOWN_FIELDS="x")


@pytest.mark.parametrize(("text", "value"), [("auto", "auto"), ("0", 0), ("1000", 1000)])
def test_a_number_or_a_word_is_read_from_each_source(
    text: str, value: int | str, tmp_path: Path
) -> None:
    path = write(tmp_path, f"wired_limit_bytes = {value!r}")
    for settings in (
        load_settings(["--wired-limit-bytes", text], {}),
        load_settings([], {"MLXD_WIRED_LIMIT_BYTES": text}),
        load_settings(["--config", path], {}),
    ):
        assert settings.wired_limit_bytes == value


@pytest.mark.parametrize("text", ["-1", "some", "1.5", "", "99999999999999"])
def test_neither_the_number_nor_the_word_is_refused(text: str) -> None:
    expected = "is not a whole number from 0 to 1099511627776, or auto"
    assert expected in refusal(MLXD_WIRED_LIMIT_BYTES=text)
    assert expected in refusal(["--wired-limit-bytes", text])


def test_an_unknown_variable_key_or_flag_suggests_a_similar_one(tmp_path: Path) -> None:
    variable = refusal(MLXD_PROT="1")
    assert variable == "environment: MLXD_PROT is unknown; did you mean MLXD_PORT?"
    path = write(tmp_path, "max_runing = 3")
    key = refusal(["--config", path])
    assert key == f"{path}: max_runing is unknown; did you mean max_running?"
    flag = refusal(["--max-runing=3"])
    assert flag == "command line: --max-runing is unknown; did you mean --max-running?"


def test_variables_without_the_prefix_are_ignored() -> None:
    assert load_settings([], {"PORT": "x", "HOME": "/", "mlxd_port": "x"}) == Settings()


def test_a_flag_without_its_value_is_refused() -> None:
    assert "--port" in refusal(["--port"])


def test_an_argument_that_is_not_a_flag_is_refused() -> None:
    assert "more" in refusal(["more"])


@pytest.mark.parametrize("content", [b"port = ", b"\xff", b"port = 1\nport = 2"])
def test_an_invalid_file_is_refused_with_its_path(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mlxd.toml"
    path.write_bytes(content)
    assert refusal(["--config", str(path)]).startswith(f"{path}: is not valid TOML")


def test_a_missing_file_is_refused_with_its_path(tmp_path: Path) -> None:
    path = str(tmp_path / "none.toml")
    assert refusal(["--config", path]).startswith(f"{path}: cannot be read")
    assert refusal(MLXD_CONFIG=path).startswith(f"{path}: cannot be read")


def test_the_help_shows_every_flag_with_its_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load_settings(["--help"], {})
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(field.flag in shown for field in describe_settings().values())
    assert all(field.variable in shown for field in describe_settings().values())


# ---------------------------------------------------------------- models


def models(*argv: str, **environ: str) -> list[tuple[str, str | None]]:
    configured = load_settings(argv, environ).models
    return [(model_id(model), model.source) for model in configured]


def test_the_id_of_a_model_is_the_given_one_its_hub_id_or_its_folder_name(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    assert models("--model", "org/name", "--model", str(folder), "--model", f"my={folder}") == [
        ("org/name", "org/name"),
        ("tiny", str(folder)),
        ("my", str(folder)),
    ]


def test_a_variable_lists_models_with_commas() -> None:
    assert models(MLXD_MODELS="org/a, b=org/b") == [("org/a", "org/a"), ("b", "org/b")]


def test_a_file_lists_models_in_tables(tmp_path: Path) -> None:
    path = write(tmp_path, '[[models]]\nid = "a"\nsource = "org/a"\n[[models]]\nsource = "org/b"')
    assert models("--config", path) == [("a", "org/a"), ("org/b", "org/b")]
    assert models("--config", path, "--model", "org/c") == [("org/c", "org/c")]


def test_a_relative_folder_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    here = str(tmp_path / "here")
    for written in ("here", "./here", "here/", "./x/../here"):
        assert models("--model", written) == [("here", here)]
    assert models("--model", ".") == [(tmp_path.name, str(tmp_path))]


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert models("--model", "~/tiny") == [("tiny", str(tmp_path / "tiny"))]


def test_an_equals_sign_after_a_slash_belongs_to_the_folder() -> None:
    assert models("--model", "/models/a=b") == [("a=b", "/models/a=b")]


def test_the_built_in_model_may_be_given_another_id(tmp_path: Path) -> None:
    path = write(tmp_path, '[[models]]\nid = "demo"')
    assert models("--config", path) == [("demo", None)]
    assert model_id(ModelSettings()) == "mlxd-demo"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["org/a", "org/a"], "two models have the id org/a"),
        (["/x/tiny", "/y/tiny"], "two models have the id tiny"),
        (["default=org/a"], "the id default"),
        (["/models/default"], "the id default"),
        ([""], "length >= 1"),
        (["a="], "length >= 1"),
        (["=org/a"], "length >= 1"),
        (["/"], "has no name"),
        (["a\x1b=org/a"], "has a control character"),
        (["~no-such-user-here/tiny"], "~no-such-user-here"),
    ],
)
def test_models_without_a_valid_and_unique_id_are_refused(words: list[str], reason: str) -> None:
    by_flags = refusal([f"--model={word}" for word in words])
    assert by_flags.startswith("--model: ")
    assert reason in by_flags
    assert refusal(MLXD_MODELS=",".join(words)).startswith("MLXD_MODELS: ")


@pytest.mark.parametrize(
    "toml", ["models = []", "models = 5", "[[models]]", "[[models]]\nsorce = 'org/a'"]
)
def test_an_invalid_list_of_models_is_refused_with_its_file(toml: str, tmp_path: Path) -> None:
    path = write(tmp_path, toml)
    assert refusal(["--config", path]).startswith(f"{path}: models: ")


def test_a_parameter_that_cannot_be_softened_is_refused() -> None:
    assert softened_parameters(Settings(soften="store, verbosity")) == {"store", "verbosity"}
    with pytest.raises(SettingsError) as caught:
        softened_parameters(Settings(soften="store, temperature"))
    assert "temperature is not one of" in str(caught.value)


def test_a_misspelt_key_of_a_model_suggests_the_correct_one(tmp_path: Path) -> None:
    path = write(tmp_path, "[[models]]\nsorce = 'org/a'")
    assert refusal(["--config", path]).endswith("did you mean source?")
