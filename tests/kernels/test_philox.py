"""Philox4x32-10 against the vectors its authors published, and the uniforms made of it."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from gloss_kernels.reference import philox
from gloss_kernels.reference.philox import philox_uniform
from support.backends import BACKENDS, REFERENCE, TRITON, Backend

# Random123, tests/kat_vectors, "philox4x32 10": counter, key, result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


def _words(text: str) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor(int(word, 16)) for word in text.split())


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_published_vectors(counter: str, key: str, result: str) -> None:
    key_words = _words(key)
    words = philox.philox_words(_words(counter), (key_words[0], key_words[1]))
    assert [int(word) for word in words] == [int(word) for word in _words(result)]


def _signed(value: int) -> torch.Tensor:
    return torch.tensor(value - 2**64 if value >= 2**63 else value)


def draw(backend: Backend, *coordinates: torch.Tensor) -> torch.Tensor:
    """The backend's uniforms, on the CPU."""
    return backend.ops.philox_uniform(*(c.to(backend.device) for c in coordinates)).cpu()


@pytest.mark.parametrize("backend", BACKENDS)
def test_where_each_coordinate_goes(backend: Backend) -> None:
    """The third vector again, through the public function's 64-bit seed and item key."""
    uniform = draw(
        backend,
        _signed(0x299F31D0_A4093822),
        _signed(0x03707344_13198A2E),
        torch.tensor(0x85A308D3),
        torch.tensor(0x243F6A88),
    )
    assert uniform.shape == () and uniform.dtype == torch.float32
    assert float(uniform) == ((0xD16CFE09 >> 9) + 0.5) * 2.0**-23


@pytest.mark.parametrize(("word", "expected"), [(0, 2.0**-24), (0xFFFFFFFF, 1 - 2.0**-24)])
def test_strictly_inside_the_unit_interval(
    monkeypatch: pytest.MonkeyPatch, word: int, expected: float
) -> None:
    monkeypatch.setattr(philox, "philox_words", lambda counter, key: (torch.tensor([word]),) * 4)
    zero = torch.zeros(1, dtype=torch.int64)
    uniform = philox_uniform(zero, zero, zero, zero)
    assert uniform.dtype == torch.float32
    assert 0 < float(uniform) < 1 and float(uniform) == expected


@pytest.mark.parametrize("along", range(4))
def test_uniform_along_every_coordinate(along: int) -> None:
    """Kolmogorov-Smirnov over 100,000 neighbours in one coordinate; the draws are fixed."""
    coordinates = [torch.tensor([7]), torch.tensor([3]), torch.tensor([1]), torch.tensor([5])]
    coordinates[along] = torch.arange(100_000)
    uniforms = philox_uniform(*coordinates).double().numpy()
    assert stats.kstest(uniforms, "uniform").pvalue > 0.01
    assert abs(stats.pearsonr(uniforms[:-1], uniforms[1:]).statistic) < 0.01


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("along", [0, 1])
def test_all_64_bits_count(backend: Backend, along: int) -> None:
    coordinates = [torch.zeros(64, dtype=torch.int64) for _ in range(4)]
    coordinates[along] = torch.stack([_signed(1 << bit) for bit in range(64)])
    drawn = draw(backend, *coordinates)
    zero = torch.zeros(1, dtype=torch.int64)
    drawn = torch.cat((drawn, draw(backend, zero, zero, zero, zero)))
    assert drawn.unique().numel() == 65


@pytest.mark.parametrize("backend", BACKENDS)
def test_coordinates_are_not_interchangeable(backend: Backend) -> None:
    values = [torch.tensor([v]) for v in (1, 2, 3, 4)]
    orders = [(0, 1, 2, 3), (1, 0, 2, 3), (0, 2, 1, 3), (0, 1, 3, 2), (3, 1, 2, 0)]
    drawn = {float(draw(backend, *[values[i] for i in order])) for order in orders}
    assert len(drawn) == len(orders)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_alone_and_in_any_batch(backend: Backend) -> None:
    generator = torch.Generator().manual_seed(0)
    seeds, keys = (torch.randint(-(2**62), 2**62, (37, 1), generator=generator) for _ in range(2))
    samples = torch.arange(37).unsqueeze(1)
    positions = torch.arange(11).unsqueeze(0)
    together = draw(backend, seeds, keys, samples, positions)
    assert together.shape == (37, 11)
    for row in (0, 17, 36):
        for position in (0, 10):
            alone = draw(backend, seeds[row], keys[row], samples[row], torch.tensor([position]))
            assert torch.equal(alone[0], together[row, position])
    assert draw(backend, seeds[:0], keys[:0], samples[:0], positions).shape == (0, 11)


def _random(*shape: int, seed: int, low: int = -(2**63), high: int = 2**63 - 1) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "shapes",
    [
        ((3, 1), (3, 1), (3, 1), (1, 5)),
        ((37, 1), (37, 1), (37, 1), (1, 300)),
        ((1, 130), (9, 1), (9, 130), (1, 1)),
        ((2000, 1), (1,), (), (2000, 1)),
        ((1500,), (1500,), (1,), (1500,)),
        ((7, 3), (3,), (7, 1), (7, 3)),
    ],
)
def test_the_kernel_has_the_references_bits(shapes: tuple[tuple[int, ...], ...]) -> None:
    full = {"seed": 1}, {"seed": 2}, {"seed": 3, "low": 0, "high": 2**32}
    draws = (*full, {"seed": 4, "low": 0, "high": 2**32})
    coordinates = [_random(*s, **options) for s, options in zip(shapes, draws, strict=True)]
    expected = draw(REFERENCE, *coordinates)
    assert torch.equal(draw(TRITON, *coordinates), expected)
    assert expected.unique().numel() > 0.99 * expected.numel()


@pytest.mark.parametrize("backend", BACKENDS)
def test_views_are_read_by_their_strides(backend: Backend) -> None:
    table = _random(9, 10, seed=5)
    zero = torch.zeros(1, 1, dtype=torch.int64)
    seeds, keys = table[:, 3:4], table.t()[:6, :9].t()
    expected = philox_uniform(seeds.contiguous(), keys.contiguous(), zero, zero)
    assert torch.equal(draw(backend, seeds, keys, zero, zero), expected)
