from __future__ import annotations

import json

import msgspec
from openai.pagination import SyncPage
from openai.types import Model as OpenAIModel

from service.schema.models import Model, ModelList


def test_the_list_has_the_shape_that_the_openai_package_parses() -> None:
    model = Model(id="m", created=1, loaded=True, context_length=4096, aliases=["default"])
    body = msgspec.json.encode(ModelList(data=[model]))
    assert json.loads(body) == {
        "object": "list",
        "data": [
            {
                "id": "m",
                "object": "model",
                "created": 1,
                "owned_by": "mlxd",
                "loaded": True,
                "status": "unloaded",
                "pinned": False,
                "size_bytes": 0,
                "loaded_bytes": 0,
                "reason": None,
                "capabilities": [],
                "context_length": 4096,
                "max_model_len": None,
                "family": None,
                "aliases": ["default"],
                "default_parameters": {
                    "temperature": 1.0,
                    "top_p": 1.0,
                    "top_k": 0,
                    "min_p": 0.0,
                    "presence_penalty": 0.0,
                    "frequency_penalty": 0.0,
                    "repetition_penalty": 1.0,
                    "max_tokens": None,
                },
                "batching": None,
            }
        ],
    }
    SyncPage[OpenAIModel].model_validate_json(body, strict=True)
