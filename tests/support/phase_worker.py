"""An engine process that stops in the phases a test names, in the directory PHASES."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from gloss_engine import Engine
from gloss_server.link.messages import Load
from gloss_server.worker import load, run_worker
from support.phases import Phases


def load_phased(order: Load) -> Engine:
    """The ordered engine; it stops where it is told to."""
    engine: Engine = load(order)  # type: ignore[assignment]
    Phases(Path(os.environ["PHASES"])).stop(engine)
    return engine


if __name__ == "__main__":
    sys.exit(run_worker(load_phased))
