"""The row of the route table for completions."""

from __future__ import annotations

from service.api.completions.format import CompletionFormat
from service.generation.endpoint import GenerationEndpoint
from service.generation.submitter import Submitter
from service.openapi.descriptions import describe_generation
from service.openapi.operation import Operation
from service.schema.completions import Completion, CompletionRequest


def list_completion_operations(submitter: Submitter, *, keep_alive_s: float) -> list[Operation]:
    """The endpoint of completions."""
    endpoint = GenerationEndpoint(CompletionFormat(), submitter, keep_alive_s=keep_alive_s)
    return [
        Operation(
            "POST",
            "/v1/completions",
            endpoint.create,
            description=describe_generation(
                "createCompletion",
                "Create a completion.",
                request=CompletionRequest,
                response=Completion,
                chunk=Completion,
                strict_max_tokens=not submitter.has_ceilings,
            ),
            aliases=("/completions",),
            kind="generation",
            request=CompletionRequest,
            schemas=(Completion,),
        )
    ]
