"""The facts of a model's folder: which kind of model it is, and how its rows are made vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from worker.embedding.facts import (
    Architecture,
    EmbeddingFacts,
    EmbeddingSettings,
    Kind,
    NotAnEmbeddingModel,
    Pooling,
)
from worker.embedding.sentence_transformers import (
    DENSE,
    INERT,
    LOGIT_SCORE,
    NORMALIZE,
    POOLING,
    SETTINGS_FILE,
    TRANSFORMER,
    Module,
    read_dense_layers,
    read_length_file,
    read_modules,
    read_pooling,
)
from worker.folder.context_length import context_tokens_of
from worker.folder.json_values import read_object

ENCODERS: Mapping[str, Architecture] = {
    "bert": "bert",
    "camembert": "roberta",
    "modernbert": "modernbert",
    "mpnet": "mpnet",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
}
GEMMA_TEXT = "gemma3_text"
CLASSIFIER = "ForSequenceClassification"
# Other names of the two prompts that a request can choose by the type of its texts.
PROMPT_NAMES: Mapping[str, Sequence[str]] = {
    "query": ("search_query", "retrieval.query", "Retrieval-query", "s2p_query"),
    "document": ("passage", "search_document", "retrieval.passage", "Retrieval-document"),
}
# The position of a RoBERTa's first token is behind that of its padding; so is an MPNet's.
ROBERTA_PADDING = 1
# What sentence-transformers does with an encoder that has no modules.
DEFAULT_ENCODER_POOLING: Pooling = "mean"
USED_MODULES = (TRANSFORMER, POOLING, DENSE, NORMALIZE, LOGIT_SCORE, *INERT)


def detect_kind(folder: Path, settings: EmbeddingSettings | None = None) -> Kind | None:
    """What a folder is by its files, or by its configuration; None for any other model.

    It is a reranker if it classifies pairs into one class or scores an answer's tokens, and an
    embedding model if it lists modules of sentence-transformers that end in one vector.
    """
    if settings is not None and settings.kind is not None:
        return settings.kind
    config = read_object(folder / "config.json")[0]
    try:
        modules = read_modules(folder)
    except NotAnEmbeddingModel:
        return None
    if classes_of(config) == 1 or has_module(modules or (), LOGIT_SCORE):
        return "rerank"
    return "embedding" if has_module(modules or (), POOLING) else None


def read_facts(
    folder: Path, settings: EmbeddingSettings, *, tokenizer_limit: int | None = None
) -> EmbeddingFacts:
    """The facts of a model's folder, besides those of its tokenizer.

    Raises:
        NotAnEmbeddingModel: it gives no vectors and no scores, or in a way that is not computed.
    """
    config = read_object(folder / "config.json")[0]
    kind = detect_kind(folder, settings)
    if kind is None:
        raise NotAnEmbeddingModel(
            "its folder does not say that it is an embedding model or a reranker; "
            'configure it with kind = "embedding" or kind = "rerank" if it is one'
        )
    architecture = architecture_of(config)
    modules = read_modules(folder) or ()
    check_order(modules)
    check_head(config, kind, architecture)
    problems: list[str] = []
    pooling = pooling_of(modules, settings, architecture, kind, problems)
    written = read_object(folder / SETTINGS_FILE)[0]
    prompts = prompts_of(written) if settings.prompts is None else settings.prompts
    dense = read_dense_layers(folder, modules)
    lengths, any_length = matryoshka_of(config, settings)
    hidden = int(text_config(config).get("hidden_size") or 0)
    outputs = dense[-1].outputs if dense else hidden
    normalised = has_module(modules, NORMALIZE) or not modules
    return EmbeddingFacts(
        kind=kind,
        family=str(config.get("model_type") or "unknown"),
        architecture=architecture,
        dimensions=0 if kind == "rerank" else outputs,
        max_tokens=max_tokens_of(folder, config, architecture, tokenizer_limit),
        vocabulary_size=int(text_config(config).get("vocab_size") or 0),
        pooling=pooling,
        normalised=normalised if settings.normalise is None else settings.normalise,
        prompts=prompts,
        default_prompt=named if (named := written.get("default_prompt_name")) in prompts else None,
        similarity=text_or_none(written.get("similarity_fn_name")),
        matryoshka=lengths,
        any_length=any_length,
        problems=tuple(problems),
    )


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """What computes a model's states. Any model that is no encoder is a decoder of mlx-lm."""
    model_type = config.get("model_type")
    if model_type == GEMMA_TEXT and config.get("use_bidirectional_attention"):
        return "gemma"
    return ENCODERS.get(str(model_type), "decoder")


