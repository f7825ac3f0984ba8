"""Where the ranks run that the settings ask for, and what they cannot have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from service.commands.rank_layout import choose_layout, refuse_with_ranks
from service.config.scalars import SettingsError
from service.config.sources import load_settings
from service.ranks.layout import RankLayout


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    """A file of two hosts, which are both this machine."""
    path = tmp_path / "hosts.json"
    path.write_text(json.dumps([{"ssh": name, "ips": ["127.0.0.1"]} for name in ("a", "b")]))
    path.chmod(0o600)
    return path


def lay_out(*flags: str) -> RankLayout:
    """The layout of a service with these flags."""
    settings = load_settings(flags, {})
    layout = choose_layout(settings)
    refuse_with_ranks(settings, layout)
    return layout


def test_without_settings_it_is_one_process() -> None:
    assert lay_out().size == 1


def test_ranks_are_processes_on_this_machine() -> None:
    layout = lay_out("--ranks", "3")
    assert [place.ssh for place in layout.places] == [None] * 3


def test_hosts_are_those_of_the_file_with_the_settings(hosts: Path) -> None:
    layout = lay_out(
        *("--hosts", str(hosts), "--ranks-python", "/p", "--ranks-cwd", "/c"),
        *("--ranks-backend", "any"),
    )
    assert layout.names == ["a", "b"]
    assert (layout.python, layout.folder, layout.backend) == ("/p", "/c", "any")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--ranks", "2"], "ranks: cannot be used with hosts"),
        (["--prompt-cache-dir", "/tmp"], "prompt_cache_dir: cannot be used with ranks"),
        (["--wired-limit-bytes", "1"], "wired_limit_bytes: cannot be used with ranks"),
        (["--ranks-backend", "jaccl"], "hosts[0].rdma: is missing"),
        (["--ranks-backend", "mpi"], "mpirun"),
    ],
)
def test_what_hosts_cannot_have_is_refused(hosts: Path, flags: list[str], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        lay_out("--hosts", str(hosts), *flags)
    assert words in str(caught.value)


def test_a_file_that_others_can_write_is_refused(hosts: Path) -> None:
    hosts.chmod(0o666)
    with pytest.raises(SettingsError, match="others can write it"):
        lay_out("--hosts", str(hosts))


def test_a_machine_without_ssh_cannot_start_the_others(
    hosts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SettingsError, match="there is no ssh on this machine"):
        lay_out("--hosts", str(hosts))
