"""The limit of file descriptors: raised as far as it may be, never lowered."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from gloss_server.front import descriptors
from gloss_server.front.descriptors import raise_limit

_UNLIMITED = resource.RLIM_INFINITY


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Of the kernel; nothing is in it yet."""
    path = tmp_path / "nr_open"
    monkeypatch.setattr(descriptors, "KERNEL_BOUND", path)
    return path


@pytest.mark.parametrize(
    ("before", "needed", "after"),
    [
        ((100, 1000), 500, (500, 1000)),
        ((100, 1000), 2000, (1000, 1000)),
        ((100, 5000), 2000, (2000, 5000)),
        ((800, 1000), 500, (800, 1000)),
        ((1000, 1000), 2000, (1000, 1000)),
        # Over the kernel's bound: no limit can be set before the hard one is at most that.
        ((100, 9000), 2000, (2000, 5000)),
        ((100, 9000), 7000, (5000, 5000)),
        ((100, _UNLIMITED), 7000, (5000, 5000)),
    ],
)
def test_as_many_as_are_needed_and_allowed(
    monkeypatch: pytest.MonkeyPatch,
    bound: Path,
    before: tuple[int, int],
    needed: int,
    after: tuple[int, int],
) -> None:
    bound.write_text("5000\n")
    limits = [before]

    def set_limit(kind: int, limit: tuple[int, int]) -> None:
        # As Linux does, and Python says it.
        if limit[1] > 5000 or limit[1] == _UNLIMITED:
            raise ValueError("not allowed to raise maximum limit")
        limits.append(limit)

    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    assert raise_limit(needed) == after[0]
    assert limits[-1] == after


@pytest.mark.parametrize(("soft", "most"), [(_UNLIMITED, 5000), (9000, 5000), (4000, 4000)])
def test_what_suffices_is_not_set(
    monkeypatch: pytest.MonkeyPatch, bound: Path, soft: int, most: int
) -> None:
    """However high it is, there are no more than the kernel's bound."""
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft, _UNLIMITED))
    monkeypatch.delattr(resource, "setrlimit")
    bound.write_text("5000\n")
    assert raise_limit(500) == most


def test_where_the_kernel_states_no_bound(monkeypatch: pytest.MonkeyPatch, bound: Path) -> None:
    limits = [(100, _UNLIMITED)]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limit: limits.append(limit))
    assert raise_limit(2000) == 2000
    assert limits[-1] == (2000, _UNLIMITED)
