"""The `ModelSpec` of a released pair's AV without its files.

`released.py` has the geometry; what else config.json states stands here, as transformers spells it,
and `registry.py` translates both, so that there is one way from a configuration to a spec.
"""

from __future__ import annotations

from typing import Any

from transformers import CONFIG_MAPPING

from gloss_engine.models.registry import spec_from_config
from gloss_engine.models.spec import ModelSpec
from gloss_engine.released import ReleasedPair

_GEMMA = {
    "model_type": "gemma3_text",
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    },
}
_SETTINGS: dict[str, dict[str, Any]] = {
    "qwen2.5-7b": {
        "model_type": "qwen2",
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    },
    "gemma-3-12b": {**_GEMMA, "query_pre_attn_scalar": 256},
    "gemma-3-27b": {**_GEMMA, "query_pre_attn_scalar": 168},
    "llama-3.3-70b": {
        "model_type": "llama",
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
}
# Gemma 3: five blocks with a sliding window, then one that sees everything.
_FULL_EVERY = 6


def released_spec(pair: ReleasedPair) -> ModelSpec:
    """The AV of a released pair. Its AR is the same with blocks 0 .. K and no head."""
    settings = dict(_SETTINGS[pair.short_name])
    config_class = CONFIG_MAPPING[settings.pop("model_type")]
    if pair.window is not None:
        settings["sliding_window"] = pair.window
        settings["layer_types"] = [
            "sliding_attention" if (index + 1) % _FULL_EVERY else "full_attention"
            for index in range(pair.num_layers)
        ]
    config = config_class(
        hidden_size=pair.d_model,
        num_hidden_layers=pair.num_layers,
        num_attention_heads=pair.num_heads,
        num_key_value_heads=pair.num_kv_heads,
        head_dim=pair.head_dim,
        intermediate_size=pair.intermediate_size,
        vocab_size=pair.vocab_size,
        **settings,
    )
    return spec_from_config(config)
