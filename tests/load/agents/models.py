"""The trace's tiny models: random weights, a long context, and a template with tools.

Their tokenizer is trained on the trace's own texts, so that a word is a token or two as in
published models.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.load.agents.script import MANNERS, Session, Shape
from tests.models.architectures.making import build, write_json
from tests.models.architectures.sizes import Config
from tests.models.architectures.table import config_of
from tests.models.tokenizers import BYTE_LEVEL_PIECES

CONTEXT_TOKENS = 40_960
WINDOW_TOKENS = 512
LEARNED_TOKENS = 3000
VOCABULARY_SIZE = 3072
STOP_TOKEN = "<|im_end|>"
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", STOP_TOKEN)

# In the manner of Qwen 3: tools after the instructions, calls as JSON between tags, results as
# messages of the user, and reasoning only in the turns after the last message of the user.
TEMPLATE = """\
{%- macro text(content) -%}
{%- if content is string -%}{{ content }}{%- else -%}
{%- for part in content or [] -%}{{ part.text }}{%- endfor -%}{%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(last=-1) -%}
{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- set first = messages[0] -%}
{%- if first.role == 'system' or tools -%}
<|im_start|>system
{% if first.role == 'system' %}{{ text(first.content) }}{% endif %}
{%- if tools %}

# Tools

You may call functions. Their signatures are within <tools></tools> tags:
<tools>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
</tools>

For each call return JSON within <tool_call></tool_call> tags:
<tool_call>
{"name": <name>, "arguments": <arguments>}
</tool_call>
{%- endif %}<|im_end|>
{% endif %}
{%- for m in messages -%}
{%- if m.role == 'system' and loop.first -%}
{%- elif m.role == 'tool' -%}
<|im_start|>user
<tool_response>
{{ text(m.content) }}
</tool_response><|im_end|>
{% elif m.role == 'assistant' -%}
<|im_start|>assistant
{% if m.reasoning_content and loop.index0 > ns.last -%}
<think>
{{ m.reasoning_content }}
</think>

{% endif %}{{ text(m.content) }}
{%- for tool_call in m.tool_calls or [] %}
{%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
<tool_call>
{"name": "{{ tool_call.name }}", "arguments": {{ tool_call.arguments if
tool_call.arguments is string else tool_call.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% else -%}
<|im_start|>{{ m.role }}
{{ text(m.content) }}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

FAMILIES: dict[str, Config] = {
    "plain": {"model_type": "llama"},
    "window": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 4,
        "query_pre_attn_scalar": 16,
        "sliding_window_pattern": 2,
        "sliding_window": WINDOW_TOKENS,
    },
    "hybrid": {"model_type": "lfm2"},
    "mamba": {"model_type": "granitemoehybrid"},
}


def make(family: str, folder: Path, *, context_tokens: int = CONTEXT_TOKENS) -> Path:
    """Write a family's model to a folder in `folder`, and return that."""
    named = FAMILIES[family]
    config = {
        **config_of(named["model_type"]),
        "vocab_size": VOCABULARY_SIZE,
        "max_position_embeddings": context_tokens,
        **named,
    }
    path = folder / family
    path.mkdir(parents=True)
    tokenizer = make_tokenizer()
    weights = dict(tree_flatten(build(config).parameters()))
    mx.save_safetensors(str(path / "model.safetensors"), weights, metadata={"format": "mlx"})
    tokenizer.save(str(path / "tokenizer.json"))
    write_json(path / "config.json", {**config, "eos_token_id": tokenizer.token_to_id(STOP_TOKEN)})
    write_json(path / "tokenizer_config.json", tokenizer_config(context_tokens))
    return path


def tokenizer_config(context_tokens: int) -> dict[str, Any]:
    """tokenizer_config.json."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": STOP_TOKEN,
        "pad_token": SPECIAL_TOKENS[0],
        "model_max_length": context_tokens,
        "chat_template": TEMPLATE,
    }


def make_tokenizer() -> Tokenizer:
    """A byte-level BPE tokenizer of the trace's texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(BYTE_LEVEL_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=LEARNED_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample_texts(), trainer)
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL_TOKENS])
    return tokenizer


def sample_texts() -> Iterator[str]:
    """The texts of a session, and its tools."""
    for step in Session("sample", MANNERS[0], Shape(turns=8)).steps():
        yield json.dumps([step.requests[0].messages, step.requests[0].tools])
