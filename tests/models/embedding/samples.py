"""The tiny models: their configurations, as the hub has them for models of each kind.

Imports neither MLX nor torch: `tests.worker.embedding.make_vectors` makes the same folders for
sentence-transformers, in an environment of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

TokenizerStyle = Literal["bert", "roberta", "gemma", "qwen"]
JSON = Mapping[str, Any]

TRANSFORMER = "sentence_transformers.models.Transformer"
POOLING = "sentence_transformers.models.Pooling"
DENSE = "sentence_transformers.models.Dense"
NORMALIZE = "sentence_transformers.models.Normalize"
MAX_TOKENS = 64
HIDDEN, WIDE, HEADS, LAYERS, VOCABULARY = 32, 48, 4, 3, 320

ENCODER: JSON = {
    "hidden_size": HIDDEN,
    "intermediate_size": WIDE,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "vocab_size": VOCABULARY,
    "torch_dtype": "float32",
}
BERT: JSON = {
    **ENCODER,
    "model_type": "bert",
    "architectures": ["BertModel"],
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": MAX_TOKENS,
    "pad_token_id": 0,
    "type_vocab_size": 2,
}
XLM_ROBERTA: JSON = {
    **BERT,
    "model_type": "xlm-roberta",
    "architectures": ["XLMRobertaModel"],
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": MAX_TOKENS + 2,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "type_vocab_size": 1,
}
MPNET: JSON = {
    **XLM_ROBERTA,
    "model_type": "mpnet",
    "architectures": ["MPNetModel"],
    "relative_attention_num_buckets": 32,
}
MODERNBERT: JSON = {
    **ENCODER,
    "model_type": "modernbert",
    "architectures": ["ModernBertForMaskedLM"],
    "num_hidden_layers": 5,
    "hidden_activation": "gelu",
    "norm_eps": 1e-5,
    "norm_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "local_rope_theta": 10000.0,
    "local_attention": 8,
    "max_position_embeddings": MAX_TOKENS,
    "pad_token_id": 0,
    "cls_token_id": 2,
    "sep_token_id": 3,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
EMBEDDING_GEMMA: JSON = {
    **ENCODER,
    "model_type": "gemma3_text",
    "architectures": ["Gemma3TextModel"],
    "num_hidden_layers": 6,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "sliding_window": 8,
    "_sliding_window_pattern": 3,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
    "use_bidirectional_attention": True,
    "max_position_embeddings": MAX_TOKENS,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
QWEN3: JSON = {
    **ENCODER,
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "num_key_value_heads": 2,
    "head_dim": 8,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
MISTRAL: JSON = {
    **QWEN3,
    "model_type": "mistral",
    "architectures": ["MistralModel"],
    "rope_theta": 10000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
}
ONE_CLASS: JSON = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}


@dataclass(frozen=True)
class Sample:
    """One tiny model. `modules` are the kinds behind the first one, each with its config.json.

    Texts are written behind the prompt with the name `prompt_name`, if that is given. With
    `token_types` the tokenizer tells the parts of a pair.
    """

    config: JSON
    style: TokenizerStyle
    modules: tuple[tuple[str, JSON], ...] = ()
    settings: JSON = field(default_factory=dict)
    kind: Literal["embedding", "rerank"] = "embedding"
    prompt_name: str | None = None
    token_types: bool = False


def pooling(flag: str, **others: Any) -> tuple[str, JSON]:
    """A pooling module with one flag set, as sentence-transformers writes it."""
    flags = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "lasttoken")
    set_flags = {f"pooling_mode_{each}": each == flag for each in (*flags, "weightedmean_tokens")}
    return POOLING, {"word_embedding_dimension": HIDDEN, **set_flags, **others}


def dense(inputs: int, outputs: int) -> tuple[str, JSON]:
    """A linear layer as EmbeddingGemma has them."""
    activation = "torch.nn.modules.linear.Identity"
    sizes = {"in_features": inputs, "out_features": outputs}
    return DENSE, {**sizes, "bias": False, "activation_function": activation}


QUERY_PROMPTS: JSON = {
    "prompts": {"query": "find the words that are about this: ", "document": ""},
    "default_prompt_name": None,
    "similarity_fn_name": "cosine",
}
UNIT: tuple[str, JSON] = (NORMALIZE, {})
SAMPLES: Mapping[str, Sample] = {
    "bert-mean": Sample(BERT, "bert", (pooling("mean_tokens"), UNIT)),
    "bert-cls-plain": Sample(BERT, "bert", (pooling("cls_token"),)),
    "bert-max": Sample(BERT, "bert", (pooling("max_tokens"), UNIT)),
    "bert-sqrt": Sample(BERT, "bert", (pooling("mean_sqrt_len_tokens"),)),
    "xlm-roberta-cls": Sample(
        XLM_ROBERTA, "roberta", (pooling("cls_token"), UNIT), QUERY_PROMPTS, prompt_name="query"
    ),
    "roberta-mean": Sample(
        {**XLM_ROBERTA, "model_type": "roberta", "architectures": ["RobertaModel"]},
        "roberta",
        (pooling("mean_tokens"), UNIT),
    ),
    "mpnet-mean": Sample(MPNET, "roberta", (pooling("mean_tokens"), UNIT)),
    "modernbert-mean": Sample(MODERNBERT, "bert", (pooling("mean_tokens"), UNIT)),
    "embedding-gemma": Sample(
        EMBEDDING_GEMMA,
        "gemma",
        (pooling("mean_tokens", include_prompt=True), dense(HIDDEN, 40), dense(40, 24), UNIT),
        QUERY_PROMPTS,
        prompt_name="query",
    ),
    "qwen3-embedding": Sample(
        QWEN3, "qwen", (pooling("lasttoken"), UNIT), QUERY_PROMPTS, prompt_name="query"
    ),
    "mistral-last": Sample(MISTRAL, "qwen", (pooling("lasttoken"), UNIT)),
    "mistral-weighted": Sample(MISTRAL, "qwen", (pooling("weightedmean_tokens"), UNIT)),
    "bert-reranker": Sample(
        {**BERT, **ONE_CLASS, "architectures": ["BertForSequenceClassification"]},
        "bert",
        kind="rerank",
        token_types=True,
    ),
    "bert-untyped-reranker": Sample(
        {**BERT, **ONE_CLASS, "architectures": ["BertForSequenceClassification"]},
        "bert",
        kind="rerank",
    ),
    "xlm-roberta-reranker": Sample(
        {**XLM_ROBERTA, **ONE_CLASS, "architectures": ["XLMRobertaForSequenceClassification"]},
        "roberta",
        kind="rerank",
    ),
    "mpnet-reranker": Sample(
        {**MPNET, **ONE_CLASS, "architectures": ["MPNetForSequenceClassification"]},
        "roberta",
        kind="rerank",
    ),
    "modernbert-reranker": Sample(
        {
            **MODERNBERT,
            **ONE_CLASS,
            "architectures": ["ModernBertForSequenceClassification"],
            "classifier_pooling": "mean",
        },
        "bert",
        kind="rerank",
    ),
    "modernbert-cls-reranker": Sample(
        {**MODERNBERT, **ONE_CLASS, "architectures": ["ModernBertForSequenceClassification"]},
        "bert",
        kind="rerank",
    ),
    "qwen3-reranker": Sample(QWEN3, "qwen", kind="rerank"),
}
LONG_TEXT = (
    "they know what time it is when all of this was made by them over there, and then they go on "
    "to the other people with their words about water and a long way down from here"
)
TEXTS = (
    "water",
    "the people who find water",
    "many words are called long, and some are not",
    "How many words would a long text of the first people have, if each of them could use it?",
    LONG_TEXT,
    "Über 2030 Leute!",
)
LONG_DOCUMENT = (
    "it is time to see how many of them could be called the first, and then which of the others "
    "would have been made by the people from there"
)
PAIRS = (
    ("where is water", "the people find water over there"),
    ("where is water", "some words are long"),
    ("what time is it", LONG_DOCUMENT),
    ("who", "they"),
)
