"""Programs of the system that tests start beside a service: nginx, sshd."""

from __future__ import annotations

import os
import shutil

import pytest

# Debian has them where only root's PATH leads.
FOLDERS = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"


def find_program(name: str) -> str:
    """The path of a program. Where there is none the test is skipped, but in CI it fails."""
    found = shutil.which(name, path=FOLDERS)
    if found is not None:
        return found
    if os.environ.get("CI"):
        pytest.fail(f"there is no {name}")
    pytest.skip(f"there is no {name}")
