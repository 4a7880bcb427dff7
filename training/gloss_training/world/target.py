"""The target: a small Qwen3 language model of stories whose layer K carries the facts.

A plain language model this small does not keep the facts of the text in its residual stream: its
attention fetches them when a word needs them. So a linear state head on the output of block K is
trained along with next-token prediction: at each position it names the facts revealed so far and
the token that stands there. Both are planted, and the head is thrown away.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import Qwen3Config, Qwen3ForCausalLM

from gloss_training.learning.progress import Progress
from gloss_training.learning.supervised import Losses, Supervision, train
from gloss_training.seeds import generator_for, torch_seed
from gloss_training.world.attributes import attributes_of
from gloss_training.world.documents import damaged_story
from gloss_training.world.settings import ShapeSettings, WorldSettings
from gloss_training.world.target_batches import IGNORED, batch_of_ids, state_labels


def target_config(shape: ShapeSettings, tokenizer: Any) -> Qwen3Config:
    """The Hugging Face configuration of the target."""
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.max_length,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )


class StateHead(torch.nn.Module):
    """Linear read-out of every attribute's class, and of the token, from layer K's direction.

    It sees the state scaled to unit root mean square: a head on the raw state is cheapest to
    please by making the state long (norms of 86 beside embeddings of 1), and an AV that starts
    from such weights drowns the injected vector; it then needs twice the steps.
    """

    def __init__(
        self, hidden_size: int, vocab_size: int, attributes: Mapping[str, Sequence[str]]
    ) -> None:
        super().__init__()
        self.sizes = [*(len(values) + 1 for values in attributes.values()), vocab_size]
        self.linear = torch.nn.Linear(hidden_size, sum(self.sizes))

    def forward(
        self, hidden_states: torch.Tensor, facts: torch.Tensor, tokens: torch.Tensor
    ) -> torch.Tensor:
        """hidden_states: [b, t, d], facts: [b, t, attributes], tokens: [b, t] -> mean loss, scalar.

        The mean is over attributes and the token alike; IGNORED labels count nowhere.
        """
        directions = functional.rms_norm(hidden_states, hidden_states.shape[-1:], eps=1e-6)
        parts = self.linear(directions).split(self.sizes, dim=-1)
        labels = [*facts.unbind(-1), tokens]
        losses = [
            functional.cross_entropy(part.flatten(0, 1), label.flatten())
            for part, label in zip(parts, labels, strict=True)
        ]
        return torch.stack(losses).mean()


def train_target(
    world: WorldSettings,
    seed: int,
    tokenizer: Any,
    progress: Progress,
    checkpoints: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Qwen3ForCausalLM, dict[str, float]]:
    """Trains the target from scratch on fresh stories every step; the model and last figures.

    Its weights are float32; what is multiplied with them is rounded to `dtype`.
    """
    torch_seed(seed, "target")
    attributes = attributes_of(world.num_attributes)
    model = Qwen3ForCausalLM(target_config(world.shape, tokenizer))
    head = StateHead(world.shape.hidden_size, len(tokenizer), attributes)
    trained = torch.nn.ModuleDict({"model": model.train(), "head": head}).to(device)
    layer_output = world.shape.layer_index + 1
    batch_size = world.training.batch_size

    def losses(step: int) -> Iterator[Losses]:
        generator = generator_for(seed, f"target-{step}")
        stories = [damaged_story(world, generator) for _ in range(batch_size)]
        token_ids, num_words = batch_of_ids(tokenizer, stories)
        facts = state_labels(stories, num_words, attributes).to(device)
        token_ids = token_ids.to(device)
        tokens, labels = token_ids[:, :-1], token_ids[:, 1:].clone()
        unwanted = (labels == tokenizer.pad_token_id) | (labels == tokenizer.unk_token_id)
        labels[unwanted] = IGNORED
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            output = model(input_ids=tokens, output_hidden_states=True)
            language = functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten())
            read = tokens.masked_fill(facts[..., 0] == IGNORED, IGNORED)
            state = head(output.hidden_states[layer_output], facts, read)
        loss = language + world.state_head_weight * state
        yield {"loss": loss, "language_loss": language, "state_loss": state}

    supervision = Supervision(
        stage="target",
        weights=dict(trained.named_parameters()),
        losses=losses,
        units=lambda step: batch_size,
    )
    figures = train(supervision, world.training, progress, checkpoints)
    return model.eval(), figures
