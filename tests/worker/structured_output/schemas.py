"""Random JSON schemas that allow something, and nothing without end."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]

MOST_CHARS = 12
MOST_ITEMS = 4
NAMES = st.sampled_from(["a", "name", "größe", 'quo"te', "back\\slash", "😀", "x y", "$ref"])
PATTERNS = st.sampled_from(
    ["^[a-z]{1,8}$", "^(yes|no|\\d{2})$", "^[^\"\\\\]{2,6}$", "^[A-ZÄ]\\w{0,5}$", "^a.b$"]
)  # fmt: skip
CONSTANTS = st.one_of(
    st.none(), st.booleans(), st.integers(-999, 999), st.text(max_size=MOST_CHARS), NAMES
)


@st.composite
def strings(draw: st.DrawFn) -> Schema:
    least = draw(st.integers(0, MOST_CHARS))
    return {
        "type": "string",
        "minLength": least,
        "maxLength": draw(st.integers(least, MOST_CHARS)),
    }


@st.composite
def numbers(draw: st.DrawFn) -> Schema:
    least = draw(st.integers(-1000, 1000))
    most = draw(st.integers(least + 2, least + 2000))
    lower = draw(st.sampled_from(["minimum", "exclusiveMinimum"]))
    upper = draw(st.sampled_from(["maximum", "exclusiveMaximum"]))
    return {"type": draw(st.sampled_from(["integer", "number"])), lower: least, upper: most}


def choices() -> st.SearchStrategy[Schema]:
    """Values to choose from, one, or a type with few."""
    several = st.lists(CONSTANTS, min_size=1, max_size=5, unique_by=repr)
    return st.one_of(
        st.builds(lambda values: {"enum": values}, several),
        st.builds(lambda value: {"const": value}, CONSTANTS),
        st.sampled_from([{"type": "null"}, {"type": "boolean"}, {"type": ["boolean", "null"]}]),
        st.builds(lambda pattern: {"type": "string", "pattern": pattern}, PATTERNS),
    )


@st.composite
def arrays(draw: st.DrawFn, items: st.SearchStrategy[Schema]) -> Schema:
    least = draw(st.integers(0, MOST_ITEMS))
    schema: Schema = {
        "type": "array",
        "items": draw(items),
        "minItems": least,
        "maxItems": draw(st.integers(least, MOST_ITEMS)),
    }
    if draw(st.booleans()):
        schema["prefixItems"] = draw(st.lists(items, min_size=1, max_size=3))
    return schema


@st.composite
def objects(draw: st.DrawFn, values: st.SearchStrategy[Schema], least: int = 0) -> Schema:
    properties = draw(st.dictionaries(NAMES, values, min_size=least, max_size=4))
    required = [name for name in properties if draw(st.booleans())]
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def containers(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    """Schemas of the parts' schemas."""
    either = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        arrays(inner), objects(inner), st.builds(lambda parts: {"anyOf": parts}, either)
    )


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    """An object, so that an answer has an end, with a definition that it may refer to."""
    leaves = st.one_of(strings(), numbers(), choices())
    refer = st.just({"$ref": "#/$defs/shared"})
    inner = st.recursive(st.one_of(leaves, refer), containers, max_leaves=8)
    return {**draw(objects(inner, 1)), "$defs": {"shared": draw(leaves)}}
