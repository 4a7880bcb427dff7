"""Models of transformers from local directories, whole or their first blocks, and back."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from gloss_engine.weight_files import open_safetensors, read_weights, weight_files

_Module = TypeVar("_Module", bound=torch.nn.Module)


class FirstBlocks(torch.nn.Module):
    """The first blocks of a language model: no final norm and no head.

    Args:
        model: their decoder, embeddings included, as `decoder.Decoder` runs one.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @property
    def config(self) -> Any:
        """The decoder's configuration, as a causal language model's."""
        return self.model.config

    def get_input_embeddings(self) -> Any:
        """See transformers."""
        return self.model.get_input_embeddings()


def load_language_model(folder: Path | str, dtype: torch.dtype = torch.float32) -> Any:
    """A causal language model of a local directory, in evaluation mode.

    Raises:
        CheckpointError: a file of its weights is missing or not whole.
    """
    for path in weight_files(Path(folder)):
        with open_safetensors(path):
            pass
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, local_files_only=True, attn_implementation="sdpa"
    )
    return model.eval()


def cast_weights(module: _Module, dtype: torch.dtype) -> _Module:
    """Casts weights alone, in place, as a model that was loaded in `dtype` has them.

    `Module.to` would round the rotary frequencies too: bfloat16 has 8 bits, which turns position
    100 by a fifth of a radian.
    """
    for weight in module.parameters():
        weight.data = weight.data.to(dtype)
    return module


def take_first_blocks(model: Any, num_blocks: int) -> FirstBlocks:
    """A causal language model's first blocks, taken out of it; of the model its head stays alone.

    Nothing is copied: a large model never stands there twice.
    """
    inner = model.model
    decoder = getattr(inner, "language_model", inner)
    model.model = None
    decoder.layers, decoder.norm = decoder.layers[:num_blocks], torch.nn.Identity()
    decoder.config = first_config(decoder.config, num_blocks)
    return FirstBlocks(decoder)


def load_first_blocks(folder: Path, dtype: torch.dtype = torch.float32) -> FirstBlocks:
    """An AR's blocks, in one file or several.

    Raises:
        CheckpointError: a file is missing or not whole.
        RuntimeError: weights missing or unknown.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    config._attn_implementation = "sdpa"
    decoder = cast_weights(AutoModel.from_config(config), dtype)
    decoder.norm = torch.nn.Identity()
    weights: dict[str, torch.Tensor] = {}
    for path in weight_files(folder):
        weights.update(read_weights(path))
    decoder.load_state_dict({name.removeprefix("model."): w for name, w in weights.items()})
    return FirstBlocks(decoder)


def causal_config(config: Any) -> Any:
    """A copy of a model's configuration as its text part's alone has it."""
    plain = copy.deepcopy(config.get_text_config())
    plain.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[plain.model_type]]
    # The wrapping configuration decides for a wrapped model.
    plain.tie_word_embeddings = config.tie_word_embeddings
    return plain


def first_config(config: Any, num_blocks: int) -> Any:
    """A text configuration cut to its first blocks, as a causal language model's."""
    short = copy.deepcopy(config)
    short.num_hidden_layers = num_blocks
    if getattr(short, "layer_types", None) is not None:
        short.layer_types = list(short.layer_types[:num_blocks])
    short.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[short.model_type]]
    return short
