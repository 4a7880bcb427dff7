"""Servers that several tests talk to; a test that breaks one starts its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.checkpoints import Pair, write_target
from support.edits import long_winded
from support.server_process import ServerProcess


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the embedded pair."""
    log = tmp_path_factory.mktemp("embedded") / "log"
    with ServerProcess(log, {"admin-address": "127.0.0.1:0"}) as server:
        yield server.wait_ready()


@pytest.fixture(scope="session")
def endless(
    pairs: dict[str, Pair], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server whose explanations of up to 20,000 tokens last until somebody ends them."""
    root = tmp_path_factory.mktemp("endless")
    settings: dict[str, object] = {
        "max_new_tokens": 20_000,
        "num_slots": 4,
        "max_queued_explanations": 8,
        "max_queued_tokens": 160_000,
        "default_deadline_seconds": 1.5,
    }
    av = long_winded(pairs["qwen2"].av, root / "av")
    with ServerProcess(root / "log", {"av": av}, settings) as server:
        yield server.wait_ready()


@pytest.fixture(scope="session")
def talkative(
    pairs: dict[str, Pair], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """As `endless`, with a target that goes on for 20,000 tokens as well."""
    root = tmp_path_factory.mktemp("talkative")
    settings: dict[str, object] = {
        "max_new_tokens": 20_000,
        "num_slots": 4,
        "max_queued_explanations": 8,
        "max_queued_tokens": 160_000,
        "default_deadline_seconds": 1.5,
        "watch_deadline_seconds": 1.0,
        "num_watches": 2,
        "max_queued_watches": 3,
        "max_watch_tokens": 20_000,
        "watch_max_pending": 2,
    }
    av = long_winded(pairs["qwen2"].av, root / "av")
    target = long_winded(write_target(root / "short", "qwen2"), root / "target")
    with ServerProcess(root / "log", {"av": av, "target": target}, settings) as server:
        yield server.wait_ready()
