"""A forward pass that is asked for some rows gives those, and spares the last block the others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gloss_engine.checkpoint import read_spec, stream_weights
from gloss_engine.models.batch import ForwardBatch, Injection
from gloss_engine.models.decoder import Decoder
from gloss_engine.models.linear import Linear
from gloss_kernels import Operations, PackedPlan
from support.checkpoints import Pair

LENGTHS = (5, 3, 6)


def _decoder(pair: Pair) -> Decoder:
    decoder = Decoder(
        read_spec(pair.av),
        max_positions=64,
        operations=Operations("reference"),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    stream_weights(pair.av, decoder.targets())
    decoder.pack()
    return decoder


def _run(
    decoder: Decoder, wanted: slice | Tensor | None, injection: Injection | None = None
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    total = sum(LENGTHS)
    starts = torch.tensor([0, *LENGTHS]).cumsum(0)
    batch = ForwardBatch(
        positions=torch.cat([torch.arange(length) for length in LENGTHS]),
        packed=PackedPlan(starts, num_tokens=total, max_seqlen=max(LENGTHS)),
        wanted=wanted,
        injection=injection,
    )
    ids = torch.randint(5, 40, (total,), generator=torch.Generator().manual_seed(1))
    collected: list[tuple[Tensor, Tensor]] = []
    return decoder.forward(decoder.embed(ids), batch, collected), collected


@pytest.mark.parametrize("wanted", [slice(0, 4), slice(0, 0), torch.tensor([13, 4, 7])])
@pytest.mark.parametrize("injected", [None, 0, -1])
@torch.inference_mode()
def test_the_rows_that_are_wanted(
    pair: Pair, wanted: slice | Tensor, injected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also behind an injection after the last block, whose rows count among all; keys of all."""
    decoder = _decoder(pair)
    injection = None
    if injected is not None:
        direction = torch.nn.functional.normalize(torch.ones(2, decoder.spec.d_model), dim=1)
        layer = injected % len(decoder.blocks)
        injection = Injection(layer_index=layer, rows=torch.tensor([4, 9]), directions=direction)
    whole, all_keys = _run(decoder, None, injection)
    rows_run: list[int] = []
    down = decoder.blocks[-1].down
    call = Linear.__call__

    def counted(self: Linear, rows: Tensor) -> Tensor:
        if self is down:
            rows_run.append(rows.shape[0])
        return call(self, rows)

    monkeypatch.setattr(Linear, "__call__", counted)
    found, keys = _run(decoder, wanted, injection)
    torch.testing.assert_close(found, whole[wanted], atol=1e-5, rtol=1e-5)
    for got, expected in zip(keys, all_keys, strict=True):
        assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])
    assert rows_run == [sum(LENGTHS) if injected == -1 else whole[wanted].shape[0]]
