"""The OpenAPI document checked against the service by schemathesis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    missing_required_header,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.e2e.daemon import Daemon, running
from tests.service.parts import describe
from tests.waiting import HANG_S

pytestmark = pytest.mark.long
# It makes tests of `parametrize`.
pytest_plugins = ("schemathesis.pytest.plugin",)

# An answer's length is not the question here.
MOST_TOKENS = 4
EXAMPLES = 5
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    missing_required_header,
    unsupported_method,
]


@pytest.fixture(scope="module")
def demo() -> Iterator[Daemon]:
    with running() as daemon:
        yield daemon


# Read without a service, so that each operation is a test of its own.
described = schemathesis.openapi.from_dict(describe("tested"))


@described.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_one_that_the_description_names(case: Case[Any], demo: Daemon) -> None:
    shorten(case)
    case.call_and_validate(base_url=demo.url, checks=CHECKS, timeout=HANG_S)


def shorten(case: Case[Any]) -> None:
    """Ask for the model that is there, and for a short answer: what is right of it stays right."""
    body = case.body
    if not isinstance(body, dict):
        return
    if isinstance(body.get("model"), str):
        body["model"] = "default"
    right = case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE
    if right and case.operation.path.startswith("/v1/"):
        body["max_tokens"] = MOST_TOKENS
        body.pop("max_completion_tokens", None)
        body.pop("min_tokens", None)
