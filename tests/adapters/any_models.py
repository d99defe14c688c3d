"""Tiny random models of many types of transformers: those whose attention can be swapped, and those where it cannot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from hedgebench.adapters.pretrained.interface import layers_in_torch
from hedgebench.adapters.pretrained.weight_files import release

Settings = Mapping[str, Any]

_SIZE: Settings = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_WORDS: Settings = {"vocab_size": 97, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}
_TEXT: Settings = {**_SIZE, **_WORDS, "pad_token_id": 0}
_ROBERTA: Settings = {**_TEXT, "pad_token_id": 1}
_GROUPED: Settings = {**_TEXT, "num_key_value_heads": 2}
_EXPERTS: Settings = {**_GROUPED, "head_dim": 8, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
_GPT: Settings = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 97}
_MIXED: Settings = {
    **_GROUPED,
    "head_dim": 16,
    "sliding_window": 6,
    "layer_types": ["sliding_attention", "full_attention"],
}
_IMAGES: Settings = {**_SIZE, "image_size": 8, "patch_size": 4}

DECODERS: Mapping[str, Settings] = {
    "codegen": {**_GPT, "rotary_dim": 4},
    "cohere": _GROUPED,
    "cohere2": _MIXED,
    "gemma": {**_GROUPED, "head_dim": 16},
    "gemma3_text": _MIXED,
    "glm": {**_GROUPED, "head_dim": 8},
    "gpt2": _GPT,
    "gpt_neox": _TEXT,
    "gptj": {**_GPT, "rotary_dim": 4},
    "granite": {**_GROUPED, "attention_multiplier": 0.7},
    "llama": _GROUPED,
    "ministral": {**_GROUPED, "head_dim": 8, "sliding_window": 6},
    "mistral": {**_GROUPED, "sliding_window": None},
    "mixtral": {**_GROUPED, "num_local_experts": 2},
    "nemotron": _GROUPED,
    "olmo": _GROUPED,
    "olmo2": _GROUPED,
    "opt": {**_TEXT, "ffn_dim": 48, "word_embed_proj_dim": 32, "pad_token_id": 1},
    "phi": _TEXT,
    "phi3": _GROUPED,
    "qwen2": _GROUPED,
    "qwen3": {**_GROUPED, "head_dim": 16},
    "qwen3_moe": {**_EXPERTS, "num_experts": 2},
    "smollm3": _GROUPED,
    "stablelm": _GROUPED,
    "starcoder2": _GROUPED,
}
TEXT_ENCODERS: Mapping[str, Settings] = {
    "bert": _TEXT,
    "camembert": _ROBERTA,
    "distilbert": {**_WORDS, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    "electra": {**_TEXT, "embedding_size": 32},
    "ernie": _TEXT,
    "modernbert": {
        **_TEXT,
        "local_attention": 8,
        "global_attn_every_n_layers": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
    },
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
}
IMAGE_ENCODERS: Mapping[str, Settings] = {
    "beit": _IMAGES,
    "deit": {**_IMAGES, "architectures": ["DeiTForImageClassification"]},
    "dinov2": {**_IMAGES, "mlp_ratio": 2},
    "siglip": {"vision_config": dict(_IMAGES), "text_config": dict(_TEXT)},
    "vit": _IMAGES,
}
ALL_PROVEN: Mapping[str, Settings] = {**DECODERS, **TEXT_ENCODERS, **IMAGE_ENCODERS}
"""Types whose attention can be swapped with transformers 5."""
SINCE_RELEASE_5 = frozenset({
    *("beit", "camembert", "codegen", "distilbert", "electra", "ernie", "gptj", "modernbert", "nemotron", "opt"),
    *("roberta", "siglip", "stablelm", "xlm-roberta"),
})  # fmt: skip
"""Those of them whose layers do not ask transformers' attention interface in release 4."""
PROVEN: Mapping[str, Settings] = {
    name: settings for name, settings in ALL_PROVEN.items() if release() >= 5 or name not in SINCE_RELEASE_5
}

ALL_REFUSED: Mapping[str, tuple[Settings, str]] = {
    "albert": ({**_TEXT, "embedding_size": 16}, "several layers share"),
    "bloom": ({"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 97}, "computes ALiBi"),
    "deberta-v2": ({**_TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, "disentangled attention"),
    "deepseek_v3": (
        {
            **_TEXT,
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 4,
            "first_k_dense_replace": 2,
        },
        "values of width 4 beside queries of width 8",
    ),
    "falcon": ({**_TEXT, "alibi": True}, "computes ALiBi"),
    "gemma2": ({**_GROUPED, "head_dim": 16}, "soft-capped scores"),
    "gpt_neo": (
        {
            **_WORDS,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
        },
        "none of its layers asks transformers' attention interface",
    ),
    "gpt_oss": ({**_EXPERTS, "num_local_experts": 2}, "attention sinks"),
    "lfm2": ({**_GROUPED, "layer_types": ["conv", "full_attention"]}, "conv state"),
    "llama4_text": ({**_EXPERTS, "num_local_experts": 2, "intermediate_size_mlp": 48}, "chunked attention"),
    "mamba": (
        {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "vocab_size": 97},
        "none of its layers asks transformers' attention interface",
    ),
    "mpnet": (_TEXT, "a bias on q·k that depends on relative positions"),
    "t5": (
        {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": 97},
        "an encoder and a decoder, with cross-attention",
    ),
}
"""Types whose attention cannot be swapped with transformers 5, with the reason that is told."""
REFUSED: Mapping[str, tuple[Settings, str]] = ALL_REFUSED
if release() < 5:
    REFUSED = {name: (settings, "") for name, (settings, _) in ALL_REFUSED.items()}
    REFUSED |= {name: (ALL_PROVEN[name], "") for name in sorted(SINCE_RELEASE_5)}

_CLASSIFIERS = {**TEXT_ENCODERS, **dict.fromkeys(("albert", "deberta-v2", "mpnet", "t5"))}


def any_model(model_type: str, settings: Settings | None = None, **more: Any) -> PreTrainedModel:
    """A random model of a type, with random biases and gains, in evaluation mode.

    Args:
        model_type: As in config.json.
        settings: Its configuration; by default the one listed here.
        more: Further entries of the configuration.
    """
    if settings is None:
        settings = ALL_PROVEN[model_type] if model_type in ALL_PROVEN else ALL_REFUSED[model_type][0]
    kind: Any = AutoModelForCausalLM
    if model_type in IMAGE_ENCODERS:
        kind = AutoModelForImageClassification
    elif model_type in _CLASSIFIERS:
        kind = AutoModelForSequenceClassification
    config = AutoConfig.for_model(model_type, **{**settings, **more})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with layers_in_torch():
            model: PreTrainedModel = kind.from_config(config).eval()
        for parameter in model.parameters():  # what starts at 0 or 1 would hide what is left out
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    return model
