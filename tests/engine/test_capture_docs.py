"""docs/capture.md: its examples run, one after another, on the pair that ships with Gloss."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from gloss_engine import Captured, Positions
from gloss_server.embedded import embedded_pair

TEXT = (Path(__file__).parents[2] / "docs" / "capture.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_examples_run_and_give_what_they_say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(embedded_pair().target.parent)
    names: dict[str, Any] = {"__name__": "__main__"}
    found = []
    for number, program in enumerate(PYTHON):
        exec(compile(program, f"docs/capture.md example {number}", "exec"), names)
        found.append(names["captured"])
        if number == 0:
            said = capsys.readouterr().out
            assert re.search("Leo.*tailor.*Hugo.*\n.*Mia.*baker.*bread", said), said
    torch._dynamo.reset()
    assert len(PYTHON) == TEXT.count("```python") == 5
    last, _, generated, compiled, block = found
    assert last.activations.shape == (2, 128) and last.positions.tolist() == [8, 16]
    assert len(generated) == 2 * 20
    torch.testing.assert_close(compiled.activations, block.activations)
    ends = block.positions == torch.tensor([8, 16])[block.sequences]
    assert torch.equal(block.activations[ends], last.activations)


def test_the_columns_and_positions_that_it_names_exist() -> None:
    columns = re.findall(r"`captured\.(\w+)`", TEXT)
    assert len(columns) >= 8
    assert all(isinstance(getattr(Captured, name), property) for name in columns)
    table = TEXT.split("## Positions")[1].split("\n\n")[2]
    named = re.findall(r'`"(.*?)"`', table)
    assert len(named) == 8
    for positions in named:
        if positions != "generated":
            assert str(Positions.parse(positions)) == positions
