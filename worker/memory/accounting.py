"""What the budget is spent on: weights, KV caches promised to sequences, prompt cache."""

from __future__ import annotations

from collections.abc import Iterable

from protocol.units import format_bytes
from worker.cache.kv_cost import KVCost
from worker.cache.prefix_cache import PrefixCache
from worker.memory.budget import Budget


class KVReservations:
    """The KV caches promised to the sequences of one model, by their ids, in tokens."""

    def __init__(self, cost: KVCost) -> None:
        self.cost = cost
        # All of them together, each as long as the longest; asked for several times a step.
        self.nbytes = 0
        self._tokens: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def additional_bytes(self, id: int, tokens: int) -> int:
        """How many bytes more they would be if this one had so many tokens."""
        return self._batch_bytes({**self._tokens, id: tokens}) - self.nbytes

    def reserved_tokens(self, id: int) -> int:
        """The tokens promised to this sequence; 0 if there is none of this id."""
        return self._tokens.get(id, 0)

    def reserve(self, id: int, tokens: int) -> None:
        """Let this sequence have so many tokens."""
        self._tokens[id] = tokens
        self.nbytes = self._batch_bytes(self._tokens)

    def release(self, ids: Iterable[int]) -> None:
        """These are gone; unknown ids are ignored."""
        for id in ids:
            self._tokens.pop(id, None)
        self.nbytes = self._batch_bytes(self._tokens)

    def _batch_bytes(self, tokens: dict[int, int]) -> int:
        return self.cost.batch_bytes(len(tokens), max(tokens.values(), default=0))


class MemoryAccount:
    """The account of one budget, by model id."""

    def __init__(self, budget: Budget, prompt_cache: PrefixCache) -> None:
        self.budget = budget
        self.prompt_cache = prompt_cache
        self.weights: dict[str, int] = {}
        self.kv: dict[str, KVReservations] = {}

    @property
    def spent(self) -> int:
        """All but the prompt cache, which can be given up at once."""
        return sum(self.weights.values()) + sum(rows.nbytes for rows in self.kv.values())

    @property
    def room(self) -> int:
        """What is left, were the prompt cache given up."""
        return self.budget.for_models - self.spent

    def shrink_prompt_cache(self, nbytes: int) -> None:
        """Take so many bytes from the prompt cache, or all it has."""
        if nbytes > 0:
            self.prompt_cache.shrink(max(0, self.prompt_cache.nbytes - nbytes))

    def fit_prompt_cache(self) -> None:
        """Keep the prompt cache within what is left."""
        self.shrink_prompt_cache(self.prompt_cache.nbytes - self.room)

    def describe(self) -> str:
        """Who holds how much, in words."""
        budget = self.budget
        parts = [f"{id} {format_bytes(size)}" for id, size in self.weights.items()]
        kv = sum(rows.nbytes for rows in self.kv.values())
        others = {
            "running sequences": kv,
            "prefill": budget.prefill,
            "the process itself": budget.base,
        }
        parts += [f"{name} {format_bytes(size)}" for name, size in others.items() if size]
        return f"of {format_bytes(budget.limit)} are held: {', '.join(parts)}"
