"""The sizes that all tiny models share; a family's class takes the names that it knows."""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]

VOCABULARY_SIZE = 512
WINDOW_TOKENS = 32
SLIDING, FULL = "sliding_attention", "full_attention"
# Two layers with a window, and two without.
MIXED_LAYERS = [SLIDING, FULL, SLIDING, FULL]

SIZES: Config = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "norm_eps": 1e-5,
    "layer_norm_eps": 1e-5,
    "layer_norm_epsilon": 1e-5,
    "rope_theta": 10_000.0,
    "max_position_embeddings": 4096,
    "sliding_window": WINDOW_TOKENS,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "torch_dtype": "float32",
}

EXPERTS: Config = {
    "num_experts": 4,
    "n_routed_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "num_shared_experts": 1,
    "n_shared_experts": 1,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "norm_topk_prob": True,
    "first_k_dense_replace": 1,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "routed_scaling_factor": 1.0,
    "n_group": 1,
    "topk_group": 1,
    "moe_layer_freq": 1,
}

# Multi-head latent attention: keys and values in one small vector.
LATENT: Config = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "q_lora_rank": 32,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
}

# A recurrence with gates and a convolution before it.
DELTA: Config = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
}

GPT2_SIZES: Config = {
    "n_ctx": 4096,
    "n_positions": 4096,
    "n_embd": 64,
    "n_head": 4,
    "n_layer": 2,
    "n_inner": 128,
}
