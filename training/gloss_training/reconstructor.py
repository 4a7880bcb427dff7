"""The activation reconstructor (AR): the target's first K+1 blocks and a linear value head.

There is no final norm and no language head. The hidden state of the last real token, times the
value head, is the reconstruction; rows are padded on the right.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, Qwen3Model

from gloss_training.data import pad_right
from gloss_training.tokenizer import AR_TEMPLATE

VALUE_HEAD_FILE: Final = "value_head.safetensors"
BATCH_SIZE: Final = 128


class Reconstructor(torch.nn.Module):
    """Text to vector: token ids [b, t], lengths [b] -> [b, d] float32."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.backbone = Qwen3Model(config)
        self.backbone.norm = torch.nn.Identity()
        self.value_head = torch.nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        torch.nn.init.eye_(self.value_head.weight)

    def forward(self, token_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Reads each row at its last real token; causal attention hides the padding after it."""
        states = self.backbone(input_ids=token_ids, use_cache=False).last_hidden_state
        last = states[torch.arange(len(lengths)), lengths - 1]
        reconstruction: torch.Tensor = self.value_head(last)
        return reconstruction


def from_target(target: Qwen3ForCausalLM, layer_index: int) -> Reconstructor:
    """An AR before training: the target's blocks 0..K, the value head at the identity."""
    config = copy.deepcopy(target.config)
    config.num_hidden_layers = layer_index + 1
    config.layer_types = config.layer_types[: layer_index + 1]
    reconstructor = Reconstructor(config)
    wanted = reconstructor.backbone.state_dict().keys()
    weights = {name: w for name, w in target.model.state_dict().items() if name in wanted}
    reconstructor.backbone.load_state_dict(weights)
    return reconstructor


def encode_explanations(
    tokenizer: PreTrainedTokenizerFast, explanations: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """AR inputs: ids [n, longest] int64, right-padded, and lengths [n]."""
    rows = tokenizer([AR_TEMPLATE.format(explanation=text) for text in explanations]).input_ids
    return pad_right(rows, tokenizer.pad_token_id), torch.tensor([len(row) for row in rows])


@torch.no_grad()
def reconstruct(
    reconstructor: Reconstructor, tokenizer: PreTrainedTokenizerFast, explanations: Sequence[str]
) -> torch.Tensor:
    """Explanations -> [n, d] float32, in batches."""
    parts = [
        reconstructor(*encode_explanations(tokenizer, explanations[start : start + BATCH_SIZE]))
        for start in range(0, len(explanations), BATCH_SIZE)
    ]
    return torch.cat(parts)


def save_reconstructor(reconstructor: Reconstructor, folder: Path) -> None:
    """config.json, model.safetensors (`model.` names, no norm, no head) and the value head."""
    config = copy.deepcopy(reconstructor.backbone.config)
    config.architectures = ["Qwen3ForCausalLM"]
    config.save_pretrained(folder)
    weights = reconstructor.backbone.state_dict()
    named = {f"model.{name}": weight.contiguous() for name, weight in weights.items()}
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    head = {"weight": reconstructor.value_head.weight.detach().contiguous()}
    save_file(head, folder / VALUE_HEAD_FILE, metadata={"format": "pt"})


def load_reconstructor(folder: Path) -> Reconstructor:
    """The AR of a directory that `save_reconstructor` wrote."""
    reconstructor = Reconstructor(Qwen3Config.from_pretrained(folder))
    weights = load_file(folder / "model.safetensors")
    named = {name.removeprefix("model."): weight for name, weight in weights.items()}
    reconstructor.backbone.load_state_dict(named)
    reconstructor.value_head.load_state_dict(load_file(folder / VALUE_HEAD_FILE))
    return reconstructor.eval()
