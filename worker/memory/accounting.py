"""What is reserved of the memory budget: weights, KV caches of sequences, prompt cache."""

from __future__ import annotations

from collections.abc import Iterable

from protocol.units import format_bytes
from worker.cache.prefix_cache import PrefixCache
from worker.memory.budget import Budget
from worker.memory.kv_cost import KVCost
from worker.memory.preparation import PreparationMemory


class KVReservations:
    """The KV cache reserved for each sequence of one model, in tokens, by sequence id.

    In a batch each row is padded to the longest; rows that are `alone` are not padded.
    """

    def __init__(self, cost: KVCost, *, alone: bool = False) -> None:
        self.cost = cost
        self._alone = alone
        # Stored because it is read several times a step.
        self.reserved_bytes = 0
        self._tokens: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def additional_bytes(self, id: int, tokens: int) -> int:
        """How many bytes a reservation of `tokens` tokens for this sequence would add."""
        return self._batch_bytes({**self._tokens, id: tokens}) - self.reserved_bytes

    def reserved_tokens(self, id: int) -> int:
        """The tokens reserved for this sequence; 0 for an unknown id."""
        return self._tokens.get(id, 0)

    def reserve(self, id: int, tokens: int) -> None:
        """Set the reservation of this sequence to `tokens` tokens."""
        self._tokens[id] = tokens
        self.reserved_bytes = self._batch_bytes(self._tokens)

    def release(self, ids: Iterable[int]) -> None:
        """Remove the reservations of these sequences; unknown ids are ignored."""
        for id in ids:
            self._tokens.pop(id, None)
        self.reserved_bytes = self._batch_bytes(self._tokens)

    def set_alone(self, alone: bool) -> None:
        """Whether its rows are not padded, from now on."""
        self._alone = alone
        self.reserved_bytes = self._batch_bytes(self._tokens)

    def _batch_bytes(self, tokens: dict[int, int]) -> int:
        if self._alone:
            return sum(self.cost.batch_bytes(1, each) for each in tokens.values())
        return self.cost.batch_bytes(len(tokens), max(tokens.values(), default=0))


class MemoryAccount:
    """What is reserved of one budget; `weight_bytes` and `kv` are by model id."""

    def __init__(
        self,
        budget: Budget,
        prompt_cache: PrefixCache,
        preparation: PreparationMemory | None = None,
    ) -> None:
        self.budget = budget
        self.preparation = preparation or PreparationMemory()
        self.prompt_cache = prompt_cache
        self.weight_bytes: dict[str, int] = {}
        self.kv: dict[str, KVReservations] = {}

    @property
    def kv_bytes(self) -> int:
        """The KV caches reserved for the sequences of all models."""
        return sum(kv.reserved_bytes for kv in self.kv.values())

    @property
    def reserved_bytes(self) -> int:
        """Weights, KV caches and preparation, without the prompt cache.

        The prompt cache can be freed at any time.
        """
        weight_bytes = sum(self.weight_bytes.values())
        return weight_bytes + self.kv_bytes + self.preparation.reserved_bytes

    @property
    def available_bytes(self) -> int:
        """What can still be reserved, the prompt cache's bytes included."""
        return self.budget.for_models - self.reserved_bytes

    def shrink_prompt_cache(self, nbytes: int) -> None:
        """Free `nbytes` bytes of the prompt cache, or all of it if it has fewer."""
        if nbytes > 0:
            self.prompt_cache.shrink(max(0, self.prompt_cache.nbytes - nbytes))

    def fit_prompt_cache(self, slack_bytes: int = 0) -> None:
        """Shrink the prompt cache to the available bytes, beside the slack of batches."""
        available_bytes = self.available_bytes - slack_bytes
        self.shrink_prompt_cache(self.prompt_cache.nbytes - available_bytes)

    def describe(self) -> str:
        """What the budget holds, as text for people."""
        budget = self.budget
        parts = [f"{id} {format_bytes(size)}" for id, size in self.weight_bytes.items()]
        others = {
            "running sequences": self.kv_bytes,
            "prefill": budget.prefill,
            "prompts in preparation": self.preparation.reserved_bytes,
            "the process itself": budget.base,
        }
        parts += [f"{name} {format_bytes(size)}" for name, size in others.items() if size]
        return f"the budget of {format_bytes(budget.limit)} holds {', '.join(parts)}"
