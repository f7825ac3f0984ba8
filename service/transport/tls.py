"""The TLS context, from two files: the certificate with its chain, and its private key."""

from __future__ import annotations

import ssl
from pathlib import Path

from service.config.scalars import SettingsError
from service.config.settings import Settings

ALPN = ["http/1.1"]


def make_tls(settings: Settings) -> ssl.SSLContext | None:
    """The TLS context of all connections; None if no certificate is configured.

    Python's defaults allow TLS 1.2 and later. The files are read once.

    Raises:
        SettingsError: a file is missing, unreadable or encrypted, or the two do not match.
    """
    if not settings.tls_cert and not settings.tls_key:
        return None
    if not settings.tls_cert or not settings.tls_key:
        raise SettingsError("tls_cert, tls_key: one is set without the other")
    cert, key = _readable(settings.tls_cert, "tls_cert"), _readable(settings.tls_key, "tls_key")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(ALPN)
    try:
        context.load_cert_chain(cert, key, password=_refuse_password)
    except ssl.SSLError as error:
        raise SettingsError(f"tls_cert, tls_key: {cert}, {key}: {error.reason or error}") from None
    except OSError as error:
        raise SettingsError(f"tls_cert, tls_key: {cert}, {key}: {error.strerror}") from None
    return context


def _readable(setting: str, name: str) -> Path:
    path = Path(setting).expanduser()
    try:
        path.open("rb").close()
    except OSError as error:
        raise SettingsError(f"{name}: {path}: {error.strerror}") from None
    return path


def _refuse_password() -> str:
    """Raise; without this callback OpenSSL asks for the password on the terminal."""
    raise SettingsError("tls_key: it is encrypted; a service cannot ask for its password")
