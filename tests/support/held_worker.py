"""An engine process with listed step sizes, whose warm-up begins when a test lets it.

WARM_UP_DIRECTORY is where it writes what it was told (`config.json`), and where it waits for a file
`go`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from gloss_engine import Engine
from gloss_server.link.messages import Load
from gloss_server.worker import load, run_worker


def load_held(order: Load) -> Engine:
    """The ordered engine, with the loop of a GPU and a warm-up that waits."""
    directory = Path(os.environ["WARM_UP_DIRECTORY"])
    (directory / "config.json").write_text(json.dumps(order.config))
    engine = load(replace(order, config={**order.config, "graphs": "on", "lag": 1}))
    assert isinstance(engine, Engine)
    warm_up = engine.warm_up

    def held() -> float:
        while not (directory / "go").exists():
            time.sleep(0.01)
        return warm_up()

    engine.warm_up = held  # type: ignore[method-assign]
    return engine


if __name__ == "__main__":
    sys.exit(run_worker(load_held))
