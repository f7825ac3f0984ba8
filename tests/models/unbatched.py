"""Tiny models that mlx-lm cannot batch, or computes wrongly in a batch of unlike rows."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from tests.models import templates, tokenizers

VOCABULARY_SIZE = 512
STOP_TOKEN = "<|im_end|>"
MATRIX_DEVIATION = 2.5  # over the square root of the number of inputs

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "mamba": {
        **SIZES,
        "state_size": 8,
        "num_hidden_layers": 2,
        "conv_kernel": 4,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_rank": 4,
    },
    "jamba": {
        **SIZES,
        "num_hidden_layers": 4,
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
        "mamba_d_conv": 4,
        "mamba_d_state": 8,
        "mamba_expand": 2,
        "num_experts": 2,
        "num_experts_per_tok": 1,
    },
    "nemotron_h": {
        **SIZES,
        "attention_bias": False,
        "mamba_num_heads": 4,
        "mamba_head_dim": 32,
        "mamba_proj_bias": False,
        "ssm_state_size": 32,
        "conv_kernel": 4,
        "n_groups": 2,
        "mlp_bias": False,
        "layer_norm_epsilon": 1e-5,
        "use_bias": False,
        "use_conv_bias": True,
        "hybrid_override_pattern": ["M", "-", "*", "M"],
        "head_dim": 16,
        "time_step_limit": [0.01, 10.0],
    },
    "rwkv7": {
        **SIZES,
        "norm_eps": 1e-5,
        "head_dim": 16,
        "num_hidden_layers": 2,
        "a_low_rank_dim": 8,
        "v_low_rank_dim": 8,
        "gate_low_rank_dim": 8,
        "decay_low_rank_dim": 8,
    },
    "recurrent_gemma": {
        **SIZES,
        "attention_bias": False,
        "conv1d_width": 4,
        "logits_soft_cap": 30.0,
        "num_hidden_layers": 3,
        "num_key_value_heads": 1,
        "rope_theta": 10000.0,
        "attention_window_size": 64,
        "block_types": ["recurrent", "recurrent", "attention"],
    },
    "olmo_hybrid": {
        **SIZES,
        "num_hidden_layers": 4,
        "linear_num_key_heads": 4,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_conv_kernel_dim": 4,
        "linear_allow_neg_eigval": True,
        "tie_word_embeddings": False,
        "attention_bias": False,
    },
    "gpt_bigcode": {
        "vocab_size": VOCABULARY_SIZE,
        "n_embd": 64,
        "n_layer": 2,
        "n_inner": 128,
        "n_head": 4,
        "n_positions": 1024,
        "layer_norm_epsilon": 1e-5,
    },
    "llama4": {
        "vocab_size": VOCABULARY_SIZE,
        "max_position_embeddings": 4096,
        "text_config": {
            **SIZES,
            "model_type": "llama4",
            "head_dim": 16,
            "attention_bias": False,
            "attention_chunk_size": 64,
            "interleave_moe_layer_step": 2,
            "intermediate_size_mlp": 128,
            "num_experts_per_tok": 1,
            "num_local_experts": 2,
            "rope_theta": 10000.0,
            "rope_scaling": None,
            "use_qk_norm": True,
            "num_hidden_layers": 4,
        },
    },
    "deepseek_v41": {
        **SIZES,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "head_dim": 32,
        "q_lora_rank": 32,
        "qk_rope_head_dim": 16,
        "o_groups": 2,
        "o_lora_rank": 16,
        "moe_intermediate_size": 64,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 16,
        "compress_ratios": [0, 4, 4],
        "kv_source_layer_ids": [0, 1, 1],
        "index_source_layer_ids": [0, 1, 1],
        "index_n_heads": 2,
        "index_head_dim": 32,
        "index_topk": 8,
        "hc_mult": 2,
    },
}


def make_model(model_type: str) -> nn.Module:
    """The model in float32, with weights that make every part of it count."""
    config = {"model_type": model_type, **CONFIGS[model_type]}
    module = importlib.import_module(f"mlx_lm.models.{model_type}")
    # For its biases, which stay as they are.
    mx.random.seed(1)
    model: nn.Module = module.Model(module.ModelArgs.from_dict(json.loads(json.dumps(config))))
    generator = np.random.default_rng(1)
    values = []
    for name, value in tree_flatten(model.parameters()):
        if value.ndim > 1 and mx.issubdtype(value.dtype, mx.floating):
            is_wide = "embed" in name or (value.ndim == 3 and "conv" in name)
            deviation = 1.0 if is_wide else MATRIX_DEVIATION / float(np.sqrt(value.shape[-1]))
            drawn = generator.normal(0.0, deviation, value.shape).astype(np.float32)
            value = mx.array(drawn).astype(value.dtype)
        values.append((name, value))
    model.update(tree_unflatten(values))
    mx.eval(model.parameters())
    return model


def make(model_type: str, folder: Path) -> Path:
    """Write a model with a tokenizer to `folder`, which must not exist yet."""
    folder.mkdir(parents=True)
    tokenizer = tokenizers.byte_level(0, ["<|im_start|>", STOP_TOKEN], bos=None, nfc=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": STOP_TOKEN,
        "pad_token": STOP_TOKEN,
        "model_max_length": 4096,
        "chat_template": templates.QWEN,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    stop_token_id = tokenizer.token_to_id(STOP_TOKEN)
    config = {"model_type": model_type, **CONFIGS[model_type], "eos_token_id": stop_token_id}
    (folder / "config.json").write_text(json.dumps(config))
    parameters = dict(tree_flatten(make_model(model_type).parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), parameters, metadata={"format": "mlx"})
    return folder
