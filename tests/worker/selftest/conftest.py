"""What the tests of the selftest share: the built-in model, loaded once."""

from __future__ import annotations

import pytest

from protocol.messages import ModelSource
from protocol.selftest import BUILT_IN
from worker.selftest.subject import Subject, load_subject


@pytest.fixture(scope="package")
def subject() -> Subject:
    return load_subject(ModelSource(BUILT_IN, None))
