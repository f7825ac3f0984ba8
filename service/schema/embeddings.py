"""/v1/embeddings: OpenAI's shapes, with Cohere's `input_type`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from protocol.embedding import InputType
from service.errors import InvalidRequest
from service.schema.parameter_table import HONOURED, METADATA, Parameter
from service.schema.parameters import Priority, TokenId
from service.schema.usage import TextsUsage

MAX_TEXTS = 2048
MAX_DIMENSIONS = 2**20

# As a text is one, or a list of token ids.
Inputs = Annotated[
    str | list[str | TokenId | list[TokenId]],
    Meta(
        description=f"A text, or 1 to {MAX_TEXTS} texts, none of them empty. Token ids are refused "
        "(setting `embedding_token_ids`)."
    ),
]
Dimensions = Annotated[
    int,
    Meta(
        ge=1,
        le=MAX_DIMENSIONS,
        description="The length of the vectors: that of the model, or one that it is trained for.",
    ),
]
ModelName = Annotated[str, Meta(description="The first embedding model without it.")]
TextType = Annotated[
    InputType,
    Meta(
        description="Puts the model's own prompt for a query or a document before each text. "
        "Not in OpenAI's API."
    ),
]

PARAMETERS: dict[str, Parameter] = {
    "dimensions": HONOURED,
    "encoding_format": HONOURED,
    "input": HONOURED,
    "input_type": HONOURED,
    "model": HONOURED,
    "priority": HONOURED,
    "user": METADATA,
}


class EmbeddingsRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Texts to embed."""

    parameters: ClassVar[Mapping[str, Parameter]] = PARAMETERS

    input: Inputs
    model: ModelName | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Dimensions | None = None
    user: str | None = None
    input_type: TextType | None = None
    priority: Priority | None = None

    @property
    def texts(self) -> list[str | list[int]]:
        """The texts, each a string or token ids; valid after `check`."""
        if isinstance(self.input, str):
            return [self.input]
        if isinstance(self.input[0], int):
            return [[token for token in self.input if isinstance(token, int)]]
        return [text for text in self.input if not isinstance(text, int)]

    @property
    def has_tokens(self) -> bool:
        """Whether the texts are token ids; valid after `check`."""
        return not isinstance(self.texts[0], str)

    def check(self) -> None:
        """Check the rules beyond the types.

        Raises:
            InvalidRequest: a rule is broken; the error names the parameter.
        """
        if isinstance(self.input, str):
            check_text(self.input, "input")
            return
        if not self.input:
            raise InvalidRequest("`input` has no text.", param="input", code="invalid_value")
        kind = type(self.input[0])
        for index, text in enumerate(self.input):
            if type(text) is not kind:
                message = f"`input[{index}]` is of another type than the texts before it."
                raise InvalidRequest(message, param=f"input[{index}]", code="invalid_type")
            if not isinstance(text, int):
                check_text(text, f"input[{index}]")
        if kind is not int and len(self.input) > MAX_TEXTS:
            message = f"`input` has {len(self.input)} texts; the most are {MAX_TEXTS}."
            raise InvalidRequest(message, param="input", code="array_above_max_length")


def check_text(text: Sequence[object], param: str) -> None:
    """Refuse an empty text.

    Raises:
        InvalidRequest: it is empty.
    """
    if not text:
        message = f"`{param}` is empty: an embedding needs a text."
        raise InvalidRequest(message, param=param, code="invalid_value")


class Embedding(msgspec.Struct, frozen=True, kw_only=True):
    """One vector: numbers, or with `base64` their float32 bytes in little-endian order."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(msgspec.Struct, frozen=True):
    """The tokens of all texts, with those that the model adds."""

    prompt_tokens: int
    total_tokens: int
    mlxd: TextsUsage


class EmbeddingList(msgspec.Struct, frozen=True, kw_only=True):
    """The vectors of the texts, in their order."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
