"""The command runs all sections, writes the report, and fails if anything has failed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from protocol.selftest import (
    FAILURE,
    FIGURES,
    Budget,
    Figure,
    SectionEnded,
    SectionStarted,
    SelftestMessage,
    SelftestRequest,
)
from service.commands import doctor, selftest
from service.config.scalars import SettingsError
from service.selftest.report import names_of_machine

ENVIRON: dict[str, str] = {}


@pytest.fixture
def _without_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "check_resume", lambda environ: iter(()))


def stage(monkeypatch: pytest.MonkeyPatch, *figures: Figure) -> list[SelftestRequest]:
    """Let the device's program report these; the requests that it gets."""
    requests = []

    def run(request: SelftestRequest, environ: Mapping[str, str]) -> Iterator[SelftestMessage]:
        requests.append(request)
        yield SectionStarted("memory", 1.0)
        yield from figures
        yield SectionEnded("memory", 1.0)

    monkeypatch.setattr(selftest, "run_device", run)
    return requests


@pytest.mark.usefixtures("_without_service")
def test_the_devices_program_runs_and_the_report_names_nothing_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    budgets = {"device": Budget(0, 0), "memory": Budget(0, 0)}
    monkeypatch.setattr(selftest, "DEVICE_BUDGETS", budgets)
    path = tmp_path / "report.json"
    assert doctor.run(["--selftest", "--quick", "--json", str(path)], os.environ) == 0
    text = path.read_text("utf-8")
    report = json.loads(text)
    assert set(report) == {"format", "mlxd", "date", "quick", "failed", "figures"}
    assert {figure["section"] for figure in report["figures"]} >= {"machine", "device", "memory"}
    for figure in report["figures"]:
        assert figure["name"] in FIGURES[figure["section"]]
    for name in names_of_machine():
        assert f'"{name}' not in text
        assert f" {name}" not in text
    output = capsys.readouterr().out
    assert "0 failed" in output
    assert str(path) in output.splitlines()[-1]


@pytest.mark.usefixtures("_without_service")
@pytest.mark.parametrize(("verdict", "code"), [("failed", 1), ("near tie", 0), ("skipped", 0)])
def test_it_exits_with_1_if_anything_has_failed(
    verdict: str, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    figure = Figure(section="memory", name=FAILURE, verdict=verdict)  # type: ignore[arg-type]
    stage(monkeypatch, figure)
    assert selftest.run(["--selftest", "--json", str(tmp_path / "report.json")], ENVIRON) == code


@pytest.mark.usefixtures("_without_service")
def test_the_model_of_the_command_line_is_tested_and_none_of_the_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, llama_path: Path
) -> None:
    requests = stage(monkeypatch)
    flags = ["--selftest", "--json", str(tmp_path / "report.json")]
    selftest.run(flags, {"MLXD_MODELS": str(llama_path)})
    selftest.run([*flags, "--model", str(llama_path), "--quick"], ENVIRON)
    assert [request.source for request in requests] == [None, str(llama_path)]
    whole, quick = (sum(request.budgets_s.values()) for request in requests)
    assert quick < 20 < whole < 90


@pytest.mark.parametrize(
    "flags", [["--model", "nobody/has-this"], ["--model", "a", "--model", "b"], ["--quickly"]]
)
def test_a_model_that_is_not_here_or_an_unknown_flag_is_refused(flags: list[str]) -> None:
    with pytest.raises(SettingsError):
        selftest.run(["--selftest", *flags], {"HF_HUB_OFFLINE": "1"})


@pytest.mark.usefixtures("_without_service")
def test_a_report_that_cannot_be_written_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage(monkeypatch)
    (tmp_path / "file").write_text("", "utf-8")
    assert selftest.run(["--selftest", "--json", str(tmp_path / "file" / "x")], ENVIRON) == 1
    assert "cannot be written" in capsys.readouterr().out


def test_the_help_of_doctor_names_the_selftest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        doctor.run(["--selftest", "--help"], ENVIRON)
    output = capsys.readouterr().out
    assert output.startswith("mlxd doctor --selftest")
    assert "--max-running" in output
