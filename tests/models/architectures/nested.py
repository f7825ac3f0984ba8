"""Families whose language model is part of a larger one; only that part is made."""

from __future__ import annotations

from tests.models.architectures.attention import ATTENTION
from tests.models.architectures.recurrent import RECURRENT
from tests.models.architectures.sizes import (
    DELTA,
    EXPERTS,
    LATENT,
    MIXED_LAYERS,
    SIZES,
    Config,
)

_TEXTS: dict[str, Config] = {
    "gemma3": {"model_type": "gemma3_text", **ATTENTION["gemma3_text"]},
    "gemma3n": {
        "model_type": "gemma3n_text",
        "num_hidden_layers": 4,
        "layer_types": MIXED_LAYERS,
        "num_kv_shared_layers": 2,
        "vocab_size_per_layer_input": 512,
        "rope_local_base_freq": 10_000.0,
        "final_logit_softcapping": 30.0,
        "activation_sparsity_pattern": [0.5, 0.5, 0.0, 0.0],
        "hidden_size_per_layer_input": 32,
        "altup_num_inputs": 2,
        "altup_coef_clip": 120.0,
        "altup_correct_scale": True,
        "altup_active_idx": 0,
        "laurel_rank": 32,
    },
    "gemma4": {"model_type": "gemma4_text", **ATTENTION["gemma4_text"]},
    "kimi_k25": {"model_type": "deepseek_v3", **EXPERTS, **LATENT},
    "kimi_k3": {
        **RECURRENT["kimi_linear"],
        "model_type": "kimi_linear",
        "activation_situ_beta": 1.0,
        "activation_situ_linear_beta": 1.0,
    },
    "kimi_vl": {"model_type": "deepseek_v3", **EXPERTS, **LATENT},
    "lfm2-vl": {"model_type": "lfm2", **RECURRENT["lfm2"]},
    "llama4": {
        **EXPERTS,
        "model_type": "llama4_text",
        "num_hidden_layers": 4,
        "attention_chunk_size": 64,
        "interleave_moe_layer_step": 2,
        "intermediate_size_mlp": 128,
        "num_experts_per_tok": 1,
        "rope_scaling": None,
        "use_qk_norm": True,
    },
    "minimax_m3_vl": {
        **EXPERTS,
        "model_type": "minimax_m3",
        "num_hidden_layers": 4,
        "dense_intermediate_size": 128,
        "shared_intermediate_size": 32,
        "moe_layer_freq": [0, 1, 1, 1],
        "sparse_attention_freq": [0, 1, 0, 1],
        "index_n_heads": 2,
        "index_head_dim": 16,
        "index_block_size": 8,
        "index_topk_blocks": 2,
    },
    "mistral3": {"model_type": "ministral3", **ATTENTION["ministral3"]},
    "muse_spark": {
        **EXPERTS,
        "num_hidden_layers": 4,
        "post_norm_eps": 1e-8,
        "rope_parameters": {"rope_theta": 10_000.0},
        "layer_rope_theta": [10_000.0, 0.0, 10_000.0, 0.0],
        "layer_types": MIXED_LAYERS,
        "final_logit_softcapping": 20.0,
        "output_multiplier": 0.2,
        "moe_hidden_size": 32,
        "num_shared_experts": 0,
    },
    "pixtral": {"model_type": "mistral"},
    "qwen2_vl": {"model_type": "qwen2"},
    "qwen3_5": {
        **DELTA,
        "model_type": "qwen3_5_text",
        "num_hidden_layers": 4,
        "full_attention_interval": 2,
        "rope_parameters": {"rope_theta": 10_000.0, "partial_rotary_factor": 0.5},
    },
    "qwen3_5_moe": {
        **EXPERTS,
        **DELTA,
        "model_type": "qwen3_5_moe_text",
        "num_hidden_layers": 4,
        "full_attention_interval": 2,
        "rope_parameters": {"rope_theta": 10_000.0, "partial_rotary_factor": 0.5},
    },
    "qwen3_vl": {"model_type": "qwen3"},
    "qwen3_vl_moe": {"model_type": "qwen3_moe", **EXPERTS},
}

NESTED: dict[str, Config] = {
    name: {"text_config": {**SIZES, **text}} for name, text in _TEXTS.items()
} | {
    "prism_hadamard_qwen35": {
        "text_config": {**SIZES, **_TEXTS["qwen3_5"], "hidden_size": 128},
        "tensor_namespace": "mlx-vlm-qwen3_5",
        "quantization": {"bits": 2, "group_size": 128, "mode": "affine"},
        "modules": [
            {
                "path": "model.layers.0.mlp.gate_proj",
                "embedding": False,
                "dtype": "float16",
                "block": 0,
            }
        ],
    }
}
