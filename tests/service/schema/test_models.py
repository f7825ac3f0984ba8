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
            }
        ],
    }
    SyncPage[OpenAIModel].model_validate_json(body, strict=True)
