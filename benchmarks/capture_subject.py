"""The models that captures are timed on: a target, the same weights in transformers, and a buffer.

The embedded target; a Qwen2 0.5B shape of four blocks, for a CPU; and on a GPU the 7B shape that
`suite_shape` makes. Weights of shapes are random. transformers gets three models on the same
weights, since hooks stay on all modules of one that was once asked for `output_hidden_states`, and
on one whose tap is kept open: what those ways are compared with must not carry them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from suite_shape import (
    INJECTION_SCALE,
    SEED,
    plain_targets,
    random_weights,
    word_tokenizer,
)
from suite_transformers import on_weights
from torch import Tensor
from transformers import Qwen2Config

from gloss_engine import EngineConfig
from gloss_engine.models.decoder import Decoder
from gloss_engine.models.registry import spec_from_config
from gloss_engine.prefill_buffer import PrefillBuffer
from gloss_engine.program import AvProgram
from gloss_engine.target.target import Target

HALF_BILLION = Qwen2Config(
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=4,
    num_attention_heads=14,
    num_key_value_heads=2,
    vocab_size=151936,
    tie_word_embeddings=False,
)
"""Four of its 24 blocks, so that enough passes are timed: a capture costs as much behind all 24, of
a pass that takes longer."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What captures are timed on.

    Attributes:
        name: for rows.
        target: the engine's side, whole.
        model: the transformers model of the same weights, without hooks but for a pass.
        tapped, asked: two more, for a tap that is kept open, and to be asked for hidden states.
        buffer: as of an AV of the same width, with a place for every row of the longest text.
        text_ids: [longest] int64 tokens of a text, on the host.
    """

    name: str
    target: Target
    model: Any
    tapped: Any
    asked: Any
    buffer: PrefillBuffer
    text_ids: Tensor

    @property
    def device(self) -> torch.device:
        """Where it lives."""
        return self.target.decoder.device

    @property
    def layer_index(self) -> int:
        """K."""
        return self.target.layer_index


def embedded_subject(target: Target, text_ids: list[int]) -> Subject:
    """The target that ships with Gloss, loaded."""
    from transformers import AutoModelForCausalLM

    def model() -> Any:
        return AutoModelForCausalLM.from_pretrained(target.directory, dtype=torch.float32).eval()

    return _subject("embedded", target, model, torch.tensor(text_ids))


def shape_subject(
    name: str, config: Qwen2Config, layer_index: int, settings: EngineConfig, longest: int
) -> Subject:
    """A shape with random weights.

    Args:
        name: for rows.
        config: the shape.
        layer_index: K.
        settings: device, precision and limits.
        longest: tokens of its text.
    """
    decoder = random_target_decoder(config, settings)
    weights = plain_targets(decoder)
    if decoder.device.type == "cpu":
        # Packing takes the blocks' weights away.
        weights = {name: weight.clone() for name, weight in weights.items()}
    decoder.pack()
    target = shape_target(name, decoder, layer_index, settings)
    ids = random_ids(config.vocab_size, longest)
    return _subject(name, target, lambda: on_weights(config, weights), ids)


def loaded_subject(name: str, target: Target, config: Qwen2Config, longest: int) -> Subject:
    """A shape's target that an engine runs, whose weights packing has left in place."""
    weights = plain_targets(target.decoder)
    ids = random_ids(config.vocab_size, longest)
    return _subject(name, target, lambda: on_weights(config, weights), ids)


def _subject(name: str, target: Target, model: Callable[[], Any], text_ids: Tensor) -> Subject:
    buffer = PrefillBuffer(
        target.decoder, _program(target.decoder), max_prefills=1, num_places=len(text_ids)
    )
    return Subject(
        name=name,
        target=target,
        model=model(),
        tapped=model(),
        asked=model(),
        buffer=buffer,
        text_ids=text_ids,
    )


def shape_target(name: str, decoder: Decoder, layer_index: int, settings: EngineConfig) -> Target:
    """A packed decoder as a target, with a tokenizer of words and nothing that ends a text."""
    return Target(
        Path(name),
        decoder.spec,
        decoder,
        word_tokenizer(decoder.spec.vocab_size),
        layer_index,
        min(settings.max_text_tokens, decoder.spec.max_positions),
    )


@torch.no_grad()
def random_target_decoder(config: Qwen2Config, settings: EngineConfig) -> Decoder:
    """A whole decoder with random weights, not packed yet; no inference tensors, as transformers'
    parameters are views of them."""
    decoder = Decoder(
        spec_from_config(config),
        max_positions=settings.max_text_tokens + settings.max_watch_tokens,
        operations=settings.operations(),
        device=settings.resolve_device(),
        dtype=settings.resolve_dtype(),
    )
    random_weights(plain_targets(decoder), decoder.device, SEED + 10)
    return decoder


def random_ids(vocab_size: int, length: int) -> Tensor:
    """[length] int64 tokens on the host; the same first ones for every length."""
    generator = torch.Generator().manual_seed(SEED + 11)
    return torch.randint(vocab_size, (length,), generator=generator)


def _program(decoder: Decoder) -> AvProgram:
    """What a prefill buffer asks of an AV."""
    vocab_size, device = decoder.spec.vocab_size, decoder.device
    return AvProgram(
        suffix_ids=torch.zeros(2, dtype=torch.int64, device=device),
        prefix=None,
        injection_scale=INJECTION_SCALE,
        injection_mode="replace",
        stop_table=torch.zeros(2, vocab_size, dtype=torch.uint8, device=device),
        is_eos=torch.zeros(vocab_size, dtype=torch.bool, device=device),
    )
