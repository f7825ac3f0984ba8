"""A running request: on the device, with all that preemption needs to queue it again."""

from __future__ import annotations

import dataclasses

import msgspec

from protocol.messages import Event
from worker.engine.engine import Token
from worker.engine.sampler import Constraint, effective_stop_token_ids, make_row
from worker.engine.token_logprobs import PromptScorer
from worker.intake.prepared import PreparedRequest
from worker.models.weight_loader import LoadedModel
from worker.outputs.output_processor import OutputProcessor
from worker.outputs.text import Text
from worker.outputs.tool_constraint import ToolCallConstraint


@dataclasses.dataclass(slots=True)
class RunningRequest:
    """One request on the device, its model, and the tokens it got since it was admitted."""

    model: LoadedModel
    prepared: PreparedRequest
    output: OutputProcessor
    tokens: list[int] = dataclasses.field(default_factory=list)

    @property
    def length(self) -> int:
        """Its tokens now: the prompt's and the answer's."""
        return len(self.prepared.context) + len(self.tokens)

    @property
    def tokens_left(self) -> int:
        """How many tokens to draw; at least 1 before the first step.

        One is drawn, and dropped, where an answer of no tokens was requested.
        """
        generated = len(self.prepared.submit.resume) + len(self.tokens)
        return max(self.prepared.max_tokens, 1) - generated

    def process(self, token: Token, now: float) -> list[Event]:
        """The events of the next token."""
        self.tokens.append(token.token)
        return self.output.process(token, now)

    def preempt(self) -> PreparedRequest:
        """The request as it goes on later: what was generated counts as delivered."""
        submit = self.prepared.submit
        resumed = msgspec.structs.replace(submit, resume=submit.resume + self.tokens)
        return dataclasses.replace(self.prepared, submit=resumed, started=True)


def make_output_processor(model: LoadedModel, prepared: PreparedRequest) -> OutputProcessor:
    """The output of this request, replayed up to the tokens that were delivered before."""
    submit, config = prepared.submit, model.config
    text = config.parsers.create(submit, prepared.prompt)
    stop_token_ids = effective_stop_token_ids(submit.sampling, config.stop_tokens)
    row = make_row(
        submit.sampling,
        config.stop_tokens,
        prompt=prepared.prompt,
        resume=submit.resume,
        constraint=make_constraint(prepared, text, stop_token_ids),
        logprobs=submit.logprobs,
        scorer=make_scorer(prepared),
    )
    return OutputProcessor(
        submit,
        prompt=prepared.prompt,
        drops_first_token=prepared.max_tokens == 0,
        echo=prepared.echo,
        row=row,
        text=text,
        token_bytes=config.token_bytes,
        fingerprint=config.fingerprint,
        received_at=prepared.received_at,
    )


def make_constraint(
    prepared: PreparedRequest, text: Text, stop_token_ids: frozenset[int]
) -> Constraint | None:
    """What limits its tokens: the grammar of the whole answer, or that of offered calls in it."""
    if prepared.grammar is None:
        return None
    if prepared.offered_calls is None:
        return prepared.grammar.create_constraint()
    return ToolCallConstraint(text, prepared.grammar, stop_token_ids)


def make_scorer(prepared: PreparedRequest) -> PromptScorer | None:
    """What scores the prompt, where log-probabilities were requested and not delivered yet."""
    count = prepared.submit.prompt_logprobs
    if count is None or prepared.submit.resume:
        return None
    return PromptScorer(prepared.prompt, count)
