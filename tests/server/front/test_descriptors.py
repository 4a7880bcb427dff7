"""The limit of file descriptors: raised as far as it may be, never lowered."""

from __future__ import annotations

import resource

import pytest

from gloss_server.front.descriptors import raise_limit

_UNLIMITED = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("before", "needed", "soft"),
    [
        ((100, 1000), 500, 500),
        ((100, 1000), 2000, 1000),
        ((100, _UNLIMITED), 2000, 2000),
        ((800, 1000), 500, 800),
        ((1000, 1000), 2000, 1000),
    ],
)
def test_as_many_as_are_needed_and_allowed(
    monkeypatch: pytest.MonkeyPatch, before: tuple[int, int], needed: int, soft: int
) -> None:
    limits = [before]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limit: limits.append(limit))
    assert raise_limit(needed) == soft == limits[-1][0]
    assert limits[-1][1] == before[1]


def test_without_a_limit_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (_UNLIMITED, _UNLIMITED))
    monkeypatch.delattr(resource, "setrlimit")
    assert raise_limit(500) == 500
