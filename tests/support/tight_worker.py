"""An engine process whose device has no memory for marked work; see `tight_engine.py`.

Where graphs are not off it runs as on a GPU, but for capture: listed sizes, and a step of lag.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from gloss_engine import Engine
from gloss_server.link.messages import Load
from gloss_server.worker import load, run_worker
from support.tight_engine import refuse_marked


def load_tight(order: Load) -> Engine:
    """The ordered engine, without memory for what is marked."""
    if order.config["graphs"] != "off":
        order = replace(order, config=order.config | {"graphs": "on", "lag": 1})
    engine: Engine = load(order)  # type: ignore[assignment]
    refuse_marked(engine)
    return engine


if __name__ == "__main__":
    sys.exit(run_worker(load_tight))
