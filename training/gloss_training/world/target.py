"""The target: a small Qwen3 language model of stories whose layer K carries the facts.

A plain language model this small does not keep the facts of the text in its residual stream: its
attention fetches them when a word needs them. So a linear state head on the output of block K is
trained along with next-token prediction: at each position it names the facts revealed so far and
the word that stands there. Both are planted, and the head is thrown away.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import Qwen3Config, Qwen3ForCausalLM

from gloss_training.learning.progress import Progress
from gloss_training.learning.supervised import Losses, Supervision, train
from gloss_training.seeds import generator_for, torch_seed
from gloss_training.world.attributes import ATTRIBUTES, value_index
from gloss_training.world.settings import ShapeSettings, WorldSettings
from gloss_training.world.stories import Story
from gloss_training.world.target_batches import batch_of_ids, damaged_story

IGNORED = -100


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


def state_labels(stories: list[Story], length: int) -> torch.Tensor:
    """[batch, length, attributes] int64: class of each fact revealed by each position, 0 unknown.

    Positions past the end of a story are IGNORED.
    """
    labels = torch.full((len(stories), length, len(ATTRIBUTES)), IGNORED, dtype=torch.int64)
    columns = {name: index for index, name in enumerate(ATTRIBUTES)}
    for row, story in enumerate(stories):
        labels[row, : len(story.words)] = 0
        for mention in sorted(story.mentions, key=lambda m: m.position):
            label = value_index(mention.attribute, mention.value)
            span = slice(mention.position, len(story.words))
            labels[row, span, columns[mention.attribute]] = label
    return labels


class StateHead(torch.nn.Module):
    """Linear read-out of every attribute's class, and of the word, from layer K's direction.

    It sees the state scaled to unit root mean square: a head on the raw state is cheapest to
    please by making the state long (norms of 86 beside embeddings of 1), and an AV that starts
    from such weights drowns the injected vector; it then needs twice the steps.
    """

    def __init__(self, hidden_size: int, vocab_size: int) -> None:
        super().__init__()
        self.sizes = [*(len(values) + 1 for values in ATTRIBUTES.values()), vocab_size]
        self.linear = torch.nn.Linear(hidden_size, sum(self.sizes))

    def forward(
        self, hidden_states: torch.Tensor, facts: torch.Tensor, words: torch.Tensor
    ) -> torch.Tensor:
        """hidden_states: [b, t, d], facts: [b, t, attributes], words: [b, t] -> mean loss, scalar.

        The mean is over attributes and the word alike; IGNORED labels count nowhere.
        """
        directions = functional.rms_norm(hidden_states, hidden_states.shape[-1:], eps=1e-6)
        parts = self.linear(directions).split(self.sizes, dim=-1)
        labels = [*facts.unbind(-1), words]
        losses = [
            functional.cross_entropy(part.flatten(0, 1), label.flatten())
            for part, label in zip(parts, labels, strict=True)
        ]
        return torch.stack(losses).mean()


def train_target(
    world: WorldSettings, seed: int, tokenizer: Any, progress: Progress, checkpoints: Path
) -> tuple[Qwen3ForCausalLM, dict[str, float]]:
    """Trains the target from scratch on fresh stories every step; the model and last figures."""
    torch_seed(seed, "target")
    model = Qwen3ForCausalLM(target_config(world.shape, tokenizer))
    head = StateHead(world.shape.hidden_size, len(tokenizer))
    layer_output = world.shape.layer_index + 1
    batch_size = world.training.batch_size

    def losses(step: int) -> Iterator[Losses]:
        generator = generator_for(seed, f"target-{step}")
        stories = [damaged_story(world, generator) for _ in range(batch_size)]
        token_ids = batch_of_ids(tokenizer, stories)
        output = model(input_ids=token_ids[:, :-1], output_hidden_states=True)
        labels = token_ids[:, 1:].clone()
        unwanted = (labels == tokenizer.pad_token_id) | (labels == tokenizer.unk_token_id)
        labels[unwanted] = IGNORED
        language = functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten())
        facts = state_labels(stories, labels.shape[1])
        words = token_ids[:, :-1].masked_fill(facts[..., 0] == IGNORED, IGNORED)
        state = head(output.hidden_states[layer_output], facts, words)
        loss = language + world.state_head_weight * state
        yield {"loss": loss, "language_loss": language, "state_loss": state}

    trained = torch.nn.ModuleDict({"model": model.train(), "head": head})
    supervision = Supervision(
        stage="target",
        weights=dict(trained.named_parameters()),
        losses=losses,
        units=lambda step: batch_size,
    )
    figures = train(supervision, world.training, progress, checkpoints)
    return model.eval(), figures
