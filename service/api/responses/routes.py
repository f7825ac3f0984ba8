"""The rows of the route table for responses."""

from __future__ import annotations

from service.api.responses.endpoint import ResponsesEndpoint
from service.api.responses.format import ResponseFormat
from service.api.responses.shapes.request import ResponseRequest
from service.api.responses.shapes.response import Response, ResponseEvent
from service.generation.submitter import Submitter
from service.openapi.descriptions import describe_generation
from service.openapi.operation import Operation

ENDING = " with further fields by its type; the last one has the whole response."


def list_response_operations(
    response_format: ResponseFormat, submitter: Submitter, *, keep_alive_s: float
) -> list[Operation]:
    """The endpoints of responses."""
    endpoint = ResponsesEndpoint(response_format, submitter, keep_alive_s=keep_alive_s)
    return [
        Operation(
            "POST",
            "/v1/responses",
            endpoint.create,
            description=describe_generation(
                "createResponse",
                "Create a response.",
                request=ResponseRequest,
                response=Response,
                chunk=ResponseEvent,
                ending=ENDING,
                strict_max_tokens=not submitter.has_ceilings,
            ),
            aliases=("/responses",),
            kind="generation",
            request=ResponseRequest,
            schemas=(Response, ResponseEvent),
        )
    ]
