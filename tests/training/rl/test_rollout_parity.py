"""The engine's log-probabilities are the trainer's: of both kinds of pair, of every family, after
updates, hot, with early ends, whatever else runs, and when the policy says the marker itself."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gloss_engine.av.prompt import build_prompt
from gloss_engine.checkpoint import load_tokenizer
from gloss_engine.sidecar import read_sidecar
from gloss_server.embedded import embedded_pair
from gloss_training.models.decoder import Decoder
from gloss_training.models.full_pair import FullPair
from gloss_training.models.lora import LoraSettings
from gloss_training.models.lora_pair import LoraPair
from gloss_training.models.model_files import load_language_model
from gloss_training.models.pair import Pair
from gloss_training.models.prompts import MarkedPrompt
from gloss_training.models.reconstructor import from_target
from gloss_training.rl.responses import Responses
from gloss_training.rl.rollout import Rollout
from gloss_training.rl.sampler import Sampler
from gloss_training.rl.settings import RlSettings
from gloss_training.rl.vocabulary import token_terms
from support.checkpoints import LAYER_INDEX
from support.checkpoints import Pair as Directories
from support.engine_runs import activations, small_engine

HEAT = 1.3
SETTINGS = RlSettings(samples_per_prompt=3, max_new_tokens=20, temperature=HEAT)


def prompt_of(directory: Path) -> MarkedPrompt:
    """The AV's prompt as its checkpoint says."""
    prompt = build_prompt(load_tokenizer(directory), read_sidecar(directory))
    return MarkedPrompt(token_ids=prompt.ids, marker_index=prompt.marker_position)


def pair_of(kind: str, model: Any, prompt: MarkedPrompt, layer_index: int) -> Pair:
    if kind == "lora":
        return LoraPair(model, prompt, layer_index, LoraSettings(rank=3, alpha=6.0), seed=0)
    reference, target = copy.deepcopy(model), copy.deepcopy(model)
    return FullPair(Decoder(model), Decoder(reference), from_target(target, layer_index), prompt)


@torch.no_grad()
def train(pair: Pair, seed: int, share: float = 0.1) -> None:
    """As updates do: move all that trains."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in pair.av_parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        parameter.add_(share * noise * parameter.float().std().clamp_min(0.05))


@torch.no_grad()
def differences(pair: Pair, rollout: Rollout, injection_scale: float) -> Tensor:
    """The trainer's log-probability minus the engine's, of every token."""
    responses = Responses.of(rollout, injection_scale, torch.device("cpu"))
    states = pair.response_states(responses.rows, responses.token_ids)[responses.mask]
    ids = responses.token_ids[responses.mask]
    terms = token_terms(states, ids, pair.logits, temperature=HEAT, chunk=50)
    return terms.logprobs - responses.engine_logprobs[responses.mask]


@torch.no_grad()
def make_likely(model: Any, token: int, like: int, gain: float = 1.0) -> None:
    """Give a token the logits of another, which are mostly high."""
    head = model.get_output_embeddings().weight
    head[token] = gain * head[like]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_engine_has_the_trainers_log_probabilities(
    pair: Directories, arch: str, kind: str
) -> None:
    scale = read_sidecar(pair.av).injection_scale
    assert scale is not None
    engine = small_engine(pair.av, num_slots=7, max_new_tokens=20)
    sampler, prompt = Sampler(engine), prompt_of(pair.av)
    rows = activations(4, engine.facts.d_model)
    often = Counter(t for ids in sampler.sample(rows, 1, SETTINGS).response_ids for t in ids)
    eos_ids = engine.reader.eos_ids
    likely = [token for token, _ in often.most_common(9) if token not in eos_ids]
    model = load_language_model(pair.av)
    make_likely(model, prompt.marker_id, likely[0])
    make_likely(model, min(eos_ids), likely[1], gain=1.2)
    trained = pair_of(kind, model, prompt, LAYER_INDEX)

    rollouts = []
    for update in range(2):
        train(trained, seed=update)
        assert sampler.load(trained) == 0.0
        rollouts += [sampler.sample(rows[:count], update, SETTINGS) for count in (4, 1)]
        for rollout in rollouts[-2:]:
            assert differences(trained, rollout, scale).abs().max() < 1e-4
    assert differences(trained, rollouts[0], scale).abs().max() > 0.1
    lengths = [len(ids) for rollout in rollouts for ids in rollout.response_ids]
    assert min(lengths) < 20 and max(lengths) == 20
    said = [ids[:-1] for rollout in rollouts for ids in rollout.response_ids]
    assert any(prompt.marker_id in ids for ids in said)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_in_bfloat16_they_stay_near(kind: str, story_rows: Any) -> None:
    """Both compute in bfloat16, in other orders: 0.03 nats in the mean and 2e-3 of k3.

    The pair that ships was trained, so its logits are what a policy's are.
    """
    directory = embedded_pair().av
    scale = read_sidecar(directory).injection_scale
    assert scale is not None
    model = load_language_model(directory, torch.bfloat16)
    trained = pair_of(kind, model, prompt_of(directory), 1)
    sampler = Sampler(small_engine(directory, dtype="bfloat16", num_slots=64, max_new_tokens=20))
    train(trained, seed=2, share=0.02)
    lost = sampler.load(trained)
    # A full pair has the weights that it computes with; adapters are merged in float32.
    assert lost == 0 if kind == "full" else 0 < lost < 1
    rollout = sampler.sample(torch.tensor(story_rows[:20]), 3, SETTINGS)
    gap = differences(trained, rollout, scale)
    assert gap.numel() > 500
    assert gap.abs().mean() <= 0.03
    assert (gap.expm1() - gap).mean() <= 2e-3
