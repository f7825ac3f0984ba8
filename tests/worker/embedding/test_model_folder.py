"""What a folder says of its model: its kind, pooling, lengths and prompts, or why it is none."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.models.embedding.folders import write_folder
from tests.models.embedding.samples import (
    BERT,
    DENSE,
    EMBEDDING_GEMMA,
    HIDDEN,
    MAX_TOKENS,
    MODERNBERT,
    MPNET,
    POOLING,
    QWEN3,
    SAMPLES,
    UNIT,
    XLM_ROBERTA,
    Sample,
    pooling,
)
from worker.embedding.facts import EmbeddingFacts, EmbeddingSettings, Kind, NotAnEmbeddingModel
from worker.embedding.model_folder import detect_kind, read_facts

EMBEDDING = EmbeddingSettings(kind="embedding")
RERANK = EmbeddingSettings(kind="rerank")
LOGIT_SCORE = "sentence_transformers.cross_encoder.modules.LogitScore"
MEAN = pooling("mean_tokens")


def facts_of(
    sample: Sample, folder: Path, settings: EmbeddingSettings | None = None
) -> EmbeddingFacts:
    return read_facts(write_folder(sample, {}, folder), settings or EmbeddingSettings())


def classes(count: int, **others: Any) -> Sample:
    labels = {str(index): f"LABEL_{index}" for index in range(count)}
    architecture = {"architectures": ["BertForSequenceClassification"], "id2label": labels}
    return Sample({**BERT, **architecture, **others}, "bert")


@pytest.mark.parametrize(
    ("sample", "kind"),
    [
        (Sample(BERT, "bert", (MEAN, UNIT)), "embedding"),
        (Sample(QWEN3, "qwen", (pooling("lasttoken"), UNIT)), "embedding"),
        (classes(1), "rerank"),
        (Sample(QWEN3, "qwen", ((LOGIT_SCORE, {"true_token_id": 1}),)), "rerank"),
        (classes(3), None),
        (Sample(BERT, "bert"), None),
        (Sample(QWEN3, "qwen"), None),
    ],
)
def test_the_kind_follows_from_the_files(sample: Sample, kind: Kind | None, tmp_path: Path) -> None:
    assert detect_kind(write_folder(sample, {}, tmp_path)) == kind
    assert detect_kind(tmp_path, RERANK) == "rerank"


def test_a_folder_without_files_is_of_no_kind(tmp_path: Path) -> None:
    assert detect_kind(tmp_path) is None
    (tmp_path / "modules.json").write_text("[{")
    assert detect_kind(tmp_path) is None


@pytest.mark.parametrize("name", [name for name in SAMPLES if SAMPLES[name].kind == "embedding"])
def test_facts_are_those_of_the_modules(name: str, tmp_path: Path) -> None:
    sample = SAMPLES[name]
    facts = facts_of(sample, tmp_path)
    layers = [config["out_features"] for kind, config in sample.modules if kind == DENSE]
    assert facts.dimensions == (layers or [HIDDEN])[-1]
    assert facts.normalised == (UNIT in sample.modules)
    assert facts.max_tokens == MAX_TOKENS
    assert facts.vocabulary_size == sample.config["vocab_size"]
    assert facts.problems == ()


def test_prompts_are_read_without_empty_ones_and_may_be_replaced(tmp_path: Path) -> None:
    written = {"prompts": {"query": "q: ", "document": ""}, "similarity_fn_name": "dot"}
    sample = Sample(BERT, "bert", (MEAN,), {**written, "default_prompt_name": "query"})
    facts = facts_of(sample, tmp_path)
    assert (facts.prompts, facts.default_prompt, facts.similarity) == (
        {"query": "q: "},
        "query",
        "dot",
    )
    settings = EmbeddingSettings(prompts={"passage": "p: "})
    facts = facts_of(sample, tmp_path, settings)
    assert (facts.prompts, facts.default_prompt) == ({"passage": "p: "}, None)


@pytest.mark.parametrize(
    ("prompts", "query", "document"),
    [
        ({"search_query": "q: ", "search_document": "d: "}, "q: ", "d: "),
        ({"query": "q: ", "passage": "p: "}, "q: ", "p: "),
        ({"query": "q: ", "s2p_query": "s: ", "document": "", "passage": "p: "}, "q: ", None),
        ({"clustering": "c: "}, None, None),
        ({"query": 5, "document": None}, None, None),
        (["query"], None, None),
    ],
)
def test_prompts_of_queries_and_documents_are_found_by_their_other_names(
    prompts: Any, query: str | None, document: str | None, tmp_path: Path
) -> None:
    found = facts_of(Sample(BERT, "bert", (MEAN,), {"prompts": prompts}), tmp_path).prompts
    assert (found.get("query"), found.get("document")) == (query, document)


@pytest.mark.parametrize(
    ("config", "pooling_name"), [(BERT, "mean"), (QWEN3, "lasttoken"), (XLM_ROBERTA, "mean")]
)
def test_a_folder_without_modules_has_an_assumed_pooling_that_is_said(
    config: dict[str, Any], pooling_name: str, tmp_path: Path
) -> None:
    facts = facts_of(Sample(config, "bert"), tmp_path, EMBEDDING)
    assert (facts.pooling, facts.normalised) == (pooling_name, True)
    [problem] = facts.problems
    assert pooling_name in problem
    chosen = EmbeddingSettings(kind="embedding", pooling="cls", normalise=False)
    facts = facts_of(Sample(config, "bert"), tmp_path, chosen)
    assert (facts.pooling, facts.normalised, facts.problems) == ("cls", False, ())


@pytest.mark.parametrize("mode", ["lasttoken", ["lasttoken"]])
def test_a_pooling_may_be_written_as_its_name(mode: object, tmp_path: Path) -> None:
    module = (POOLING, {"embedding_dimension": HIDDEN, "pooling_mode": mode})
    assert facts_of(Sample(BERT, "bert", (module,)), tmp_path).pooling == "lasttoken"


def test_the_most_tokens_are_the_least_that_a_file_says(tmp_path: Path) -> None:
    sample = Sample({**XLM_ROBERTA, "max_position_embeddings": 40}, "roberta", (MEAN,))
    # The positions of padding, and those before it, are no token's.
    assert facts_of(sample, tmp_path).max_tokens == 38
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 20}')
    assert read_facts(tmp_path, EmbeddingSettings()).max_tokens == 20
    assert read_facts(tmp_path, EmbeddingSettings(), tokenizer_limit=10).max_tokens == 10
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": null}')
    assert read_facts(tmp_path, EmbeddingSettings()).max_tokens == 38


@pytest.mark.parametrize(
    ("written", "settings", "allowed"),
    [
        ({}, None, []),
        ({"matryoshka_dimensions": [8, 16]}, None, [8, 16]),
        ({"is_matryoshka": True}, None, [*range(1, HIDDEN)]),
        ({"is_matryoshka": True, "matryoshka_dimensions": [8]}, None, [8]),
        ({}, EmbeddingSettings(matryoshka=(4,)), [4]),
        ({"matryoshka_dimensions": [8]}, EmbeddingSettings(matryoshka=()), []),
    ],
)
def test_vectors_may_be_cut_to_the_lengths_that_the_model_is_trained_for(
    written: dict[str, Any], settings: EmbeddingSettings | None, allowed: list[int], tmp_path: Path
) -> None:
    facts = facts_of(Sample({**BERT, **written}, "bert", (MEAN,)), tmp_path, settings)
    assert [each for each in range(-1, HIDDEN + 3) if facts.allows(each)] == [*allowed, HIDDEN]


@pytest.mark.parametrize(
    ("sample", "settings", "message"),
    [
        (Sample(QWEN3, "qwen"), None, "does not say that it is an embedding model"),
        (classes(3), RERANK, "this model has 3 classes"),
        (Sample(BERT, "bert"), RERANK, "this model has no classes"),
        (Sample(EMBEDDING_GEMMA, "gemma"), RERANK, "this model has no classes"),
        (classes(1), EMBEDDING, 'with a single class is kind = "rerank"'),
        (classes(1, **{**QWEN3, "architectures": ["Qwen3ForSequenceClassification"]}), None,
         "a decoder with a classifying head"),
        (Sample(BERT, "bert", (("sentence_transformers.models.WordWeights", {}), MEAN)), EMBEDDING,
         "its module WordWeights is not computed"),
        (Sample(BERT, "bert", (("custom_code.Pooling", {}),)), None, "module Pooling is not"),
        (Sample(BERT, "bert", (UNIT, MEAN)), None, "not computed in this order"),
        (Sample(BERT, "bert", (MEAN, MEAN)), None, "not computed in this order"),
        (Sample(BERT, "bert", (pooling("nothing"),)), None, "its pooling is nothing"),
        (Sample(BERT, "bert", (pooling("cls_token", pooling_mode_max_tokens=True),)), None,
         "its pooling is cls and max"),
        (Sample(BERT, "bert", (pooling("cls_token", include_prompt=False),)), None,
         "leaves out the tokens of prompts"),
        (Sample(BERT, "bert", (MEAN, (DENSE, {"in_features": 4}))), None, "in and out features"),
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be_used_says_why(
    sample: Sample, settings: EmbeddingSettings | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(NotAnEmbeddingModel, match=re.escape(message)):
        facts_of(sample, tmp_path, settings)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ('{"a": 1}', "is no list"),
        ("[1]", "without a type or a path"),
        ('[{"type": "sentence_transformers.models.Pooling", "path": "../other"}]', "outside"),
        ('[{"type": "sentence_transformers.models.Pooling", "path": "/etc"}]', "outside"),
        ("[", "cannot be read"),
    ],
)
def test_a_broken_list_of_modules_says_why(modules: str, message: str, tmp_path: Path) -> None:
    write_folder(Sample(BERT, "bert", (MEAN,)), {}, tmp_path)
    (tmp_path / "modules.json").write_text(modules)
    with pytest.raises(NotAnEmbeddingModel, match=message):
        read_facts(tmp_path, EMBEDDING)


def test_every_architecture_is_told_from_its_configuration(tmp_path: Path) -> None:
    kinds = {}
    for name, config in {
        "bert": BERT,
        "roberta": XLM_ROBERTA,
        "modernbert": MODERNBERT,
        "mpnet": MPNET,
        "gemma": EMBEDDING_GEMMA,
        "decoder": QWEN3,
    }.items():
        kinds[name] = facts_of(Sample(config, "bert", (MEAN,)), tmp_path / name).architecture
    assert all(name == kind for name, kind in kinds.items())
    causal = replace(SAMPLES["embedding-gemma"], config={**EMBEDDING_GEMMA})
    causal = replace(causal, config={**causal.config, "use_bidirectional_attention": False})
    assert facts_of(causal, tmp_path / "causal").architecture == "decoder"


def test_the_files_of_newer_versions_say_the_same(tmp_path: Path) -> None:
    package = "sentence_transformers.base.modules"
    newer = Sample(
        EMBEDDING_GEMMA,
        "gemma",
        (
            ("sentence_transformers.sentence_transformer.modules.pooling.Pooling",
             {"embedding_dimension": HIDDEN, "pooling_mode": "mean", "include_prompt": True}),
            (f"{package}.dense.Dense", {"in_features": HIDDEN, "out_features": 40, "bias": False}),
            (f"{package}.dense.Dense", {"in_features": 40, "out_features": 24, "bias": False}),
            (f"{package}.normalize.Normalize", {}),
        ),
        SAMPLES["embedding-gemma"].settings,
    )  # fmt: skip
    older = facts_of(SAMPLES["embedding-gemma"], tmp_path / "older")
    assert facts_of(newer, tmp_path / "newer") == older
    folder = write_folder(classes(1), {}, tmp_path / "reranker")
    module = {"idx": 0, "name": "0", "path": "", "type": f"{package}.transformer.Transformer"}
    (folder / "modules.json").write_text(json.dumps([module]))
    assert read_facts(folder, EmbeddingSettings()).kind == "rerank"


def test_facts_pass_through_json(tmp_path: Path) -> None:
    facts = facts_of(SAMPLES["embedding-gemma"], tmp_path)
    text = msgspec.json.encode(facts)
    assert msgspec.json.decode(text, type=EmbeddingFacts) == facts
    assert json.loads(text)["dimensions"] == facts.dimensions
