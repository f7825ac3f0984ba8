"""Families whose feed-forward layers are experts that a router chooses from."""

from __future__ import annotations

from tests.models.architectures.sizes import (
    EXPERTS,
    FULL,
    LATENT,
    MIXED_LAYERS,
    SLIDING,
    WINDOW_TOKENS,
    Config,
)

INDEXER: Config = {"index_head_dim": 32, "index_n_heads": 2, "index_topk": 16}
LONGCAT: Config = {
    **LATENT,
    "attention_method": "MLA",
    "zero_expert_type": "identity",
    "ffn_hidden_size": 128,
    "moe_topk": 2,
    "expert_ffn_hidden_size": 32,
    "zero_expert_num": 2,
    "num_layers": 2,
    "mla_scale_q_lora": True,
    "mla_scale_kv_lora": True,
}

_TABLE: dict[str, Config] = {
    "Klear": {},
    "afmoe": {"num_hidden_layers": 4, "layer_types": MIXED_LAYERS, "num_dense_layers": 1},
    "bailing_moe": {},
    "dbrx": {
        "d_model": 64,
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10_000.0},
        "n_layers": 2,
        "n_heads": 4,
    },
    "deepseek": {},
    "deepseek_v2": {
        **LATENT,
        "topk_method": "greedy",
        "rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 2048},
    },
    "deepseek_v3": LATENT,
    "deepseek_v32": {**LATENT, **INDEXER},
    "deepseek_v41": {
        **INDEXER,
        "num_hidden_layers": 4,
        "q_lora_rank": 32,
        "qk_rope_head_dim": 16,
        "head_dim": 32,
        "o_groups": 2,
        "o_lora_rank": 32,
        "compress_ratios": [0, 0, 0, 0],
        "kv_source_layer_ids": [0, 1, 2, 3],
        "index_source_layer_ids": [0, 1, 2, 3],
    },
    "dots1": {"scoring_func": "noaux_tc"},
    "ernie4_5_moe": {
        "use_bias": False,
        "moe_num_experts": 4,
        "moe_k": 2,
        "moe_num_shared_experts": 1,
    },
    "exaone_moe": {
        "num_hidden_layers": 4,
        "layer_types": MIXED_LAYERS,
        "is_moe_layer": [False, True, True, True],
    },
    "glm4_moe": {"rope_scaling": None, "use_qk_norm": True, "partial_rotary_factor": 0.5},
    "glm4_moe_lite": LATENT,
    "glm_moe_dsa": {
        **LATENT,
        **INDEXER,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "rope_parameters": {"rope_theta": 10_000.0},
    },
    "gpt_oss": {"num_hidden_layers": 4, "layer_types": MIXED_LAYERS},
    "granitemoe": {
        "logits_scaling": 1.0,
        "attention_multiplier": 0.25,
        "embedding_multiplier": 1.0,
        "residual_multiplier": 1.0,
    },
    "hunyuan": {
        "moe_topk": 2,
        "num_shared_expert": 1,
        "use_mixed_mlp_moe": True,
        "use_qk_norm": True,
        "use_cla": True,
        "cla_share_factor": 2,
        "rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0},
    },
    "laguna": {"num_hidden_layers": 4, "layer_types": MIXED_LAYERS},
    "llama4_text": {
        "intermediate_size_mlp": 128,
        "no_rope_layers": [1, 0],
        "use_qk_norm": True,
    },
    "longcat_flash": LONGCAT,
    "longcat_flash_ngram": LONGCAT,
    "mellum": {
        "num_hidden_layers": 4,
        "layer_types": MIXED_LAYERS,
        "rope_parameters": {SLIDING: {"rope_theta": 10_000.0}, FULL: {"rope_theta": 10_000.0}},
    },
    "mimo_v2_flash": {
        "num_hidden_layers": 4,
        "hybrid_layer_pattern": [1, 0, 1, 0],
        "moe_layer_freq": [0, 1, 1, 1],
        "add_swa_attention_sink_bias": True,
        "add_full_attention_sink_bias": False,
        "sliding_window_size": WINDOW_TOKENS,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "layernorm_epsilon": 1e-5,
        "swa_rope_theta": 10_000.0,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "v_head_dim": 16,
        "swa_head_dim": 16,
        "swa_v_head_dim": 16,
        "partial_rotary_factor": 0.5,
    },
    "minimax": {"shared_intermediate_size": 32, "rotary_dim": 8},
    "mistral4": {
        **LATENT,
        "rope_parameters": {
            "rope_theta": 10_000.0,
            "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 64,
        },
    },
    "mixtral": {},
    "olmoe": {},
    "phimoe": {
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0] * 8,
            "long_factor": [1.0] * 8,
            "short_mscale": 1.0,
            "long_mscale": 1.0,
        }
    },
    "phixtral": {
        "num_vocab": 512,
        "model_dim": 64,
        "num_heads": 4,
        "num_layers": 2,
        "rotary_dim": 8,
    },
    "qwen2_moe": {},
    "qwen3_moe": {},
    "solar_open": {"rope_scaling": None, "use_qk_norm": True, "partial_rotary_factor": 1.0},
    "step3p5": {
        "num_hidden_layers": 4,
        "layer_types": MIXED_LAYERS,
        "num_attention_groups": 2,
        "moe_num_experts": 4,
        "moe_top_k": 2,
        "share_expert_dim": 32,
        "moe_layers_enum": "1,2,3",
    },
}

MIXTURES: dict[str, Config] = {name: {**EXPERTS, **config} for name, config in _TABLE.items()}
