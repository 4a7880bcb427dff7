"""The evidence command killed on its way: it goes on, and shared stages are made once."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from support.training_process import Death, gloss_train

ARMS = ("sft", "rl_kl", "rl_quality")


def test_a_killed_run_goes_on_and_every_arm_leaves_its_result(tmp_path: Path) -> None:
    command = ["evidence", "--output", tmp_path / "run", "--smoke", "--seed", "0"]
    command += [word for arm in ARMS for word in ("--arm", arm)]
    command += ["--set", "rl.checkpoint_every=1"]
    # Steps: target 6, ar 6, av 12, the fresh AR of the arm sft 6; then two of RL.
    ended = gloss_train(command, tmp_path / "log", death=Death(call="step", number=32))
    assert ended.status == -signal.SIGKILL, ended.output
    folder = tmp_path / "run" / "results"
    assert [path.name for path in folder.glob("*.json")] == ["sft-seed-0.json"]
    assert [*(tmp_path / "run" / "seed-0" / "rl_kl" / "checkpoints" / "rl").glob("step-*")]
    first = (folder / "sft-seed-0.json").read_bytes()
    av = tmp_path / "run" / "seed-0" / "planted" / "av" / "model.safetensors"
    written = av.stat().st_mtime_ns
    ended = gloss_train(command, tmp_path / "log")
    assert ended.status == 0, ended.output
    assert av.stat().st_mtime_ns == written
    assert (folder / "sft-seed-0.json").read_bytes() == first
    found = {arm: json.loads((folder / f"{arm}-seed-0.json").read_text()) for arm in ARMS}
    for arm, result in found.items():
        assert (tmp_path / "run" / "seed-0" / arm / "av").resolve() == av.parent
        assert result["seconds"].keys() >= {"target", "data", "ar", "av", "evaluate"}
        assert ("rl" in result["seconds"]) == (arm != "sft") == bool(result["curves"])
        assert result["figures"]["num_rows"] == 16
        assert str(tmp_path) not in json.dumps(result)
    assert found["rl_quality"]["config"]["rl"]["reward"]["judge"] > 0
    assert [step["step"] for step in found["rl_kl"]["curves"]] == [0, 1, 2]
    page = (folder / "summary.md").read_text(encoding="utf-8")
    assert "undecided" in page or "**no**" in page
    assert (folder / "curves-seed-0.png").exists()
