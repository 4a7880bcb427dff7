"""Small transformers models whose weights vary everywhere.

Norm weights and biases are drawn too, logits spread by units, and greedy decoding moves through
many tokens instead of repeating one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

_GEMMA_WINDOW = 8
_MODELS = {
    "qwen2": Qwen2ForCausalLM,
    "qwen3": Qwen3ForCausalLM,
    "llama3": LlamaForCausalLM,
    "gemma3": Gemma3ForCausalLM,
}


def make_config(arch: str, *, num_layers: int, vocab_size: int, tied: bool) -> Any:
    """A small config of one architecture, with every switch that distinguishes it in use."""
    shared = {
        "vocab_size": vocab_size,
        "num_hidden_layers": num_layers,
        "max_position_embeddings": 512,
        "tie_word_embeddings": tied,
        "intermediate_size": 112,
    }
    if arch == "qwen2":
        return Qwen2Config(**shared, hidden_size=72, num_attention_heads=6, num_key_value_heads=2)
    if arch == "qwen3":
        return Qwen3Config(
            **shared, hidden_size=80, num_attention_heads=5, num_key_value_heads=1, head_dim=24
        )
    if arch == "llama3":
        # original_max_position_embeddings 32: of 8 frequencies one is kept, one blended, six cut.
        rope = {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
        return LlamaConfig(
            **shared,
            hidden_size=96,
            num_attention_heads=6,
            num_key_value_heads=3,
            rope_parameters=rope,
        )
    full = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0}
    return Gemma3TextConfig(
        **shared,
        hidden_size=72,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=20,
        query_pre_attn_scalar=36,
        sliding_window=_GEMMA_WINDOW,
        layer_types=[
            "full_attention" if index % 3 == 2 else "sliding_attention"
            for index in range(num_layers)
        ],
        rope_parameters={
            "full_attention": full,
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
    )


def make_model(arch: str, config: Any, *, seed: int, wrapped: bool = False) -> Any:
    """A transformers model of the config with weights that vary everywhere."""
    if wrapped:
        assert arch == "gemma3"
        vision = {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        }
        outer = Gemma3Config(
            text_config=config,
            vision_config=vision,
            tie_word_embeddings=config.tie_word_embeddings,
            eos_token_id=config.eos_token_id,
        )
        model = Gemma3ForConditionalGeneration(outer)
    else:
        model = _MODELS[arch](config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "vision" not in name and "projector" not in name:
                parameter.copy_(_draw(name, parameter.shape, arch, generator))
    return model.eval()


def _draw(name: str, shape: torch.Size, arch: str, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator)
    is_gemma = arch == "gemma3"
    if name.endswith("bias"):
        return 0.3 * noise
    if "norm" in name:
        # Sharper attention, and logits of a few units from Gemma's small embeddings.
        raised = 1.0 if "q_norm" in name else 0.0
        if is_gemma:
            raised += 2.0 if "layers" not in name or "post_" in name else 0.0
        return 0.2 * noise + raised + (0.0 if is_gemma else 1.0)
    if "embed_tokens" in name:
        return noise * (0.1 if is_gemma else 0.3)
    if "lm_head" in name:
        return noise * ((1 if is_gemma else 3) / math.sqrt(shape[1]))
    # Blocks that outweigh the embeddings: else a tied head repeats the token it was given.
    gain = 2.0 if "o_proj" in name or "down_proj" in name else 1.6
    return noise * (gain / math.sqrt(shape[1]))
