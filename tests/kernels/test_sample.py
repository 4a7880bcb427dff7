"""Sampling against the exact filtered distribution in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from gloss_kernels.reference.philox import philox_uniform
from gloss_kernels.reference.sample import _invert
from support.backends import BACKEND_DTYPES, BACKENDS, ON_GPU, REFERENCE, TRITON, Backend

# Triton 3.6's interpreter counts loops in one-element arrays.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Conversion of an array with ndim:DeprecationWarning"
)

# Thousands of draws: where a row does not cost the interpreter's milliseconds.
FAST_BACKENDS = [REFERENCE, TRITON] if ON_GPU else [REFERENCE]

# A token's share of the unit interval is a float32 sum of float32 probabilities; 1e-6 is some 16
# units in the last place of 1.
EDGE = 1e-6
# The draws are fixed, so a p-value is a number, not a chance: it stays above this or never does.
MIN_P_VALUE = 1e-3
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cold": {"temperature": 0.6},
    "hot": {"temperature": 2.5},
    "top_k": {"top_k": 11},
    "top_k_one": {"top_k": 1},
    "top_k_all": {"top_k": 10_000},
    "top_p": {"top_p": 0.7},
    "top_p_tiny": {"top_p": 1e-6},
    "min_p": {"min_p": 0.1},
    "penalty": {"penalty": 1.7},
    "penalty_below_one": {"penalty": 0.6},
    "k_then_p": {"top_k": 12, "top_p": 0.8},
    "p_then_min": {"top_p": 0.9, "min_p": 0.08},
    "k_then_min": {"top_k": 30, "min_p": 0.15},
    "all": {"temperature": 1.4, "top_k": 40, "top_p": 0.85, "min_p": 0.05, "penalty": 1.3},
}


def _logits(vocab_size: int, seed: int = 0, spread: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(vocab_size, generator=generator) * spread


def _presence(vocab_size: int) -> Tensor:
    """Every third token, likely and unlikely ones alike."""
    return torch.arange(vocab_size) % 3 == 1


def _bitmap(present: Tensor) -> Tensor:
    """[vocab_size] bool as the sampler's words [1, ceil(vocab_size / 32)] int32."""
    padded = torch.zeros(-(-present.shape[0] // 32) * 32, dtype=torch.int64)
    padded[: present.shape[0]] = present
    return (padded.view(1, -1, 32) << torch.arange(32)).sum(-1).to(torch.int32)


def penalised(logits: Tensor, penalty: float) -> Tensor:
    exact = logits.double()
    scaled = torch.where(exact > 0, exact / penalty, exact * penalty)
    return torch.where(_presence(logits.shape[0]), scaled, exact)


def distribution(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    penalty: float = 1.0,
) -> Tensor:
    """The filtered distribution of one row [vocab_size], normalised, by the definition."""
    probs = torch.softmax(penalised(logits, penalty) / temperature, dim=-1)
    keep = torch.ones_like(probs, dtype=torch.bool)
    if 0 < top_k < probs.shape[0]:
        keep &= probs >= probs.sort(descending=True).values[top_k - 1]
    if top_p < 1:
        kept = torch.where(keep, probs, 0.0)
        above = torch.stack([kept[probs > p].sum() for p in probs])
        keep &= above < top_p * kept.sum()
    keep &= probs >= min_p * probs.max()
    kept = torch.where(keep, probs, 0.0)
    return kept / kept.sum()


def choose(
    backend: Backend, logits: Tensor, uniforms: Tensor | None, **columns: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """The backend's tokens, logprobs and flags, on the CPU; the arguments stay as they are."""
    moved = {
        name: column.to(backend.device) if isinstance(column, Tensor) else column
        for name, column in columns.items()
    }
    there = logits.clone().to(backend.device)
    if uniforms is not None:
        uniforms = uniforms.to(backend.device)
    tokens, logprobs, finite = backend.ops.sample(there, uniforms, **moved)
    assert tokens.dtype == torch.int64 and logprobs.dtype == torch.float32
    assert finite.dtype == torch.bool
    if backend == TRITON:
        assert torch.equal(there.cpu().nan_to_num(7.0), logits.nan_to_num(7.0)), "logits changed"
    return tokens.cpu(), logprobs.cpu(), finite.cpu()


def draw(backend: Backend, logits: Tensor, uniforms: Tensor, settings: dict[str, Any]) -> Tensor:
    """Tokens of one row's logits for many uniforms; only what `settings` names is passed."""
    tokens = []
    for part in uniforms.split(8192):
        n = part.shape[0]
        names = {"top_k": "top_ks", "top_p": "top_ps", "min_p": "min_ps", "penalty": "penalties"}
        columns: dict[str, Any] = {
            names[name]: torch.full((n,), value)
            for name, value in settings.items()
            if name in names
        }
        if "penalty" in settings:
            columns["presence"] = _bitmap(_presence(logits.shape[0])).expand(n, -1)
        columns["temperatures"] = torch.full((n,), settings.get("temperature", 1.0))
        many = logits.repeat(n, 1)
        tokens.append(choose(backend, many, part, any_greedy=False, **columns)[0])
    return torch.cat(tokens)


def _uniforms(n: int, seed: int = 1) -> Tensor:
    zero = torch.zeros(1, dtype=torch.int64)
    return philox_uniform(torch.tensor([seed]), zero, zero, torch.arange(n))


@pytest.mark.parametrize("backend", FAST_BACKENDS, ids=str)
@pytest.mark.parametrize("name", SETTINGS)
def test_draws_follow_the_filtered_distribution(backend: Backend, name: str) -> None:
    logits = _logits(300)
    probs = distribution(logits, **SETTINGS[name])
    num_draws = 60_000
    tokens = draw(backend, logits, _uniforms(num_draws), SETTINGS[name])
    counts = torch.bincount(tokens, minlength=300)
    assert counts[probs == 0].sum() == 0, "a dropped token was drawn"
    expected = probs * num_draws
    often = expected >= 5
    observed, wanted = counts[often].double(), expected[often]
    if (~often).any() and expected[~often].sum() > 0:
        observed = torch.cat((observed, counts[~often].sum().double().unsqueeze(0)))
        wanted = torch.cat((wanted, expected[~often].sum().unsqueeze(0)))
    if observed.shape[0] == 1:
        assert observed.item() == num_draws
        return
    assert stats.chisquare(observed.numpy(), wanted.numpy()).pvalue > MIN_P_VALUE


def _wrong_orders() -> dict[str, Callable[[Tensor], Tensor]]:
    def min_p_before_top_p(logits: Tensor) -> Tensor:
        kept = distribution(logits, min_p=0.08)
        return distribution(torch.where(kept > 0, kept.log(), -1e9), top_p=0.9)

    def top_p_before_top_k(logits: Tensor) -> Tensor:
        kept = distribution(logits, top_p=0.8)
        return distribution(torch.where(kept > 0, kept.log(), -1e9), top_k=12)

    return {"p_then_min": min_p_before_top_p, "k_then_p": top_p_before_top_k}


@pytest.mark.parametrize("name", _wrong_orders())
def test_the_order_of_the_filters_shows(name: str) -> None:
    """The settings above tell the stated order from the other one."""
    logits = _logits(300)
    stated, swapped = distribution(logits, **SETTINGS[name]), _wrong_orders()[name](logits)
    assert not torch.equal(stated > 0, swapped > 0)


VOCAB_SIZES = {REFERENCE: [1, 2, 127, 128, 129, 1000], TRITON: [1, 2, 127, 129, 1000, 4097, 9000]}
SIZES = [
    pytest.param(backend, size, id=f"{backend}-{size}")
    for backend, sizes in VOCAB_SIZES.items()
    for size in sizes
]
# Above 4,096 tokens there are several tiles, and a filtered row takes the interpreter a second.
INVERSIONS = [
    pytest.param(backend, size, name, id=f"{backend}-{size}-{name}")
    for backend, sizes in VOCAB_SIZES.items()
    for size in sizes
    for name in ("plain", "top_k", "top_p", "all")
    if size < 4000 or ON_GPU or (size, name) in {(4097, "top_p"), (4097, "plain"), (9000, "all")}
]


@pytest.mark.parametrize(("backend", "vocab_size", "name"), INVERSIONS)
def test_inversion_is_exact(backend: Backend, vocab_size: int, name: str) -> None:
    _check_inversion(backend, _logits(vocab_size, seed=vocab_size), SETTINGS[name])


@pytest.mark.skipif(ON_GPU, reason="test_draws_follow_the_filtered_distribution runs there")
@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_in_the_interpreter(name: str) -> None:
    _check_inversion(TRITON, _logits(300), SETTINGS[name])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("spread", "top_p"), [(0.3, 0.9), (0.02, 0.97), (4.0, 0.9)])
def test_a_top_p_that_needs_more_than_the_candidates(
    backend: Backend, spread: float, top_p: float
) -> None:
    logits = _logits(3000, seed=4, spread=spread)
    num_kept = int((distribution(logits, top_p=top_p) > 0).sum())
    assert (num_kept > 1024) == (spread < 4), f"{num_kept} tokens make a poor case"
    _check_inversion(backend, logits, {"top_p": top_p}, num_points=4096)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("settings", [{"top_k": 2000}, {"top_k": 1500, "top_p": 0.99}])
def test_a_top_k_beyond_the_candidates(backend: Backend, settings: dict[str, Any]) -> None:
    _check_inversion(backend, _logits(3000, seed=5, spread=0.5), settings, num_points=4096)


@pytest.mark.parametrize("top_k", [3, 190, 399])
def test_a_top_k_among_logits_of_every_magnitude(top_k: int) -> None:
    """Cutting the range of values would take a hundred rounds here; bit patterns take over."""
    sizes = torch.logspace(-30, 4, 200)
    logits = torch.cat((-sizes, sizes))[torch.randperm(400, generator=_generator(9))]
    # By the logits: even float64 probabilities of most are equal.
    keep = logits >= logits.sort(descending=True).values[top_k - 1]
    weights = torch.where(keep, torch.softmax(logits.double() / 1e4, dim=-1), 0.0)
    settings = {"top_k": top_k, "temperature": 1e4}
    _check_probs(TRITON, logits, settings, weights / weights.sum(), 1 << 10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("settings", [{}, {"top_p": 0.9}, {"top_k": 7}, {"min_p": 0.2}])
@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_logits(backend: Backend, settings: dict[str, Any], sign: int) -> None:
    logits = _logits(200, seed=3) + sign * 1e4
    logits[7::20] = -sign * 1e4
    _check_inversion(backend, logits, settings | {"temperature": 2.0}, num_points=1024)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _points(backend: Backend, running: Tensor, num_points: int) -> Tensor:
    """Uniforms: a fine grid, or a few of which most lie next to a token's edges."""
    extreme = torch.tensor([2.0**-24, 1 - 2.0**-24])
    if backend == REFERENCE or ON_GPU:
        return torch.cat((((torch.arange(num_points) + 0.5) / num_points).float(), extreme))
    token = torch.randint(running.shape[0], (1,), generator=_generator(2))
    edge = running[torch.searchsorted(running, running[token]).clamp_max(running.shape[0] - 1)]
    near = torch.cat((edge - 2 * EDGE, edge + 2 * EDGE)).float()
    near = near[(near > 0) & (near < 1)]
    return torch.cat((near, extreme[1:] if running.shape[0] > 2000 else extreme))


def _check_inversion(
    backend: Backend, logits: Tensor, settings: dict[str, Any], num_points: int = 1 << 14
) -> None:
    """Every uniform gives the token that a float64 running sum gives."""
    _check_probs(backend, logits, settings, distribution(logits, **settings), num_points)


def _check_probs(
    backend: Backend, logits: Tensor, settings: dict[str, Any], probs: Tensor, num_points: int
) -> None:
    running = probs.cumsum(0)
    uniforms = _points(backend, running, num_points)
    exact = uniforms.double()
    expected = torch.searchsorted(running, exact * running[-1], right=True)
    tokens = draw(backend, logits, uniforms, settings)
    assert (probs[tokens] > 0).all(), "a dropped token was drawn"
    off = (tokens != expected).nonzero().squeeze(1)
    for row in off.tolist():
        assert (running - exact[row]).abs().min() < EDGE, f"u = {float(exact[row])!r}"
    # Edges within 1e-6 of a grid point are rare: at most a few in a hundred points a vocabulary.
    assert off.numel() <= 4 + 2 * EDGE * num_points * logits.shape[0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_tokens_of_equal_probability_are_kept_together(backend: Backend) -> None:
    logits = torch.full((200,), -3.0)
    logits[[5, 70, 130, 199]] = 2.0
    logits[9] = 4.0
    for settings in ({"top_k": 2}, {"top_k": 4}, {"top_p": 0.6}, {"top_k": 3, "top_p": 0.999}):
        assert _support(backend, logits, settings) == {5, 9, 70, 130, 199}, settings
    assert _support(backend, logits, {"top_k": 1}) == {9}
    assert _support(backend, logits, {"top_k": 6}) == set(range(200))


def _support(backend: Backend, logits: Tensor, settings: dict[str, Any]) -> set[int]:
    """Tokens drawn, with a uniform amid the share of each that may be."""
    probs = distribution(logits, **settings)
    middles = (probs.cumsum(0) - probs / 2)[probs > 0]
    step = 1 if backend == REFERENCE or ON_GPU else max(1, middles.shape[0] // 12)
    tokens = set(draw(backend, logits, middles[::step].float(), settings).tolist())
    assert len(tokens) == -(-middles.shape[0] // step)
    return set((probs > 0).nonzero().flatten().tolist()) if step > 1 else tokens


def test_dropped_tokens_are_never_drawn_at_a_blocks_edge() -> None:
    """Rounding may put the target a hair before a block that begins with dropped tokens.

    The blocks weigh 1, 3 * 2^-52, 1 and 2^-51. The third running sum is rounded up by 2^-52, so
    what stands before the third block comes out larger than the target, u times the total, which
    is exactly 1 + 3 * 2^-52.
    """
    weights = torch.zeros(1, 4 * 128)
    weights[0, [0, 130, 300, 400]] = torch.tensor([1.0, 3 * 2.0**-52, 1.0, 2.0**-51])
    assert int(_invert(weights, torch.tensor([0.5]))) == 300


@pytest.mark.parametrize(("target", "expected"), [(-1e-9, 2), (0.0, 2), (1.0, 5), (9.0, 5)])
def test_rounding_leads_the_kernel_to_no_dropped_token(target: float, expected: int) -> None:
    """The same of a target a hair before the tile, at an edge, and past the end."""
    from support.first_past import first_past

    weights = torch.tensor([0, 0, 1, 0, 0, 2, 0, 0], dtype=torch.float64, device=TRITON.device)
    assert first_past(weights, target) == expected


@pytest.mark.parametrize(("backend", "vocab_size"), SIZES)
@pytest.mark.parametrize("uniforms", [False, True])
def test_greedy_is_the_first_maximum(backend: Backend, vocab_size: int, uniforms: bool) -> None:
    logits = torch.randn(6, vocab_size, generator=_generator(vocab_size))
    logits[1] = 0.25
    logits[2, vocab_size // 2 :] = logits[2].max() + 1
    logits[3] = -torch.arange(vocab_size).float()
    logits[4] = torch.arange(vocab_size).float()
    expected = torch.tensor([row.tolist().index(float(row.max())) for row in logits])
    tokens, logprobs, finite = choose(
        backend,
        logits,
        torch.full((6,), 0.9) if uniforms else None,
        temperatures=torch.zeros(6),
        top_ks=torch.full((6,), 3),
    )
    assert torch.equal(tokens, expected) and finite.all()
    exact = torch.log_softmax(logits.double(), dim=-1).gather(1, expected.unsqueeze(1))
    torch.testing.assert_close(logprobs.double(), exact.squeeze(1), rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_quotients_that_are_exact_tie(backend: Backend) -> None:
    """12.75 / 1.5 is 8.5 to the bit: the first of the two is the token."""
    logits = torch.tensor([[0.0, 12.75, 3.0, 8.5], [0.0, 8.5, 3.0, 12.75]])
    words = torch.tensor([[0b0010], [0b1000]], dtype=torch.int32)
    columns = {"temperatures": torch.zeros(2), "penalties": torch.full((2,), 1.5)}
    tokens = choose(backend, logits, None, presence=words, **columns)[0]
    assert tokens.tolist() == [1, 1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_greedy_and_drawn_rows_side_by_side(backend: Backend) -> None:
    logits = _logits(300)
    uniforms = torch.tensor([0.3, 0.3, 0.9, 0.9])
    temperatures = torch.tensor([0.0, 1.0, 0.0, 1.0])
    tokens, _, _ = choose(backend, logits.repeat(4, 1), uniforms, temperatures=temperatures)
    drawn = draw(backend, logits, uniforms[[1, 3]], {})
    assert tokens[[0, 2]].tolist() == [int(logits.argmax())] * 2
    assert torch.equal(tokens[[1, 3]], drawn)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("penalty", [1.0, 1.4])
def test_logprob_is_of_the_untruncated_softmax(
    backend: Backend, temperature: float, penalty: float
) -> None:
    logits = _logits(300, seed=3)
    n = 500 if backend == REFERENCE or ON_GPU else 4
    tokens, logprobs, _ = choose(
        backend,
        logits.repeat(n, 1),
        _uniforms(n),
        temperatures=torch.full((n,), temperature),
        top_ks=torch.full((n,), 20),
        top_ps=torch.full((n,), 0.9),
        min_ps=torch.full((n,), 0.01),
        penalties=torch.full((n,), penalty),
        presence=_bitmap(_presence(300)).expand(n, -1),
    )
    exact = torch.log_softmax(penalised(logits, penalty) / (temperature or 1.0), dim=-1)
    # float32 softmax: 1e-6 relative on a probability is 1e-6 absolute on its logarithm.
    torch.testing.assert_close(logprobs.double(), exact[tokens], rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("at", [0, 299])
@pytest.mark.parametrize("filters", [False, True])
def test_a_non_finite_row_is_flagged_and_alone(
    backend: Backend, bad: float, at: int, filters: bool
) -> None:
    logits = torch.stack([_logits(300, seed=s) for s in range(6)])
    columns: dict[str, Any] = {"temperatures": torch.tensor([1.0, 0.0, 1.0, 0.0, 0.7, 1.0])}
    if filters:
        columns |= {
            "top_ks": torch.full((6,), 7),
            "top_ps": torch.full((6,), 0.8),
            "min_ps": torch.full((6,), 0.02),
            "penalties": torch.full((6,), 1.2),
            "presence": _bitmap(_presence(300)).expand(6, -1),
        }
    clean = choose(backend, logits, _uniforms(6), **columns)
    logits[[2, 3], at] = bad
    tokens, logprobs, finite = choose(backend, logits, _uniforms(6), **columns)
    assert finite.tolist() == [True, True, False, False, True, True]
    assert ((tokens >= 0) & (tokens < 300)).all(), "a flagged row still indexes tables"
    others = [0, 1, 4, 5]
    assert torch.equal(tokens[others], clean[0][others])
    assert torch.equal(logprobs[others], clean[1][others])
    assert clean[2].all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("uniforms", [None, torch.tensor([0.5, 0.01, 0.99])])
def test_nothing_but_nan_and_a_nan_in_the_last_tile(
    backend: Backend, uniforms: Tensor | None
) -> None:
    logits = torch.stack([_logits(4097, seed=s) for s in range(3)])
    logits[0], logits[1, 4096] = torch.nan, torch.inf
    tokens, _, finite = choose(backend, logits, uniforms, temperatures=torch.zeros(3))
    assert finite.tolist() == [False, False, True]
    assert ((tokens >= 0) & (tokens < 4097)).all()
    drawn, _, finite = choose(backend, logits, _uniforms(3), temperatures=torch.ones(3))
    assert finite.tolist() == [False, False, True] and ((drawn >= 0) & (drawn < 4097)).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("temperature", [1e-6, 1e-3])
def test_temperatures_near_zero_are_nearly_greedy(backend: Backend, temperature: float) -> None:
    logits = _logits(300, seed=6)
    tokens = draw(backend, logits, _uniforms(5), {"temperature": temperature})
    assert set(tokens.tolist()) == {int(logits.argmax())}


@pytest.mark.parametrize("backend", BACKENDS)
def test_filters_of_each_row_are_its_own(backend: Backend) -> None:
    """Rows that are greedy, use no filter, some or all of them, in one call, as each alone."""
    logits = _logits(300, seed=8)
    names = ("plain", "top_k", "top_p", "min_p", "all", "greedy")
    uniforms = torch.tensor([0.98, 0.6, 0.99, 0.97, 0.95, 0.9])
    together = _mixed(backend, logits, uniforms, names)
    alone = [
        draw(backend, logits, uniforms[i : i + 1], SETTINGS[name])
        for i, name in enumerate(names[:-1])
    ]
    assert together.tolist() == [*torch.cat(alone).tolist(), int(logits.argmax())]
    assert together.unique().numel() > 2, "the rows cannot be told apart"


def test_mixed_rows_of_several_tiles() -> None:
    logits = _logits(5000, seed=8)
    names = ("plain", "greedy", "top_k", "p_then_min", "penalty")
    uniforms = torch.tensor([0.98, 0.2, 0.99, 0.97, 0.5])
    together = _mixed(TRITON, logits, uniforms, names)
    assert torch.equal(together, _mixed(REFERENCE, logits, uniforms, names))
    assert together.unique().numel() > 3 and together.max() >= 4096 > together.min()


def _mixed(backend: Backend, logits: Tensor, uniforms: Tensor, names: tuple[str, ...]) -> Tensor:
    neutral = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "penalty": 1.0}
    settings = SETTINGS | {"greedy": {"temperature": 0.0, "top_k": 4}}
    rows = [neutral | settings[name] for name in names]
    return choose(
        backend,
        logits.repeat(len(rows), 1),
        uniforms,
        temperatures=torch.tensor([row["temperature"] for row in rows]),
        top_ks=torch.tensor([row["top_k"] for row in rows]),
        top_ps=torch.tensor([row["top_p"] for row in rows]),
        min_ps=torch.tensor([row["min_p"] for row in rows]),
        penalties=torch.tensor([row["penalty"] for row in rows]),
        presence=_bitmap(_presence(logits.shape[0])).expand(len(rows), -1),
    )[0]


@pytest.mark.parametrize(("backend", "dtype"), BACKEND_DTYPES)
@pytest.mark.parametrize("stride", [700, 833])
def test_types_and_rows_of_a_wider_tensor(
    backend: Backend, dtype: torch.dtype, stride: int
) -> None:
    """16-bit logits mean what they mean in float32; what stands between the rows is not read."""
    wide = torch.full((4, stride), torch.nan, dtype=dtype, device=backend.device)
    logits = torch.stack([_logits(700, seed=s) for s in range(4)]).to(dtype)
    wide[:, :700] = logits.to(backend.device)
    columns = {
        "temperatures": torch.tensor([1.0, 0.0, 0.8, 1.3]),
        "top_ks": torch.tensor([0, 0, 30, 0]),
        "top_ps": torch.tensor([1.0, 1.0, 0.9, 0.9]),
        "penalties": torch.tensor([1.0, 1.2, 1.3, 0.8]),
        "presence": _bitmap(_presence(700)).expand(4, -1),
    }
    moved = {name: column.to(backend.device) for name, column in columns.items()}
    uniforms = _uniforms(4, seed=5).to(backend.device)
    tokens, logprobs, finite = backend.ops.sample(wide[:, :700], uniforms, **moved)
    expected = choose(backend, logits.float(), uniforms.cpu(), **columns)
    assert torch.equal(tokens.cpu(), expected[0]) and finite.all()
    assert torch.equal(logprobs.cpu(), expected[1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_penalty_reads_the_row_of_its_own_map(backend: Backend) -> None:
    """Every row has another map, and each bit of a word counts for its own token."""
    vocab_size, n = 70, 5
    present = torch.rand(n, vocab_size, generator=_generator(4)) < 0.3
    present[0, [0, 31, 32, 63, 64, 69]] = True
    logits = torch.randn(n, vocab_size, generator=_generator(5))
    words = torch.cat([_bitmap(row) for row in present])
    exact = logits.double()
    exact = torch.where(present, torch.where(exact > 0, exact / 1.5, exact * 1.5), exact)
    tokens, logprobs, _ = choose(
        backend,
        logits,
        None,
        temperatures=torch.zeros(n),
        penalties=torch.full((n,), 1.5),
        presence=words,
    )
    assert torch.equal(tokens, exact.argmax(-1))
    expected = exact.log_softmax(-1).amax(-1)
    torch.testing.assert_close(logprobs.double(), expected, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_rows(backend: Backend) -> None:
    none = torch.empty(0)
    tokens, logprobs, finite = choose(backend, torch.empty(0, 50), none, temperatures=none)
    assert tokens.shape == logprobs.shape == finite.shape == (0,)
