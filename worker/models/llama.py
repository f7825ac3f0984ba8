"""The Llama family: Llama 3's stop tokens, chat template and tool calls.

Llama 3 ends turns with tokens that config.json may not name. It writes tool calls as JSON,
bare or after `<|python_tag|>`; several are joined by semicolons. It may also call a declared
tool like its built-in ones, `<|python_tag|>name.call(key="value")`, in a Python list (3.2, 4),
or as `<function=name>{"key": "value"}</function>` (3.1).

Source: Meta's description of the Llama 3 prompt format. Llama 2 and many other models also
have this `model_type`; they lack these tokens, and none of this applies to them.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlx_lm.tokenizer_utils import TokenizerWrapper

from worker.tool_calls.json_formats import BARE_JSON, FUNCTION_TAG, PYTHON_TAG
from worker.tool_calls.syntax import CallSyntax
from worker.tool_calls.text_formats import PYTHON_LIST

END_OF_TURN = "<|eot_id|>"
END_OF_TEXT = "<|end_of_text|>"
END_OF_MESSAGE = "<|eom_id|>"
HEADER_START = "<|start_header_id|>"
HEADER_END = "<|end_header_id|>"

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    f"{HEADER_START}{{{{ message['role'] }}}}{HEADER_END}\n\n"
    "{{ message['content'] | trim }}"
    f"{END_OF_TURN}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    f"{HEADER_START}assistant{HEADER_END}\n\n"
    "{% endif %}"
)


# The preferred one first.
CALL_SYNTAXES = (BARE_JSON, PYTHON_TAG, PYTHON_LIST, FUNCTION_TAG)


class LlamaFamily:
    """Llama 3's stop tokens and tool calls, and its template for models that have none."""

    def stop_tokens(self, tokenizer: TokenizerWrapper) -> set[int]:
        vocabulary = tokenizer.get_vocab()
        stop_tokens = (END_OF_TURN, END_OF_TEXT, END_OF_MESSAGE)
        return {vocabulary[token] for token in stop_tokens if token in vocabulary}

    def chat_template(self, tokenizer: TokenizerWrapper) -> str | None:
        vocabulary = tokenizer.get_vocab()
        required = (HEADER_START, HEADER_END, END_OF_TURN)
        return CHAT_TEMPLATE if all(token in vocabulary for token in required) else None

    def call_syntaxes(self, tokenizer: TokenizerWrapper) -> Sequence[CallSyntax]:
        return CALL_SYNTAXES if HEADER_START in tokenizer.get_vocab() else ()
