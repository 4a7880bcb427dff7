"""An engine process whose model gives NaN for activations of an enormous norm."""

from __future__ import annotations

import sys
from typing import Any

from gloss_engine import Engine
from gloss_server.link.messages import Load
from gloss_server.link.worker import load, run_worker

POISON_NORM = 1e6


def load_poisoned(order: Load) -> Engine:
    """The ordered engine with its embedding poisoned."""
    engine: Any = load(order)
    embed = engine.runner.decoder.embed

    def poisoned(ids: Any, *injected: Any) -> Any:
        hidden_states = embed(ids, *injected)
        if injected:
            rows, activations, _ = injected
            bad = activations.norm(dim=-1) > POISON_NORM
            hidden_states[rows[bad]] = float("nan")
        return hidden_states

    engine.runner.decoder.embed = poisoned
    return engine  # type: ignore[no-any-return]


if __name__ == "__main__":
    sys.exit(run_worker(load_poisoned))
