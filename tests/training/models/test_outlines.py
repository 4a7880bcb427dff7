"""A model without its weights: it goes from process to process, and is the same model otherwise."""

from __future__ import annotations

import pickle

import pytest
import torch

from gloss_training.models.model_files import cast_weights
from gloss_training.models.outlines import loaded, outline
from gloss_training.models.sharding import ALONE
from support.small_pairs import ARCHS, made


@pytest.mark.parametrize("arch", ARCHS)
def test_all_but_the_weights_arrives(arch: str) -> None:
    model = cast_weights(made(arch, num_layers=3), torch.bfloat16)
    model.lm_head.weight.requires_grad_(False)
    sent = pickle.dumps(outline(model))
    # Its weights alone are four times as much.
    assert len(sent) < 50_000
    found = pickle.loads(sent)
    weights = dict(found.named_parameters(remove_duplicate=False))
    for name, weight in model.named_parameters(remove_duplicate=False):
        assert weights[name].is_meta and not weight.is_meta
        for fact in ("shape", "dtype", "requires_grad"):
            assert getattr(weights[name], fact) == getattr(weight, fact), name
    tied = [each.lm_head.weight is each.get_input_embeddings().weight for each in (model, found)]
    assert tied == [arch.startswith("gemma3")] * 2
    buffers = dict(found.named_buffers())
    assert "embed_scale" in " ".join(buffers) or not arch.startswith("gemma3")
    for name, buffer in model.named_buffers():
        assert torch.equal(buffers[name], buffer), name
    assert found.generation_config.to_dict() == model.generation_config.to_dict()
    assert not found.training


def test_one_process_alone_loads() -> None:
    model = torch.nn.Linear(3, 3)
    assert loaded(ALONE, lambda: model) is model
