"""A model's configuration: all of a model except its weights.

Loading a configuration reads files and a tokenizer and calls no MLX, so it runs on other
threads than the engine core.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_tokenizer

from protocol.messages import ModelSource
from protocol.model_states import ModelDefaults
from worker.embedding.facts import EmbeddingSettings
from worker.embedding.model_folder import detect_kind
from worker.embedding.texts import EmbeddingTexts, open_texts
from worker.folder.chat_templates import ChatTemplates, read_chat_templates
from worker.folder.generation_config import (
    NO_DEFAULTS,
    GenerationConfig,
    read_generation_config,
)
from worker.folder.mlx_lm_folder import folder_for_mlx_lm, load_config
from worker.folder.remote_code import check_remote_code, has_tokenizer_code, needs_trust
from worker.folder.tekken import mend_decoder, tekken_settings
from worker.folder.turn_ends import find_turn_end
from worker.models.families import FamilyRegistry, call_syntaxes_of, detect_model_family
from worker.models.fingerprint import content_key_of, fingerprint_of
from worker.models.model_files import (
    DraftFolder,
    context_length_of,
    eos_token_ids_of,
    find_draft_folder,
    find_model_folder,
    stop_tokens_of,
    vocabulary_size_of,
    weight_file_bytes,
)
from worker.outputs.detokenizer import make_token_bytes
from worker.outputs.parsers import OutputParsers
from worker.prompts.builder import PromptBuilder
from worker.prompts.token_bound import TokenBound
from worker.structured_output.compiler import GrammarCompiler
from worker.structured_output.vocabulary import make_vocabulary
from worker.tool_calls.prompting import GENERIC_CALL_TEMPLATE
from worker.tool_calls.syntax import CallSyntax

logger = logging.getLogger(__name__)

REWRITES_TURNS = (
    "its chat template writes earlier turns otherwise once a conversation goes on, "
    "so the prompt cache cannot reuse them"
)


class PromptModel(msgspec.Struct, frozen=True, array_like=True):
    """The facts that suffice to load what prepares a model's prompts."""

    source: ModelSource
    path: str
    content_key: str
    context_length: int
    vocabulary_size: int


class PromptParts(NamedTuple):
    """What prepares a model's prompts; `texts` of an embedding model or a reranker."""

    prompts: PromptBuilder
    parsers: OutputParsers
    texts: EmbeddingTexts | None


class LoadError(Exception):
    """A model or the prompt cache's folder could not be loaded; the message says why."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model without its weights.

    `family` is the `model_type` of config.json, `file_bytes` the weights' size on disk,
    `content_key` the key of the model's prompt cache, `defaults` the sampling of requests that
    leave it to the model. `texts` is set for an embedding model or a reranker. `problems` are
    what was assumed or cannot be used of its folder, in words.
    """

    source: ModelSource
    path: Path
    family: str
    context_length: int
    vocabulary_size: int
    file_bytes: int
    content_key: str
    stop_tokens: frozenset[int]
    prompts: PromptBuilder
    token_bytes: Callable[[int], bytes]
    fingerprint: str
    defaults: ModelDefaults
    parsers: OutputParsers
    grammars: GrammarCompiler
    texts: EmbeddingTexts | None = None
    draft: DraftFolder | None = None
    problems: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The id that the model is served under."""
        return self.source.id

    @property
    def prompt_model(self) -> PromptModel:
        """What another process needs to prepare this model's prompts."""
        return PromptModel(
            source=self.source,
            path=str(self.path),
            content_key=self.content_key,
            context_length=self.context_length,
            vocabulary_size=self.vocabulary_size,
        )

    @property
    def capabilities(self) -> list[str]:
        """The model's capabilities, by their names in `/v1/models`."""
        if self.texts is not None:
            return ["embeddings" if self.texts.facts.kind == "embedding" else "rerank"]
        chat = self.prompts.has_chat_template
        supported = {
            "completion": True,
            "chat": chat,
            "tools": chat,
            "structured_outputs": self.grammars.vocabulary is not None,
            "reasoning": chat and self.parsers.has_reasoning,
            "fill_in_middle": self.prompts.fill_in_middle is not None,
        }
        return [name for name, is_supported in supported.items() if is_supported]


