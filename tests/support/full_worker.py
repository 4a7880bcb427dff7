"""An engine process whose device has no memory for its warm-up: injected at the allocator."""

from __future__ import annotations

import sys
from dataclasses import replace

from gloss_engine import Engine
from gloss_server.link.messages import Load
from gloss_server.worker import load, run_worker
from support.allocator import TightMemory, larger_than


def load_full(order: Load) -> Engine:
    """The ordered engine; its steps have no room beside the pages."""
    engine: Engine = load(replace(order, config=order.config | {"graphs": "on"}))  # type: ignore[assignment]
    warm_up = engine.runner.warm_up

    def tight() -> None:
        with TightMemory().armed(larger_than(1000)):
            warm_up()

    engine.runner.warm_up = tight  # type: ignore[method-assign]
    return engine


if __name__ == "__main__":
    sys.exit(run_worker(load_full))
