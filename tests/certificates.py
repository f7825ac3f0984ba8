"""Certificates for TLS, made by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.waiting import HANG_S


def make_pair(folder: Path, *protection: str) -> tuple[Path, Path]:
    """A certificate for localhost, signed by itself, and its key, which `protection` encrypts."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-days", "2", "-subj", "/CN=localhost", *(protection or ["-nodes"])),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-out", str(cert), "-keyout", str(key)),
        ],
        check=True,
        capture_output=True,
        timeout=HANG_S,
    )
    return cert, key