def check_head(config: Mapping[str, Any], kind: Kind, architecture: Architecture) -> None:
    """Refuse a model whose head is for another purpose.

    Raises:
        NotAnEmbeddingModel: it is none of this kind.
    """
    classes = classes_of(config)
    if kind == "rerank" and architecture != "decoder" and classes != 1:
        has = "no classes" if classes is None else f"{classes} classes"
        raise NotAnEmbeddingModel(f"a reranker gives one class to a pair, and this model has {has}")
    if kind == "rerank" and architecture == "gemma":
        raise NotAnEmbeddingModel("a Gemma encoder scores no pairs")
    if kind == "rerank" and architecture == "decoder" and classes is not None:
        raise NotAnEmbeddingModel("a decoder with a classifying head is not computed here")
    if kind == "embedding" and classes is not None:
        raise NotAnEmbeddingModel('it classifies texts; one with a single class is kind = "rerank"')


def classes_of(config: Mapping[str, Any]) -> int | None:
    """How many classes a model's head has; None without such a head."""
    architectures = config.get("architectures")
    names = architectures if isinstance(architectures, Sequence) else ()
    if not any(str(name).endswith(CLASSIFIER) for name in names):
        return None
    labels = config.get("id2label")
    count = config.get("num_labels", len(labels) if isinstance(labels, Mapping) else 2)
    return count if isinstance(count, int) else 2


def pooling_of(
    modules: Sequence[Module],
    settings: EmbeddingSettings,
    architecture: Architecture,
    kind: Kind,
    problems: list[str],
) -> Pooling:
    """The pooling of a model; what is assumed is added to `problems`."""
    found = settings.pooling or read_pooling(tuple(modules))
    if found is not None or kind == "rerank":
        return found or "lasttoken"
    assumed = "lasttoken" if architecture == "decoder" else DEFAULT_ENCODER_POOLING
    problems.append(f"its folder names no pooling: {assumed} is assumed, and vectors of length 1")
    return assumed


def max_tokens_of(
    folder: Path, config: Mapping[str, Any], architecture: Architecture, limit: int | None
) -> int:
    """The most tokens of a row: the least of what the files say.

    `limit` is that of the tokenizer.
    """
    positions = context_tokens_of(config)
    if architecture in ("roberta", "mpnet"):
        positions -= first_position_of(config, architecture)
    own = read_length_file(folder).get("max_seq_length")
    lengths = [positions, *(each for each in (own, limit) if is_count(each))]
    return min(lengths)


def first_position_of(config: Mapping[str, Any], architecture: Architecture) -> int:
    """The position of a row's first token."""
    padding = config.get("pad_token_id") if architecture == "roberta" else None
    return (padding if isinstance(padding, int) else ROBERTA_PADDING) + 1


def matryoshka_of(
    config: Mapping[str, Any], settings: EmbeddingSettings
) -> tuple[tuple[int, ...], bool]:
    """The shorter lengths that a model's vectors may have, and whether any length may be."""
    if settings.matryoshka is not None:
        return settings.matryoshka, False
    lengths = config.get("matryoshka_dimensions")
    if isinstance(lengths, list) and lengths:
        return tuple(sorted(each for each in lengths if is_count(each))), False
    return (), config.get("is_matryoshka") is True


def prompts_of(written: Mapping[str, Any]) -> dict[str, str]:
    """The prompts that the folder has, without empty ones; queries' and documents' by these names.

    A folder's own prompt of one of these names is kept, also if it is empty.
    """
    prompts = written.get("prompts")
    entries = prompts if isinstance(prompts, Mapping) else {}
    found = {name: text for name, text in entries.items() if isinstance(text, str) and text}
    for name, others in PROMPT_NAMES.items():
        other = next((found[other] for other in others if other in found), None)
        if name not in entries and other is not None:
            found[name] = other
    return found


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of config.json that has the sizes of the language model."""
    nested = config.get("text_config")
    return nested if isinstance(nested, Mapping) and "hidden_size" not in config else config


def check_order(modules: Sequence[Module]) -> None:
    """Refuse modules that do not follow each other as they are computed here.

    Raises:
        NotAnEmbeddingModel: one is unknown, code of the model's own, or in another place.
    """
    unknown = [each for each in modules if each.is_foreign or each.kind not in USED_MODULES]
    if unknown:
        raise NotAnEmbeddingModel(f"its module {unknown[0].kind[:100]} is not computed here")
    used = [USED_MODULES.index(each.kind) for each in modules if each.kind not in INERT]
    once = [place for place in used if USED_MODULES[place] != DENSE]
    if used != sorted(used) or len(once) != len(set(once)):
        order = " > ".join(module.kind for module in modules)
        raise NotAnEmbeddingModel(f"its modules {order} are not computed in this order")


def has_module(modules: Sequence[Module], kind: str) -> bool:
    """Whether one of the modules is of this kind."""
    return any(module.kind == kind for module in modules)


def text_or_none(value: object) -> str | None:
    """A JSON value that is a text and not empty."""
    return value if isinstance(value, str) and value else None


def is_count(value: object) -> TypeGuard[int]:
    """Whether a JSON value is a positive whole number."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
