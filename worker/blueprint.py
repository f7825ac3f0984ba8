"""What is known of a model before its weights are read: its files, its tokenizer, its limits.

Drawing one up reads files and calls no MLX, so it is done beside the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_config, load_tokenizer

from protocol.messages import ModelSource
from worker.adapters import AdapterRegistry, detect_model_family
from worker.answers import Answers, call_syntaxes_of
from worker.calls.generic import GENERIC_CALL
from worker.checkpoint import context_length_of, resolve, stop_tokens_of, vocabulary_size_of
from worker.detokenizer import make_token_bytes
from worker.fingerprint import fingerprint
from worker.grammars.compiler import GrammarCompiler
from worker.grammars.vocabulary import make_vocabulary
from worker.prompt import PromptBuilder

WEIGHT_FILES = "model*.safetensors"
LORA_WEIGHTS = "adapters.safetensors"
KEY_BYTES = 16
SAMPLES = 32
SAMPLE_BYTES = 64 * 1024


class LoadError(Exception):
    """A model that could not be loaded, with the reason."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """One model without its weights. `file_bytes` is their size on disk."""

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
    answers: Answers
    grammars: GrammarCompiler

    @property
    def id(self) -> str:
        """The id it is served by."""
        return self.source.id


class Draughtsman:
    """Draws up blueprints; `context_limit_tokens` is for models without a limit of their own."""

    def __init__(self, adapters: AdapterRegistry, context_limit_tokens: int) -> None:
        self._adapters = adapters
        self._context_limit_tokens = context_limit_tokens

    def draw(self, source: ModelSource, *, download: bool) -> Blueprint:
        """Read the model's files, which may be fetched from the hub first with `download`.

        Raises:
            LoadError: there are none, or they cannot be used.
        """
        try:
            return self._draw(source, download=download)
        except Exception as error:
            # Tokenizers and templates fail in many ways, and none of them may end a thread.
            raise cannot_load(source.id, error) from error

    def _draw(self, source: ModelSource, *, download: bool) -> Blueprint:
        path = resolve(source.source, download=download)
        config = load_config(path)
        family = detect_model_family(config)
        adapter = self._adapters.adapter_for(family)

        def read_tokenizer() -> TokenizerWrapper:
            return load_templated(path, config, source.chat_template, adapter.chat_template)

        tokenizer = read_tokenizer()
        syntaxes = call_syntaxes_of(tokenizer, adapter)
        vocabulary_size = vocabulary_size_of(config, tokenizer)
        limit_tokens = source.context_limit_tokens or self._context_limit_tokens
        context_length = context_length_of(config, limit_tokens)
        stop_tokens = frozenset(stop_tokens_of(path, tokenizer) | adapter.stop_tokens(tokenizer))
        return Blueprint(
            source=source,
            path=path,
            family=family,
            context_length=context_length,
            vocabulary_size=vocabulary_size,
            file_bytes=weight_file_bytes(path, source.adapter_path),
            content_key=content_key_of(path, source.adapter_path),
            stop_tokens=stop_tokens,
            # A tokenizer of its own, because the loop's answers use the other meanwhile.
            prompts=PromptBuilder(
                read_tokenizer(),
                vocabulary_size=vocabulary_size,
                context_length=context_length,
                written=next((s.written for s in syntaxes if s.written), GENERIC_CALL),
            ),
            token_bytes=make_token_bytes(tokenizer),
            fingerprint=fingerprint(
                path, *([Path(source.adapter_path)] if source.adapter_path else [])
            ),
            answers=Answers(tokenizer, syntaxes),
            grammars=GrammarCompiler(make_vocabulary(tokenizer, vocabulary_size, stop_tokens)),
        )


def load_templated(
    path: Path,
    config: dict[str, Any],
    template: str | None,
    fallback: Callable[[TokenizerWrapper], str | None],
) -> TokenizerWrapper:
    """The tokenizer with `template`, else its own chat template, else the family's."""
    tokenizer = load_tokenizer(path, eos_token_ids=config.get("eos_token_id"))
    if template is None and not tokenizer.has_chat_template:
        template = fallback(tokenizer)
    if template is not None:
        tokenizer.chat_template = template
        tokenizer.has_chat_template = True
    return tokenizer


def weight_file_bytes(path: Path, lora_path: str | None) -> int:
    """The size of the weights on disk, those of a LoRA adapter included.

    Raises:
        FileNotFoundError: there are none.
    """
    files = list(path.glob(WEIGHT_FILES))
    if not files:
        raise FileNotFoundError(f"No safetensors found in {path}")
    if lora_path is not None:
        files.append(Path(lora_path) / LORA_WEIGHTS)
    return sum(file.stat().st_size for file in files)


def content_key_of(path: Path, lora_path: str | None) -> str:
    """A name for what the model computes: the same folder content gives the same one.

    Weights are told apart by their sizes, headers and samples, because to read
    all of a large model would take as long as to load it.
    """
    digest = blake2b(f"mlx-lm {version('mlx-lm')}".encode(), digest_size=KEY_BYTES)
    files = sorted([*path.glob("*.json"), *path.glob(WEIGHT_FILES)])
    if lora_path is not None:
        files += sorted(Path(lora_path).glob("adapter*"))
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as content:
            for place in range(0, size, max(SAMPLE_BYTES, size // SAMPLES)):
                content.seek(place)
                digest.update(content.read(SAMPLE_BYTES))
    return digest.hexdigest()


def cannot_load(id: str, error: Exception) -> LoadError:
    """The error of this model, in one line."""
    return LoadError(f"model {id!r} cannot be loaded: {' '.join(str(error).split())}")
