"""A sequence on the device, with all that it takes to put it back in line."""

from __future__ import annotations

import dataclasses

import msgspec

from protocol.messages import Event
from worker.desk import Prepared
from worker.engine import Token
from worker.pool import ResidentModel
from worker.sequence import Sequence


@dataclasses.dataclass(slots=True)
class Running:
    """One sequence, its model, its request, and the tokens it got here."""

    model: ResidentModel
    prepared: Prepared
    sequence: Sequence
    tokens: list[int] = dataclasses.field(default_factory=list)

    @property
    def length(self) -> int:
        """Its tokens now: the prompt's and the answer's."""
        return len(self.prepared.context) + len(self.tokens)

    def accept(self, token: Token, now: float) -> list[Event]:
        """The events of its next token."""
        self.tokens.append(token.token)
        return self.sequence.accept(token, now)

    def set_back(self) -> Prepared:
        """The request as it goes on later: what was generated counts as delivered."""
        submit = self.prepared.submit
        resumed = msgspec.structs.replace(submit, resume=submit.resume + self.tokens)
        return dataclasses.replace(self.prepared, submit=resumed, started=True)
