"""An engine process whose model gives NaN for activations of an enormous norm."""

from __future__ import annotations

import sys
from typing import Any

from gloss_engine import Engine
from gloss_server.link.messages import Load
from gloss_server.worker import load, run_worker

POISON_NORM = 1e6


def load_poisoned(order: Load) -> Engine:
    """The ordered engine with its prefill buffer poisoned."""
    engine: Any = load(order)
    buffer = engine.runner.prefill_buffer
    write = buffer.write

    def poisoned(activations: Any, places: Any) -> None:
        write(activations, places)
        buffer.rows[places[activations.norm(dim=-1) > POISON_NORM]] = float("nan")

    buffer.write = poisoned
    return engine  # type: ignore[no-any-return]


if __name__ == "__main__":
    sys.exit(run_worker(load_poisoned))
