"""TLS from two files: the certificate with its chain, and its private key."""

from __future__ import annotations

import ssl
from pathlib import Path

from service.config.scalars import SettingsError
from service.config.settings import Settings

ALPN = ["http/1.1"]


def make_tls(settings: Settings) -> ssl.SSLContext | None:
    """What connections are encrypted with; None where no certificate is configured.

    TLS 1.2 and later, as Python's own defaults have it. The files are read once.

    Raises:
        SettingsError: one is missing, unreadable, encrypted, or not the other's.
    """
    if not settings.tls_cert and not settings.tls_key:
        return None
    if not settings.tls_cert or not settings.tls_key:
        raise SettingsError("tls_cert, tls_key: one is set without the other")
    cert, key = (_find(settings.tls_cert, "tls_cert"), _find(settings.tls_key, "tls_key"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(ALPN)
    try:
        context.load_cert_chain(cert, key, password=_refuse_password)
    except ssl.SSLError as error:
        raise SettingsError(f"tls_cert, tls_key: {cert}, {key}: {error.reason or error}") from None
    except OSError as error:
        raise SettingsError(f"tls_cert, tls_key: {cert}, {key}: {error.strerror}") from None
    return context


def _find(path: str, name: str) -> Path:
    found = Path(path).expanduser()
    try:
        found.open("rb").close()
    except OSError as error:
        raise SettingsError(f"{name}: {found}: {error.strerror}") from None
    return found


def _refuse_password() -> str:
    """Otherwise OpenSSL asks for it on the terminal."""
    raise SettingsError("tls_key: it is encrypted; a service cannot ask for its password")
