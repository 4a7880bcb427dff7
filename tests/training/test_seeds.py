"""Random streams repeat for a seed and a use, and differ in both."""

import torch

from gloss_training.seeds import generator_for, stream_seed, torch_seed


def test_streams_repeat_and_differ() -> None:
    assert stream_seed(0, "av") == stream_seed(0, "av")
    seeds = {stream_seed(seed, use) for seed in range(5) for use in ("av", "ar", "target")}
    assert len(seeds) == 15
    assert all(0 <= seed < 2**63 for seed in seeds)
    draws = [generator_for(1, "av").integers(1 << 60) for _ in range(2)]
    assert draws[0] == draws[1] != generator_for(1, "ar").integers(1 << 60)


def test_torch_is_seeded() -> None:
    torch_seed(3, "av")
    first = torch.rand(4)
    torch_seed(3, "av")
    assert torch.equal(torch.rand(4), first)
