"""What a model writes to a schema is what the schema says, by another's judgement."""

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

EXAMPLES = 3
BATCH = 12
MOST_TOKENS = 1500


@pytest.fixture(scope="module")
def pool(model_paths: dict[str, Path]) -> Iterator[ModelPool]:
    pool = make_pool(*model_paths.values())
    yield pool
    for path in model_paths.values():
        pool[path.name].config.grammars.close()


# Without shrinking, which takes minutes here: a failure shows its one schema and text.
@settings(max_examples=EXAMPLES, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    family=st.sampled_from(["llama", "qwen", "gemma"]),
    asked=st.lists(schemas(), min_size=BATCH, max_size=BATCH),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
    seed=st.integers(0, 2**32),
)
def test_a_model_that_babbles_writes_what_any_schema_allows(
    pool: ModelPool,
    model_paths: dict[str, Path],
    family: str,
    asked: list[Schema],
    temperature: float,
    seed: int,
) -> None:
    submits = [
        Submit(
            id,
            model_paths[family].name,
            TextPrompt("Tell me."),
            Sampling(seed=seed + id, temperature=temperature),
            max_tokens=MOST_TOKENS,
            grammar=JsonSchema(json.dumps(schema)),
        )
        for id, schema in enumerate(asked)
    ]
    steps = run_loop(pool, submits)
    for id, schema in enumerate(asked):
        end = end_of(steps, id)
        assert isinstance(end, Finished), (end, schema)
        assert end.reason == "stop", text_of(steps, id)
        validate(text_of(steps, id), schema)


def validate(text: str, schema: Schema) -> None:
    """Raises where `text` is no JSON, or not of the schema."""
    jsonschema.Draft202012Validator(schema).validate(json.loads(text))
