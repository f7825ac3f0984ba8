"""The request fields of other servers, each with a value that changes something there.

Recorded from vLLM 0.11 (`ChatCompletionRequest`, `CompletionRequest`), llama.cpp b11434
(`tools/server/README.md`) and mlx-lm 0.32 (`server.py`), without those of OpenAI's API.
Those of `/tokenize` and `/apply-template` are of vLLM's and llama.cpp's main branches in 2026.
"""

from __future__ import annotations

from typing import Any

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}

VLLM: dict[str, Any] = {
    "add_generation_prompt": False,
    "add_special_tokens": True,
    "allowed_token_ids": [5],
    "bad_words": ["x"],
    "cache_salt": "x",
    "chat_template": "{{ messages }}",
    "chat_template_kwargs": {"enable_thinking": False},
    "continue_final_message": True,
    "documents": [{"title": "x", "text": "y"}],
    "echo": True,
    "guided_choice": ["a"],
    "guided_decoding_backend": "xgrammar",
    "guided_grammar": "root ::= 'a'",
    "guided_json": SCHEMA,
    "guided_regex": "a",
    "guided_whitespace_pattern": " ",
    "ignore_eos": True,
    "include_reasoning": False,
    "include_stop_str_in_output": True,
    "kv_transfer_params": {"a": 1},
    "length_penalty": 0.5,
    "logits_processors": ["x"],
    "min_p": 0.25,
    "min_tokens": 2,
    "mm_processor_kwargs": {"a": 1},
    "priority": 5,
    "prompt_embeds": "x",
    "prompt_logprobs": 1,
    "repetition_penalty": 1.5,
    "request_id": "x",
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "stop_token_ids": [5],
    "structural_tag": "{}",
    "structured_outputs": {"json": SCHEMA},
    "thinking_token_budget": 5,
    "top_k": 5,
    "truncate_prompt_tokens": 5,
    "use_beam_search": True,
    "vllm_xargs": {"a": 1},
}

VLLM_STRUCTURED_OUTPUTS: dict[str, Any] = {
    "choice": ["a"],
    "disable_additional_properties": True,
    "disable_any_whitespace": True,
    "disable_fallback": True,
    "grammar": 'start: "a"',
    "json": SCHEMA,
    "json_object": True,
    "regex": "a",
    "structural_tag": "{}",
    "whitespace_pattern": " ",
}

LLAMA_CPP: dict[str, Any] = {
    "cache_prompt": False,
    "dry_allowed_length": 3,
    "dry_base": 1.5,
    "dry_multiplier": 0.8,
    "dry_penalty_last_n": 5,
    "dry_sequence_breakers": ["x"],
    "dynatemp_exponent": 0.5,
    "dynatemp_range": 0.5,
    "grammar": 'root ::= "a"',
    "id_slot": 1,
    "ignore_eos": True,
    "input_prefix": "x",
    "input_suffix": "x",
    "json_schema": SCHEMA,
    "lora": [{"id": 0, "scale": 0.5}],
    "min_keep": 1,
    "min_p": 0.25,
    "mirostat": 1,
    "mirostat_eta": 0.5,
    "mirostat_tau": 1.0,
    "n_discard": 1,
    "n_indent": 1,
    "n_keep": 1,
    "n_predict": 5,
    "n_probs": 1,
    "parse_tool_calls": False,
    "post_sampling_probs": True,
    "reasoning_format": "none",
    "repeat_last_n": 5,
    "repeat_penalty": 1.5,
    "response_fields": ["content"],
    "return_progress": True,
    "return_tokens": True,
    "samplers": ["top_k"],
    "t_max_predict_ms": 5,
    "thinking_forced_open": True,
    "timings_per_token": True,
    "top_k": 5,
    "top_n_sigma": 1.0,
    "typical_p": 0.5,
    "xtc_probability": 0.5,
    "xtc_threshold": 0.2,
}

MLX_LM: dict[str, Any] = {
    "adapters": "x",
    "draft_model": "x",
    "num_draft_tokens": 3,
    "repetition_context_size": 5,
    "repetition_penalty": 1.5,
    "role_mapping": {"user": "x"},
    "xtc_probability": 0.5,
    "xtc_threshold": 0.2,
}

# Keys of a message that change the answer of vLLM, llama.cpp, Ollama, DeepSeek, Moonshot or Qwen.
MESSAGE_KEYS: dict[str, Any] = {
    "audio_url": {"url": "x"},
    "file": {"file_id": "x"},
    "image_url": {"url": "x"},
    "images": ["x"],
    "input_audio": {"data": "x", "format": "wav"},
    "partial": True,
    "prefix": True,
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "video": "x",
    "video_url": {"url": "x"},
}

# By the text that the fields are options of.
TOKENIZE: dict[str, dict[str, Any]] = {
    "prompt": {"add_special_tokens": False, "return_token_strs": True},
    "messages": {
        "add_generation_prompt": False,
        "add_special_tokens": True,
        "chat_template": "{{ messages }}",
        "chat_template_kwargs": {"enable_thinking": False},
        "continue_final_message": True,
        "media_io_kwargs": {"image": {"a": 1}},
        "mm_processor_kwargs": {"a": 1},
        "return_token_strs": True,
        "tools": [{"type": "function", "function": {"name": "f"}}],
    },
    "content": {"add_special": True, "parse_special": False, "with_pieces": True},
}
APPLY_TEMPLATE: dict[str, Any] = {
    "add_generation_prompt": False,
    "chat_template_kwargs": {"enable_thinking": False},
    "parallel_tool_calls": False,
    "reasoning_effort": "low",
    "reasoning_format": "none",
    "tool_choice": "required",
    "tools": [{"type": "function", "function": {"name": "f"}}],
}
