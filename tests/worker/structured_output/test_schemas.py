"""An answer constrained by a schema is valid by an independent validator (jsonschema)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from protocol.events import Finished
from protocol.grammars import JsonSchema
from protocol.messages import Sampling, Submit, TextPrompt
from tests.worker.driver import end_of, make_pool, run_loop, text_of
from tests.worker.structured_output.schemas import Schema, schemas
from worker.models.pool import ModelPool

EXAMPLES = 2
BATCH = 8
MAX_TOKENS = 1500


@pytest.fixture(scope="module")
def pool(model_paths: dict[str, Path]) -> Iterator[ModelPool]:
    pool = make_pool(*model_paths.values())
    yield pool
    for path in model_paths.values():
        pool[path.name].config.grammars.close()


# Without shrinking, which takes minutes here: a failure shows one schema and its text.
@settings(max_examples=EXAMPLES, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    family=st.sampled_from(["llama", "qwen", "gemma"]),
    batch=st.lists(schemas(), min_size=BATCH, max_size=BATCH),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
    seed=st.integers(0, 2**32),
)
def test_an_untrained_model_generates_what_any_schema_allows(
    pool: ModelPool,
    model_paths: dict[str, Path],
    family: str,
    batch: list[Schema],
    temperature: float,
    seed: int,
) -> None:
    submits = [
        Submit(
            id,
            model_paths[family].name,
            TextPrompt("Tell me."),
            Sampling(seed=seed + id, temperature=temperature),
            max_tokens=MAX_TOKENS,
            grammar=JsonSchema(json.dumps(schema)),
        )
        for id, schema in enumerate(batch)
    ]
    steps = run_loop(pool, submits)
    for id, schema in enumerate(batch):
        end = end_of(steps, id)
        assert isinstance(end, Finished), (end, schema)
        assert end.reason == "stop", text_of(steps, id)
        validate(text_of(steps, id), schema)


def validate(text: str, schema: Schema) -> None:
    """Raise an error if `text` is not JSON or does not match the schema."""
    jsonschema.Draft202012Validator(schema).validate(json.loads(text))
