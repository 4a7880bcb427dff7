"""Phases of an engine's work that a test can stop it in: what it does next waits.

A test names the phase in a file; an engine of `phase_worker.py` says that it has come there, and
goes on once the file is gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gloss_engine import Engine

READ, DECODE, SPEAK, SCORE = "read", "decode", "speak", "score"
"""The target reads a text; the AV's next token; the target's next; the AR reads texts."""


class Phases:
    """The files in a directory that both processes know."""

    def __init__(self, directory: Path) -> None:
        self._order, self._there = directory / "order", directory / "there"

    @contextmanager
    def held(self, phase: str) -> Iterator[Callable[[], bool]]:
        """Stop in a phase until the block is left; given is whether the engine is there."""
        new = self._order.with_suffix(".new")
        new.write_text(phase)
        new.rename(self._order)
        try:
            yield self._there.exists
        finally:
            self._order.unlink()
            while self._there.exists():
                time.sleep(0.001)

    def stop(self, engine: Engine) -> None:
        """Let an engine stop where it is told to."""
        self._guard(engine.runner, "_run", lambda forward: DECODE * (not forward.prefills))
        if engine.scores is not None:
            self._guard(engine.scores, "_start", lambda _: SCORE)
        if engine.target is not None:
            for name in ("read_packed", "read_chunk"):
                self._guard(engine.target.reader, name, lambda *_, **__: READ)
            if engine.target.generator is not None:
                self._guard(engine.target.generator, "_step", lambda *_, **__: SPEAK)

    def _guard(self, owner: Any, name: str, phase_of: Callable[..., str]) -> None:
        work = getattr(owner, name)

        def run(*given: Any, **named: Any) -> Any:
            self._pass(phase_of(*given, **named))
            return work(*given, **named)

        setattr(owner, name, run)

    def _pass(self, phase: str) -> None:
        if not self._is_ordered(phase):
            return
        self._there.touch()
        while self._order.exists():
            time.sleep(0.001)
        self._there.unlink()

    def _is_ordered(self, phase: str) -> bool:
        try:
            return self._order.read_text() == phase
        except FileNotFoundError:
            return False
