"""The stages ar, av and rl of a run on as many ranks as there are, for `test_shared_stages.py`.

`torchrun ... shared_stages.py RUN OVERRIDE...`; the run has its data already.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from gloss_training.machine import prepare
from gloss_training.models import model_files
from gloss_training.models.sharding import joined, leave
from gloss_training.run.config import read_config
from gloss_training.stages.run import Run


def run_stages(root: Path, overrides: Sequence[str]) -> None:
    config = read_config("smoke", overrides)
    device = prepare(config.device, config.num_threads)
    with joined(config.sharding, device) as ranks:
        if not ranks.is_first:
            model_files.AutoModelForCausalLM.from_pretrained = _refuse
            model_files.AutoModel.from_config = _refuse
        run = Run(root, config, Console(quiet=True), ranks=ranks)
        run.stages(("ar", "av", "rl"))


def _refuse(*_: object, **__: object) -> None:
    raise AssertionError("only the first rank reads a model")


if __name__ == "__main__":
    run_stages(Path(sys.argv[1]), sys.argv[2:])
    leave(0)
