"""The chat templates of published models."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.models.real_templates import PACKAGE, read_templates


@pytest.fixture(scope="session")
def real_templates() -> dict[str, str]:
    """The templates by name. Where there are none the test is skipped, but in CI it fails."""
    templates = read_templates(Path(sys.prefix) / "share" / "mlxd-real-templates")
    if templates:
        sys.stderr.write(f"{len(templates)} real chat templates found in {PACKAGE}\n")
        return templates
    reason = f"the package {PACKAGE}, which has real chat templates, cannot be downloaded"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
