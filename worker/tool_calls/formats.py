"""The table of call syntaxes, and which of them a model has.

To add a syntax, add an entry to `json_formats.py` or `text_formats.py`, with the words of the
chat template that tell it, and a template in that manner to the tests.
"""

from __future__ import annotations

from collections.abc import Mapping

from mlx_lm.tokenizer_utils import TokenizerWrapper

from worker.tool_calls.json_formats import JSON_SYNTAXES
from worker.tool_calls.syntax import CallSyntax
from worker.tool_calls.text_formats import TEXT_SYNTAXES

# Where several apply, the first one counts.
SYNTAXES = (*TEXT_SYNTAXES, *JSON_SYNTAXES)
BY_NAME: Mapping[str, CallSyntax] = {syntax.name: syntax for syntax in SYNTAXES}


def find_syntax(tokenizer: TokenizerWrapper) -> CallSyntax | None:
    """The syntax of this tokenizer's model; None if its files tell none.

    It is the one whose words the chat template has, else the one that mlx-lm infers.
    """
    template = tokenizer.chat_template
    if isinstance(template, str):
        for syntax in SYNTAXES:
            if syntax.is_told_by(template):
                return syntax
    if not tokenizer.has_tool_calling:
        return None
    return BY_NAME.get(tokenizer.init_kwargs["tool_parser_type"])
