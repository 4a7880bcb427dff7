"""The transformers model of the same weights: built on views of ours, so there is no second copy.

Its parameters are the tensors that `Decoder.targets` names; a float32 reference is a copy of them,
with plain attention, whose products are float32 throughout.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from suite_shape import RandomPair
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from gloss_kernels import scale_to_norm


def on_weights(config: Qwen2Config, weights: dict[str, Tensor], attention: str = "sdpa") -> Any:
    """A model whose parameters are these tensors.

    Args:
        config: of the shape the weights have; the model gets a copy, which names its attention.
        weights: by Hugging Face name, all of them, of one type and device.
        attention: transformers' name of the attention to use.
    """
    config = deepcopy(config)
    config._attn_implementation = attention
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    model.load_state_dict(weights, assign=True, strict=True)
    # Its table is no parameter: made on meta, it would stay there.
    with torch.device(model.lm_head.weight.device):
        model.model.rotary_emb = Qwen2RotaryEmbedding(config)
    return model.eval().requires_grad_(False)


def embedded_prompts(model: Any, pair: RandomPair, activations: Tensor) -> Tensor:
    """[n, prompt_len, d_model] embedded prompts with the activations injected.

    Args:
        activations: [n, d_model], raw.
    """
    device = model.lm_head.weight.device
    ids = pair.prompt_ids.to(device).expand(len(activations), -1)
    embeds: Tensor = model.get_input_embeddings()(ids).clone()
    rows = scale_to_norm(activations.to(device), pair.program.injection_scale)
    embeds[:, pair.shape.prefix_len] = rows.to(embeds.dtype)
    return embeds
