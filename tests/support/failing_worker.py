"""An engine process that fails in the step that takes an activation of an enormous norm."""

from __future__ import annotations

import sys
from typing import Any

from gloss_engine import Engine
from gloss_server.link.messages import Load
from gloss_server.worker import load, run_worker


def load_failing(order: Load) -> Engine:
    """The ordered engine with its prefill buffer wrapped."""
    engine: Any = load(order)
    write = engine.runner.prefill_buffer.write

    def failing(activations: Any, places: Any) -> None:
        if bool((activations.norm(dim=-1) > 1e6).any()):
            raise RuntimeError("a step fails")
        write(activations, places)

    engine.runner.prefill_buffer.write = failing
    return engine  # type: ignore[no-any-return]


if __name__ == "__main__":
    sys.exit(run_worker(load_failing))
