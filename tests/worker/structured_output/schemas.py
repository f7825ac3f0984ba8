"""Random JSON schemas that some text matches, each of limited length."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]

MAX_CHARS = 12
MAX_ITEMS = 4
NAMES = st.sampled_from(["a", "name", "größe", 'quo"te', "back\\slash", "😀", "x y", "$ref"])
PATTERNS = st.sampled_from(
    ["^[a-z]{1,8}$", "^(yes|no|\\d{2})$", "^[^\"\\\\]{2,6}$", "^[A-ZÄ]\\w{0,5}$", "^a.b$"]
)  # fmt: skip
CONSTANTS = st.one_of(
    st.none(), st.booleans(), st.integers(-999, 999), st.text(max_size=MAX_CHARS), NAMES
)


@st.composite
def strings(draw: st.DrawFn) -> Schema:
    minimum = draw(st.integers(0, MAX_CHARS))
    return {
        "type": "string",
        "minLength": minimum,
        "maxLength": draw(st.integers(minimum, MAX_CHARS)),
    }


@st.composite
def numbers(draw: st.DrawFn) -> Schema:
    minimum = draw(st.integers(-1000, 1000))
    maximum = draw(st.integers(minimum + 2, minimum + 2000))
    lower = draw(st.sampled_from(["minimum", "exclusiveMinimum"]))
    upper = draw(st.sampled_from(["maximum", "exclusiveMaximum"]))
    return {"type": draw(st.sampled_from(["integer", "number"])), lower: minimum, upper: maximum}


def choices() -> st.SearchStrategy[Schema]:
    """A choice of values, a constant, or a type with few values."""
    several = st.lists(CONSTANTS, min_size=1, max_size=5, unique_by=repr)
    return st.one_of(
        st.builds(lambda values: {"enum": values}, several),
        st.builds(lambda value: {"const": value}, CONSTANTS),
        st.sampled_from([{"type": "null"}, {"type": "boolean"}, {"type": ["boolean", "null"]}]),
        st.builds(lambda pattern: {"type": "string", "pattern": pattern}, PATTERNS),
    )


@st.composite
def arrays(draw: st.DrawFn, items: st.SearchStrategy[Schema]) -> Schema:
    minimum = draw(st.integers(0, MAX_ITEMS))
    schema: Schema = {
        "type": "array",
        "items": draw(items),
        "minItems": minimum,
        "maxItems": draw(st.integers(minimum, MAX_ITEMS)),
    }
    if draw(st.booleans()):
        schema["prefixItems"] = draw(st.lists(items, min_size=1, max_size=3))
    return schema


@st.composite
def objects(draw: st.DrawFn, values: st.SearchStrategy[Schema], minimum: int = 0) -> Schema:
    properties = draw(st.dictionaries(NAMES, values, min_size=minimum, max_size=4))
    required = [name for name in properties if draw(st.booleans())]
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def containers(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    """Arrays, objects and unions of the inner schemas."""
    alternatives = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        arrays(inner), objects(inner), st.builds(lambda parts: {"anyOf": parts}, alternatives)
    )


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    """An object, whose end ends the answer, with a definition that it may refer to."""
    leaves = st.one_of(strings(), numbers(), choices())
    reference = st.just({"$ref": "#/$defs/shared"})
    inner = st.recursive(st.one_of(leaves, reference), containers, max_leaves=8)
    return {**draw(objects(inner, 1)), "$defs": {"shared": draw(leaves)}}
