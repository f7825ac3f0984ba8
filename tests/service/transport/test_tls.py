"""A certificate and a key that cannot be used are refused, with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.config.scalars import SettingsError
from service.config.settings import Settings
from service.transport.tls import make_tls
from tests.certificates import make_pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_pair(tmp_path_factory.mktemp("tls"))


def refusal(cert: Path | str, key: Path | str) -> str:
    with pytest.raises(SettingsError) as caught:
        make_tls(Settings(tls_cert=str(cert), tls_key=str(key)))
    return str(caught.value)


def test_without_files_there_is_no_tls_and_with_a_pair_there_is(pair: tuple[Path, Path]) -> None:
    assert make_tls(Settings()) is None
    assert make_tls(Settings(tls_cert=str(pair[0]), tls_key=str(pair[1]))) is not None


def test_files_that_cannot_be_used_are_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = pair
    other = make_pair(tmp_path)[1]
    missing = tmp_path / "none.pem"
    assert "one is set without the other" in refusal(cert, "")
    assert "one is set without the other" in refusal("", key)
    assert "tls_key: " in refusal(cert, missing)
    assert "tls_cert: " in refusal(missing, key)
    assert "KEY_VALUES_MISMATCH" in refusal(cert, other)
    assert "tls_cert, tls_key: " in refusal(key, key)


def test_an_encrypted_key_is_refused_rather_than_asked_about(tmp_path: Path) -> None:
    assert "it is encrypted" in refusal(*make_pair(tmp_path, "-passout", "pass:secret"))