class ModelConfigLoader:
    """Loads configurations; `context_limit_tokens` applies to sources without their own limit.

    Of a model that generates this process reads one of `shares` parts.
    """

    def __init__(
        self, families: FamilyRegistry, context_limit_tokens: int, shares: int = 1
    ) -> None:
        self._shares = shares
        self._families = families
        self._context_limit_tokens = context_limit_tokens

    def context_length(self, source: ModelSource) -> int | None:
        """The context length of a model by its files alone; None if they cannot be read."""
        try:
            config = load_config(folder_of(source))
            return context_length_of(config, self._limit_tokens(source))
        except Exception:
            # A load of the model reports the error.
            return None

    def defaults(self, source: ModelSource) -> ModelDefaults:
        """The sampling that a model's files ask for; nothing if they are not on disk."""
        try:
            path = folder_of(source)
        except Exception:
            # A load of the model reports the error.
            return NO_DEFAULTS
        return defaults_of(source, read_generation_config(path))

    def load(self, source: ModelSource, *, download: bool) -> ModelConfig:
        """Read the model's files; with `download` they are fetched from the hub if missing.

        Raises:
            LoadError: the files are missing or cannot be used.
        """
        try:
            return self._load(source, download=download)
        except (Exception, SystemExit) as error:
            # Tokenizers and templates raise many errors; none of them may end a thread.
            raise cannot_load(source.id, error) from error

    def _limit_tokens(self, source: ModelSource) -> int:
        return source.context_limit_tokens or self._context_limit_tokens

    def load_prompts(self, model: PromptModel) -> PromptParts:
        """Read what prepares a model's prompts. One thread at a time may use it."""
        path = Path(model.path)
        config = load_config(path)
        family = self._families.family_for(detect_model_family(config))
        templates = read_chat_templates(path, model.source.chat_template)
        tokenizer = load_tokenizer_with_template(
            path,
            config,
            templates,
            family.chat_template,
            trusted=model.source.trust_remote_code,
        )
        syntaxes = call_syntaxes_of(tokenizer, family)
        prompts = make_prompt_builder(
            tokenizer,
            syntaxes,
            vocabulary_size=model.vocabulary_size,
            context_length=model.context_length,
            named_templates=templates.named,
        )
        texts = texts_of(model.source, path, tokenizer)
        return PromptParts(prompts, OutputParsers(tokenizer, syntaxes), texts)

    def _load(self, source: ModelSource, *, download: bool) -> ModelConfig:
        path = folder_of(source, download=download and not source.trust_remote_code)
        config = load_config(path)
        check_remote_code(path, config, trusted=source.trust_remote_code)
        model_type = detect_model_family(config)
        family = self._families.family_for(model_type)
        templates = read_chat_templates(path, source.chat_template)
        template = family.chat_template
        trusted = source.trust_remote_code
        read_tokenizer = partial(
            load_tokenizer_with_template, path, config, templates, template, trusted=trusted
        )
        tokenizer = read_tokenizer()
        draft = find_draft_folder(source.draft_model, tokenizer, download=download)
        syntaxes = call_syntaxes_of(tokenizer, family)
        vocabulary_size = vocabulary_size_of(config, tokenizer)
        refuse_embedding_folder(source, path)
        texts = texts_of(source, path, tokenizer)
        context_length = longest_input_of(config, texts, self._limit_tokens(source))
        named = stop_tokens_of(path, tokenizer) | family.stop_tokens(tokenizer)
        turn_end = find_turn_end(tokenizer, named)
        stop_tokens = frozenset(named if turn_end is None else {*named, turn_end})
        content_key = content_key_of(path, source.adapter_path, source.kv_bits)
        generation_config = read_generation_config(path)
        problems = [*generation_config.problems, *templates.problems]
        problems += texts.facts.problems if texts is not None else ()
        if turn_end is not None:
            text = tokenizer.convert_ids_to_tokens(turn_end)
            problems.append(f"no file names {text}, with which its template ends turns: it stops")
        # A second tokenizer, because the engine core uses the first one at the same time.
        prompts = make_prompt_builder(
            read_tokenizer(),
            syntaxes,
            vocabulary_size=vocabulary_size,
            context_length=context_length,
            named_templates=templates.named,
        )
        if prompts.has_chat_template and not prompts.template.keeps_earlier_turns():
            problems.append(REWRITES_TURNS)
        for problem in problems:
            logger.warning("model %s: %s", source.id, problem)
        return ModelConfig(
            source=source,
            path=path,
            family=model_type,
            context_length=context_length,
            vocabulary_size=vocabulary_size,
            file_bytes=self._own_bytes(path, source, draft, is_split=texts is None),
            draft=draft,
            content_key=content_key,
            stop_tokens=stop_tokens,
            prompts=prompts,
            token_bytes=make_token_bytes(tokenizer),
            fingerprint=fingerprint_of(path, content_key),
            defaults=defaults_of(source, generation_config),
            parsers=OutputParsers(tokenizer, syntaxes),
            grammars=GrammarCompiler(make_vocabulary(tokenizer, vocabulary_size, stop_tokens)),
            texts=texts,
            problems=tuple(problems),
        )

    def _own_bytes(
        self, path: Path, source: ModelSource, draft: DraftFolder | None, *, is_split: bool
    ) -> int:
        """The bytes of this process's part; texts for vectors are computed by one process."""
        whole = weight_file_bytes(path, source.adapter_path)
        own = whole // self._shares if is_split else whole
        return own + (draft.file_bytes if draft is not None else 0)


