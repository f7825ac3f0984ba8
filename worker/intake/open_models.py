"""The models whose files are open, and those whose files are being read for requests.

Nothing here is thread-safe: the preprocessor's lock guards it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from protocol.tokenization import Tokenize
from worker.intake.encoded_submit import EncodedRequest
from worker.models.model_config import ModelConfig

# Models that are open for their tokenizer alone: each has two tokenizers in memory.
MAX_UNLOADED = 2


class Arrival(NamedTuple):
    """A request, and when it was received (monotonic, in seconds)."""

    submit: EncodedRequest
    received_at: float


@dataclass(slots=True)
class ModelOpening:
    """A model whose files are being read, and the requests that wait for them.

    With `announce` a `ModelOpened` is delivered once they are read.
    """

    arrivals: list[Arrival] = field(default_factory=list)
    announce: bool = False

    @property
    def is_for_tokenizer(self) -> bool:
        """Whether they are read for the tokenizer alone, so that no weights are loaded."""
        return not self.announce and all(
            isinstance(submit, Tokenize) for submit, _ in self.arrivals
        )


class OpenModels:
    """The open models by id. Few are kept that are open for their tokenizer alone."""

    def __init__(self) -> None:
        self._models: dict[str, ModelConfig] = {}
        # The ids of those for the tokenizer alone, the most recently used last.
        self._for_tokenizer: dict[str, None] = {}

    def use(self, id: str, *, for_tokenizer: bool) -> ModelConfig | None:
        """The model, if it is open; other use than of its tokenizer keeps it open."""
        if id in self._for_tokenizer:
            del self._for_tokenizer[id]
            if for_tokenizer:
                self._for_tokenizer[id] = None
        return self._models.get(id)

    def add(self, config: ModelConfig, *, for_tokenizer: bool) -> ModelConfig | None:
        """Add a model; returns the one that is dropped for it, which the caller closes."""
        self._models[config.id] = config
        self._for_tokenizer.pop(config.id, None)
        if for_tokenizer:
            self._for_tokenizer[config.id] = None
        if len(self._for_tokenizer) <= MAX_UNLOADED:
            return None
        return self.remove(next(iter(self._for_tokenizer)))

    def remove(self, id: str) -> ModelConfig | None:
        """Remove and return a model, if it is open."""
        self._for_tokenizer.pop(id, None)
        return self._models.pop(id, None)
