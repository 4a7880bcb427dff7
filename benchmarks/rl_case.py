"""The pair that `bench_rl.py` trains: a Qwen2 shape with random weights made on the device.

Shapes, weights and words are the GPU suite's (`suite_shape.py`). Adapters are trained over one
base, and the engine has the AV's weights for itself. Every response is as long as the shape says
and counts as closed: in place of the closing tag's automaton there is one that counts tokens, so
that the work of a step is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from suite_shape import (
    FVE_BASELINE,
    INJECTION_SCALE,
    SEED,
    Shape,
    random_weights,
    word_tokenizer,
)
from torch import Tensor
from transformers import AutoModelForCausalLM

from gloss_engine.av.verbalizer import ExplanationReader
from gloss_engine.config import EngineConfig
from gloss_engine.engine import Engine
from gloss_engine.facts import ModelFacts
from gloss_engine.live_weights import LiveWeights
from gloss_engine.loading import machinery
from gloss_engine.models.decoder import Decoder
from gloss_engine.program import AvProgram
from gloss_training.batches import pad_right
from gloss_training.models.lora import LoraSettings
from gloss_training.models.lora_pair import LoraPair
from gloss_training.models.prompts import MarkedPrompt
from gloss_training.rl.sampler import Sampler
from gloss_training.rl.task import RlTask

AR_TEMPLATE = "w1 w2 w3 w4 w5 w6 w7 w8 w9 {explanation} w10 w11 w12 w13"


@dataclass(frozen=True, kw_only=True)
class RlCase:
    """All that RL needs.

    Attributes:
        pair, sampler: what is trained, and the engine that has its AV.
        task: random activations, read by words.
    """

    pair: LoraPair
    sampler: Sampler
    task: RlTask


def build(
    shape: Shape,
    *,
    num_prompts: int,
    samples: int,
    rank: int,
    is_checkpointed: bool,
    device: torch.device,
) -> RlCase:
    """Base, adapters and engine.

    Args:
        shape: the sizes.
        num_prompts, samples: of a step, all of whose responses run at once.
        rank: of the adapters.
        is_checkpointed: whether blocks run again in the backward pass.
        device: of all.
    """
    generator = torch.Generator().manual_seed(SEED + 1)
    ids = torch.randint(shape.spec.vocab_size, (shape.prompt_len,), generator=generator).tolist()
    prompt = MarkedPrompt(token_ids=tuple(ids), marker_index=shape.prefix_len)
    config = EngineConfig(
        device=device.type, num_slots=num_prompts * samples, max_new_tokens=shape.new_tokens
    )
    pair = LoraPair(
        _base(shape, config),
        prompt,
        shape.ar_layers - 1,
        LoraSettings(rank=rank),
        seed=SEED,
        gradient_checkpointing=is_checkpointed,
    )
    # As after AV SFT: what RL began with has adapters too.
    pair.keep_reference()
    tokenizer = word_tokenizer(shape.spec.vocab_size)
    engine = _engine(shape, config, prompt, tokenizer)
    sampler = Sampler(engine)
    sampler.load(pair)
    engine.warm_up()
    activations = torch.randn(num_prompts, shape.spec.d_model, generator=generator)

    def encode(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        rows = tokenizer([AR_TEMPLATE.format(explanation=text) for text in texts]).input_ids
        return pad_right(rows, 0), torch.tensor([len(row) for row in rows])

    task = RlTask(
        activations=activations,
        texts=[""] * num_prompts,
        injection_scale=INJECTION_SCALE,
        fve_baseline=FVE_BASELINE,
        encode=encode,
    )
    return RlCase(pair=pair, sampler=sampler, task=task)


def _base(shape: Shape, config: EngineConfig) -> Any:
    """The transformers model, its weights drawn in place."""
    with config.resolve_device():
        model = AutoModelForCausalLM.from_config(
            shape.config, dtype=config.resolve_dtype(), attn_implementation="sdpa"
        )
    weights = {name: parameter.data for name, parameter in model.named_parameters()}
    random_weights(weights, config.resolve_device(), SEED)
    return model


def _engine(shape: Shape, config: EngineConfig, prompt: MarkedPrompt, tokenizer: Any) -> Engine:
    """An engine of zeros, whose weights are still to be loaded."""
    device, index = config.resolve_device(), prompt.marker_index
    decoder = Decoder(
        shape.spec,
        max_positions=shape.prompt_len + shape.new_tokens,
        operations=config.operations(),
        device=device,
        dtype=config.resolve_dtype(),
    )
    for target in decoder.targets().values():
        assert isinstance(target, Tensor)
        target.zero_()
    decoder.pack()
    prefix_ids = prompt.token_ids[:index]
    with torch.inference_mode():
        prefix = decoder.compute_prefix(torch.tensor(prefix_ids, device=device))
    program = AvProgram(
        suffix_ids=torch.tensor(prompt.token_ids[index:], device=device),
        prefix=prefix,
        injection_scale=INJECTION_SCALE,
        injection_mode="replace",
        stop_table=counting_table(shape.new_tokens, shape.spec.vocab_size).to(device),
        is_eos=torch.zeros(shape.spec.vocab_size, dtype=torch.bool, device=device),
    )
    runner, scheduler = machinery(decoder, program, config)
    facts = ModelFacts(
        d_model=shape.spec.d_model,
        layer_index=None,
        prefix_len=index,
        suffix_len=scheduler.suffix_len,
        max_new_tokens=shape.new_tokens,
    )
    return Engine(
        runner,
        scheduler,
        ExplanationReader(tokenizer, frozenset()),
        facts,
        lag=config.resolve_lag(),
        weights=LiveWeights(decoder, program, prefix_ids),
    )


def counting_table(count: int, vocab_size: int) -> Tensor:
    """[count + 1, vocab_size] uint8: an automaton that ends after `count` tokens, whatever."""
    assert 0 < count < 256
    after = torch.arange(1, count + 2, dtype=torch.uint8).clamp_max(count)
    return after[:, None].expand(-1, vocab_size).contiguous()
