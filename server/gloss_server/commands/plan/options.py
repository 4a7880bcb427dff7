"""The options of `gloss plan` with their help texts, and their values together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option

Av = Annotated[
    Path | None,
    Option(help="AV directory; config.json and nla_meta.yaml suffice.", show_default=False),
]
Ar = Annotated[Path | None, Option(help="AR directory: plan with scoring too.", show_default=False)]
Target = Annotated[
    Path | None,
    Option(help="Explained model, to be read in the same memory.", show_default=False),
]
Pair = Annotated[
    str | None,
    Option(
        help="A released pair, without any files: qwen2.5-7b, gemma-3-12b, gemma-3-27b or "
        "llama-3.3-70b.",
        show_default=False,
    ),
]
Memory = Annotated[
    float | None,
    Option(
        help="Of the GPU, in GB of 10^9 bytes. Default: this machine's GPU, else 141 (an H200).",
        metavar="GB",
        show_default=False,
    ),
]
MemoryFraction = Annotated[float, Option(help="Share of it to plan with, to 1.")]
Dtype = Annotated[str, Option(help="auto (bfloat16), bfloat16, float16 or float32.")]
Quantization = Annotated[str, Option(help="none or fp8, of AV and AR.")]
MaxNewTokens = Annotated[
    int, Option(help="Most tokens of an explanation; memory is kept for all of them.", min=1)
]
Batch = Annotated[
    int | None,
    Option(
        help="Explanations that run at once. Default: 256, or as many as fit.",
        min=1,
        show_default=False,
    ),
]
AsJson = Annotated[bool, Option("--json", help="A JSON object for scripts.")]


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What `gloss plan` was asked; see the help texts."""

    av: Path | None
    ar: Path | None
    target: Path | None
    pair: str | None
    memory: float | None
    memory_fraction: float
    dtype: str
    quantization: str
    max_new_tokens: int
    batch: int | None
