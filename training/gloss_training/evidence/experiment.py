"""Runs arms of seeds, one after the other; what is finished is kept, what was stopped goes on.

seed-0/planted/  seed-0/plain/   target, data, ar and av that the arms of a seed share
seed-0/<arm>/                    the arm's run directory; the shared stages are links
results/                         a JSON for each arm and seed, curves, summary.md
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from gloss_training.errors import ConfigError, RunFolderError
from gloss_training.evaluation.plots import curves
from gloss_training.evidence.arms import ARMS, BASES, Arm
from gloss_training.evidence.machine import commit, describe_machine
from gloss_training.evidence.results import AGAIN, Result, result_path, write_result
from gloss_training.evidence.summary import summarise
from gloss_training.run.config import RunConfig, read_config
from gloss_training.run.folder import read_json
from gloss_training.run.stage_settings import differences
from gloss_training.stages.evaluate import evaluate_pair
from gloss_training.stages.run import Run

SHARED: Final = ("target", "data", "ar", "av")
"""Stages whose results the arms of a base have in common; each makes a folder of its name."""

DEFAULT_CONFIG: Final = "evidence"
SEEDS: Final = (0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Arms over seeds.

    Attributes:
        root: where everything goes.
        config: name or path of the configuration that arms change.
        overrides: of it, for all arms.
        console: where progress is drawn.
    """

    root: Path
    config: str
    overrides: tuple[str, ...]
    console: Console

    @property
    def results(self) -> Path:
        """Folder of results."""
        return self.root / "results"

    def run(self, seeds: Sequence[int], arms: Sequence[str] = tuple(ARMS)) -> None:
        """Runs every arm of every seed that has no result yet; the summary is made after each.

        Raises:
            ConfigError: an arm that is none.
            RunFolderError: there are stages or results of another configuration.
        """
        unknown = [name for name in arms if name not in ARMS]
        if unknown:
            raise ConfigError(
                f"--arm: got {', '.join(unknown)}, expected some of {', '.join(ARMS)}"
            )
        for seed in seeds:
            for name in arms:
                if not self._is_finished(name, seed):
                    self.console.rule(f"seed {seed}, {name}: {ARMS[name].says}")
                    write_result(self.results, self._run_arm(name, ARMS[name], seed))
                summarise(self.results)
        summarise(self.results)

    def _is_finished(self, name: str, seed: int) -> bool:
        """Whether an arm has its result; one of other settings would not go with the rest."""
        path = result_path(self.results, name, seed)
        if not path.exists():
            return False
        arm = ARMS[name]
        asked = self._config(seed, (*BASES[arm.base], *arm.settings)).plain()
        made = read_json(path, AGAIN)["config"]
        changed = differences(made, asked)
        if changed:
            raise RunFolderError(
                f"{path} was made with other settings ({'; '.join(changed)}); choose another "
                "--output or the old settings"
            )
        return True

    def _run_arm(self, name: str, arm: Arm, seed: int) -> Result:
        base = self.root / f"seed-{seed}" / arm.base
        shared = self._config(seed, BASES[arm.base])
        Run(base, shared, self.console, resume=True).stages(SHARED)
        config = self._config(seed, (*BASES[arm.base], *arm.settings))
        folder = self.root / f"seed-{seed}" / name
        share_stages(base, folder)
        run = Run(folder, config, self.console, resume=True)
        records = run.stages((*SHARED, "rl") if arm.has_rl else SHARED)
        pair = "rl" if arm.has_rl else "sft"
        # Not the whole stage, which would evaluate the shared pair before RL for every arm.
        records["evaluate"] = run.context.folder.stage(
            "evaluate", lambda: evaluate_pair(run.context, pair), resume=True
        )
        path = folder / "evaluation" / f"{pair}.json"
        evaluation = json.loads(path.read_text(encoding="utf-8"))
        missing = evaluation.pop("missing")
        seconds = {stage: record["seconds"] for stage, record in records.items()}
        return {
            "arm": name,
            "says": arm.says,
            "seed": seed,
            "is_oracle": arm.is_oracle,
            "figures": evaluation,
            "missing": missing,
            "seconds": seconds,
            "settings": list((*BASES[arm.base], *arm.settings)),
            "config": config.plain(),
            "command": self._command(name, seed),
            "commit": commit(),
            "machine": describe_machine(run.context.device),
            "curves": curves(folder / "logs" / "rl.jsonl"),
        }

    def _command(self, arm: str, seed: int) -> str:
        """What makes this result again, from nothing."""
        sets = "".join(f" --set {override}" for override in self.overrides)
        config = "" if self.config == DEFAULT_CONFIG else f" --config {self.config}"
        return f"gloss-train evidence --output DIR{config} --arm {arm} --seed {seed}{sets}"

    def _config(self, seed: int, settings: Iterable[str]) -> RunConfig:
        return read_config(self.config, [*self.overrides, *settings, f"seed={seed}"])


def share_stages(base: Path, folder: Path) -> None:
    """Gives a run directory the stages that another one has made, as links."""
    for stage in SHARED:
        link = folder / stage
        if link.is_symlink() and link.resolve() != (base / stage).resolve():
            link.unlink()
        if not link.exists():
            folder.mkdir(parents=True, exist_ok=True)
            # From where it stands, so that the whole of them can be moved or copied.
            source = os.path.relpath((base / stage).resolve(), folder.resolve())
            link.symlink_to(source, target_is_directory=True)
        for name in (f"{stage}.json", f"{stage}.settings.json"):
            copied = folder / "stages" / name
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(base / "stages" / name, copied)
