"""The options of `gloss capture` with their help texts, and their values together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option

Target = Annotated[
    Path | None,
    Option(
        help="Directory of the model to read. Default: the embedded pair's, at its layer.",
        show_default=False,
    ),
]
Layer = Annotated[
    int | None,
    Option(
        help="K, from 0: the block whose output is captured; needed with --target.",
        min=0,
        show_default=False,
    ),
]
Input = Annotated[
    Path,
    Option(
        "--input",
        help="Texts: .jsonl or .parquet with text, or messages of role and content; and doc_id.",
        show_default=False,
    ),
]
Positions = Annotated[
    str,
    Option(
        help="all, last, START:STOP[:STEP] or i,j,k; negative ones count from the end.",
        metavar="POSITIONS",
    ),
]
Output = Annotated[Path, Option(help="Activations go here: .parquet.", show_default=False)]


@dataclass(frozen=True, kw_only=True)
class CaptureOptions:
    """Options of one run, as the command line names them.

    Attributes:
        input: texts, .jsonl or .parquet.
        output: activations, .parquet.
        target: directory of the model to read; None: the embedded pair's.
        layer: K; None: that of the embedded pair.
        positions: as `Positions.parse` reads them.
        device, dtype: as in EngineConfig.
    """

    input: Path
    output: Path
    target: Path | None = None
    layer: int | None = None
    positions: str = "all"
    device: str = "auto"
    dtype: str = "auto"
