"""The preparation process: `python -m worker.intake.preparation_child FD`.

It prepares large prompts, one at a time, with a tokenizer of its own. The worker can end it at
any moment, and its memory is its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import sys
from collections import OrderedDict
from multiprocessing.connection import Connection

import msgspec

from worker.open_files import open_files_limit_kept
from worker.transformers_scan import models_scanned_once

with open_files_limit_kept(), models_scanned_once():
    from protocol.embedding import Embed
    from protocol.events import Rejected, Tokenized
    from protocol.tokenization import Tokenize
    from worker.intake.encoded_submit import EncodedRequest
    from worker.intake.prepared import (
        PreparedPrompt,
        prepare_prompt,
        prepare_texts,
        tokenize_prompt,
    )
    from worker.intake.prepared_texts import PreparedTexts
    from worker.isolation.parent_watch import watch_parent
    from worker.isolation.resource_limits import set_soft_limit
    from worker.memory.footprint import trim_heap
    from worker.models.families import build_registry
    from worker.models.model_config import ModelConfigLoader, PromptModel, PromptParts

READY = b"ready"
# A smaller prompt is tokenized sooner than the bound on its tokens is made for the first time.
CHECKED_BYTES = 1024 * 1024
NICENESS = 5
MAX_MODELS = 2


class ChildRequest(msgspec.Struct, frozen=True, array_like=True):
    """A request to prepare, with the model that it is for."""

    model: PromptModel
    submit: EncodedRequest
    wants_breakpoints: bool
    enforces_calls: bool


Answer = PreparedPrompt | PreparedTexts | Tokenized | Rejected
REQUEST_DECODER = msgspec.msgpack.Decoder(ChildRequest)
ANSWER_DECODER: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


class PromptModels:
    """The most recently used models."""

    def __init__(self) -> None:
        self._loader = ModelConfigLoader(build_registry(), context_limit_tokens=0)
        self._models: OrderedDict[bytes, PromptParts] = OrderedDict()

    def get(self, model: PromptModel) -> PromptParts:
        """What prepares this model's prompts; read from its files at the first time."""
        key = msgspec.msgpack.encode(model)
        if key not in self._models:
            self._models[key] = self._loader.load_prompts(model)
            while len(self._models) > MAX_MODELS:
                self._models.popitem(last=False)
        self._models.move_to_end(key)
        return self._models[key]


def main(connection: Connection, memory_limit_bytes: int) -> None:
    """Send an answer for each request received, until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
    watch_parent()
    set_soft_limit(resource.RLIMIT_CORE, 0)
    # The worker ends this process at its limit; this is for what is faster than its looks.
    set_soft_limit(resource.RLIMIT_DATA, 2 * memory_limit_bytes)
    models = PromptModels()
    with contextlib.suppress(EOFError, OSError):
        connection.send_bytes(READY)
        while True:
            connection.send_bytes(answer(models, connection.recv_bytes()))
            trim_heap()


def answer(models: PromptModels, encoded: bytes) -> bytes:
    """The encoded answer to one encoded request."""
    request = REQUEST_DECODER.decode(encoded)
    prompts, parsers, texts = models.get(request.model)
    if isinstance(request.submit, Tokenize):
        return msgspec.msgpack.encode(tokenize_prompt(prompts, request.submit))
    if isinstance(request.submit, Embed):
        limit_tokens = request.model.context_length
        return msgspec.msgpack.encode(prepare_texts(texts, request.submit, limit_tokens))
    prepared = prepare_prompt(
        prompts,
        parsers,
        request.submit.decode(),
        wants_breakpoints=request.wants_breakpoints,
        enforces_calls=request.enforces_calls,
        is_large=request.submit.nbytes > CHECKED_BYTES,
    )
    return msgspec.msgpack.encode(prepared)


if __name__ == "__main__":
    logging.basicConfig(format="preparation: %(levelname)s %(name)s: %(message)s")
    # It warns about every prompt over the context length; those are rejected here.
    logging.getLogger("transformers").setLevel(logging.ERROR)
    main(Connection(int(sys.argv[1])), int(sys.argv[2]))
