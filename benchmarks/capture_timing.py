"""Ways of doing the same work, timed in pairs: what one costs beyond another, and how sure that is.

A capture costs microseconds beside a forward pass of milliseconds, less than a machine drifts in a
second. So all ways run once in every round, in an order that is drawn anew, and what counts is the
difference within a round. The median of the rounds' differences is reported with the bounds that
hold it with 95% confidence, whatever their distribution (order statistics, after the binomial of
n and 1/2). The same way a second time is among them: what it seems to cost is the noise.

On a GPU the device's own events take the time.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PLAIN, AGAIN = "without capture", "the same again"
"""Names of the way that the others are compared with, and of its repetition."""
_MIN_ROUNDS, _MAX_ROUNDS = 5, 500
_Z = 1.96
"""Of a normal distribution, two-sided 95%."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way of doing the work.

    Attributes:
        run: does it once; gives [n, d_model] the rows that it captured, or None.
        injected: the rows of a prefill buffer that `run` has written, or None.
        reset: puts back what `run` moved on; not timed.
    """

    run: Callable[[], Tensor | None]
    injected: Callable[[], Tensor] | None = None
    reset: Callable[[], object] = lambda: None


@dataclass(frozen=True, kw_only=True)
class Extra:
    """What a way took beyond another, seconds.

    Attributes:
        median: of the rounds' differences.
        low, high: bounds of that median, with 95% confidence.
    """

    median: float
    low: float
    high: float


def check_rows(ways: Mapping[str, Way], expected: Tensor, injection_scale: float) -> None:
    """Run every way once: all must have captured the same rows, and brought them to one norm.

    Args:
        ways: what is to be compared.
        expected: [n, d_model] float32.
        injection_scale: L2 norm of rows in a prefill buffer.

    Raises:
        RuntimeError: a way that captured other rows, or injected something else.
    """
    expected = expected.cpu()
    for name, way in ways.items():
        way.reset()
        rows = way.run()
        if name in (PLAIN, AGAIN):
            continue
        alike = rows is not None and rows.dtype == expected.dtype
        if rows is None or not (alike and torch.equal(rows.cpu(), expected)):
            got = "none" if rows is None else f"others, {list(rows.shape)} {rows.dtype}"
            raise RuntimeError(
                f"{name}: got {got}, expected the rows {list(expected.shape)} torch.float32 that "
                "every way captures; nothing was timed"
            )
        if way.injected is not None:
            _check_injected(name, way.injected().cpu(), expected, injection_scale)


def _check_injected(name: str, injected: Tensor, raw: Tensor, injection_scale: float) -> None:
    wanted = raw * (injection_scale / torch.linalg.vector_norm(raw, dim=-1, keepdim=True))
    # A rounding of the product, one of the factor, and one into the buffer's type.
    tolerance = 4 * max(torch.finfo(injected.dtype).eps, torch.finfo(torch.float32).eps)
    off = (injected.float() - wanted).abs() > tolerance * wanted.abs() + 1e-30
    if bool(off.any()):
        raise RuntimeError(f"{name}: {int(off.sum())} values of the prefill buffer are off")


def measure(
    ways: Mapping[str, Way], device: torch.device, seconds: float, inner: int = 1
) -> dict[str, tuple[float, ...]]:
    """Seconds of one run of each way, by round.

    Args:
        ways: at least one; each has run before.
        device: where they run.
        seconds: no round is begun after so long, but for a few that there are always.
        inner: runs of a way in a row, timed as one.
    """
    shuffle = random.Random(0).shuffle
    taken: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    until = time.perf_counter() + seconds
    for rounds in range(_MAX_ROUNDS):
        if rounds >= _MIN_ROUNDS and time.perf_counter() > until:
            break
        shuffle(names)
        for name in names:
            ways[name].reset()
            taken[name].append(_seconds(ways[name].run, device, inner) / inner)
    return {name: tuple(runs) for name, runs in taken.items()}


def _seconds(run: Callable[[], object], device: torch.device, inner: int) -> float:
    if device.type != "cuda":
        started = time.perf_counter()
        for _ in range(inner):
            run()
        return time.perf_counter() - started
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(inner):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def extra(runs: Sequence[float], plain: Sequence[float]) -> Extra:
    """What runs took beyond others of the same rounds."""
    differences = sorted(a - b for a, b in zip(runs, plain, strict=True))
    n = len(differences)
    outside = max(0, math.floor((n - _Z * math.sqrt(n)) / 2))
    return Extra(
        median=statistics.median(differences),
        low=differences[outside],
        high=differences[n - 1 - outside],
    )


def overheads(
    ways: Mapping[str, Way],
    expected: Tensor,
    *,
    injection_scale: float,
    device: torch.device,
    seconds: float,
    inner: int = 1,
) -> list[dict[str, Any]]:
    """A row for each way but the plain one, which is among `ways`: see `check_rows`, `measure`.

    `share` is of the plain way's time, and `goal` says whether it is under 1%: "unclear" where the
    bounds hold both answers.

    Raises:
        RuntimeError: ways that do not do the same.
    """
    check_rows(ways, expected, injection_scale)
    taken = measure(ways, device, seconds, inner)
    plain = statistics.median(taken[PLAIN])
    rows = []
    for name, runs in taken.items():
        if name == PLAIN:
            continue
        cost = extra(runs, taken[PLAIN])
        share = Extra(median=cost.median / plain, low=cost.low / plain, high=cost.high / plain)
        rows.append(
            {
                "way": name,
                "rows": len(expected),
                "rounds": len(runs),
                "plain_ms": plain * 1e3,
                "ms": statistics.median(runs) * 1e3,
                "extra_us": cost.median * 1e6,
                "extra_us_low": cost.low * 1e6,
                "extra_us_high": cost.high * 1e6,
                "share": share.median,
                "share_low": share.low,
                "share_high": share.high,
                "goal": None if name == AGAIN else _verdict(share),
            }
        )
    return rows


def _verdict(share: Extra) -> str:
    if share.high < 0.01:
        return "met"
    return "missed" if share.low >= 0.01 else "unclear"