def make_prompt_builder(
    tokenizer: TokenizerWrapper,
    syntaxes: Sequence[CallSyntax],
    *,
    vocabulary_size: int,
    context_length: int,
    named_templates: Mapping[str, str] | None = None,
) -> PromptBuilder:
    """The prompt builder of a model whose calls have these syntaxes."""
    templates = (syntax.history_template or syntax.call_template for syntax in syntaxes)
    token_bytes = make_token_bytes(tokenizer)
    return PromptBuilder(
        tokenizer,
        vocabulary_size=vocabulary_size,
        context_length=context_length,
        call_template=next(filter(None, templates), GENERIC_CALL_TEMPLATE),
        token_bound=TokenBound(tokenizer, token_bytes),
        token_bytes=token_bytes,
        named_templates=named_templates,
    )


def load_tokenizer_with_template(
    path: Path,
    config: dict[str, Any],
    templates: ChatTemplates,
    fallback: Callable[[TokenizerWrapper], str | None],
    *,
    trusted: bool,
) -> TokenizerWrapper:
    """The tokenizer with the default of `templates`, else the family's template.

    `fallback` gives the family's template. Code of its own runs if `trusted`.

    Raises:
        RemoteCodeError: it cannot be read without running its code.
    """
    # mlx-lm finds the call syntax in the template, so in the one that has tools.
    extra = {**(templates.settings or {}), "chat_template": templates.with_tools}
    extra |= tekken_settings(path, config)
    stop_tokens = sorted(eos_token_ids_of(config)) or None
    try:
        with folder_for_mlx_lm(path) as folder:
            tokenizer = load_tokenizer(
                folder, {**extra, "trust_remote_code": trusted}, eos_token_ids=stop_tokens
            )
    except ValueError as error:
        if trusted or not has_tokenizer_code(path):
            raise
        raise needs_trust("its tokenizer has code of its own") from error
    mend_decoder(tokenizer)
    template = templates.default
    if template is None and not tokenizer.has_chat_template:
        template = fallback(tokenizer)
    if template is not None:
        tokenizer.chat_template = template
        tokenizer.has_chat_template = True
    return tokenizer


def folder_of(source: ModelSource, *, download: bool = False) -> Path:
    """The folder of a configured model; raises as `find_model_folder`."""
    return find_model_folder(source.source, download=download, revision=source.revision)


def texts_of(source: ModelSource, path: Path, tokenizer: TokenizerWrapper) -> EmbeddingTexts | None:
    """What prepares the texts of an embedding model or a reranker; None for any other model.

    Raises:
        NotAnEmbeddingModel: the folder gives no vectors and no scores.
    """
    if source.embedding is None:
        return None
    settings = msgspec.convert(source.embedding, EmbeddingSettings, from_attributes=True)
    bound = TokenBound(tokenizer, make_token_bytes(tokenizer)).at_least
    return open_texts(path, settings, trusted=source.trust_remote_code, byte_bound=bound)


def longest_input_of(
    config: Mapping[str, Any], texts: EmbeddingTexts | None, limit_tokens: int
) -> int:
    """The most tokens of a prompt and its answer, or of a text; `limit_tokens` 0 sets no limit."""
    length = context_length_of(config, limit_tokens)
    return length if texts is None else min(length, texts.facts.max_tokens)


def defaults_of(source: ModelSource, generation_config: GenerationConfig) -> ModelDefaults:
    """The sampling that a model's files ask for, unless its configuration ignores them."""
    return generation_config.defaults if source.generation_config else NO_DEFAULTS


def refuse_embedding_folder(source: ModelSource, path: Path) -> None:
    """Refuse a folder of a model that does not generate, where it is not configured as one.

    Raises:
        ValueError: it is one by its files.
    """
    kind = detect_kind(path) if source.embedding is None else None
    if kind is not None:
        raise ValueError(f'it does not generate; configure it with kind = "{kind}"')


def cannot_load(id: str, error: BaseException) -> LoadError:
    """The `LoadError` for this model, as one line of text."""
    text = " ".join(str(error).split())
    if isinstance(error, SystemExit):
        text = f"its code ended the process with {text or 0}"
    return LoadError(f"model {id!r} cannot be loaded: {text}")
