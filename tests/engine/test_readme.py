"""The README's example of a tap, run as it stands there."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from support.target_reference import ReferenceTarget


def test_the_readmes_tap(targets: dict[str, Path]) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    blocks = [part.split("```", 1)[0] for part in readme.split("```python\n")[1:]]
    (code,) = [block for block in blocks if "import tap" in block]
    assert "layer_index=20" in code
    ids = [30, 31, 32, 33]
    names = {
        "model": AutoModelForCausalLM.from_pretrained(targets["qwen3"]).eval(),
        "inputs": {"input_ids": torch.tensor([ids])},
    }
    exec(code.replace("layer_index=20", "layer_index=2"), names)
    expected = ReferenceTarget(targets["qwen3"]).activations(ids, 2)[-1:]
    torch.testing.assert_close(names["captured"].activations, expected)
