"""The options of `gloss explain` with their help texts, and their values together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from gloss_server.files.run_state import Option as Deciding
from gloss_server.sources.explanation_options import ExplanationOptions

TextArgument = Annotated[
    str | None, Argument(metavar="TEXT", help="What the target reads.", show_default=False)
]
File = Annotated[
    Path | None,
    Option(
        "--file",
        "-f",
        help="In place of TEXT: a text file, - for stdin; or .jsonl or .parquet with text, or "
        "messages of role and content, and doc_id.",
        show_default=False,
    ),
]
Chat = Annotated[
    bool,
    Option("--chat", help='TEXT is a chat: [{"role": "user", "content": ".."}].'),
]
Positions = Annotated[
    str,
    Option(
        help="all, last, START:STOP[:STEP] or i,j,k; negative ones count from the end.",
        metavar="POSITIONS",
    ),
]
Output = Annotated[
    Path | None,
    Option(help="Rows go here, .jsonl, in place of the terminal.", show_default=False),
]


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(ExplanationOptions):
    """Options of one run, as the command line names them, besides those of every explanation.

    Attributes:
        text: what the target reads; None: `file`.
        file: a text, or texts as .jsonl or .parquet; `-` is stdin.
        chat: the text is a chat in JSON.
        positions: which of them, as `Positions.parse` reads them.
    """

    text: str | None = None
    file: Path | None = None
    chat: bool = False
    positions: str = "all"

    def deciding(self) -> dict[str, Deciding]:
        """What decides the rows, but for seed and source, by its name on the command line."""
        return super().deciding() | {"--chat": self.chat}
