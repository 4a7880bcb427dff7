"""The options of `gloss watch` with their help texts, and their values together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from typer import Argument, Option

from gloss_engine.errors import RequestError
from gloss_engine.sampling import SamplingParams
from gloss_server.command_error import CommandError
from gloss_server.sources.explanation_options import ExplanationOptions

DEFAULT_TOKENS = 200
DEFAULT_PACE = 20.0
"""Tokens a second that people can follow, and that explanations keep up with (SERVICE goal)."""

Prompt = Annotated[
    str,
    Argument(metavar="PROMPT", help="What the model goes on from.", show_default=False),
]
Chat = Annotated[
    bool,
    Option("--chat", help='PROMPT is a chat: [{"role": "user", "content": ".."}].'),
]
Positions = Annotated[
    str | None,
    Option(
        help="Of the prompt, to explain as well: all, last, START:STOP[:STEP] or i,j,k. "
        "Default: none.",
        metavar="POSITIONS",
        show_default=False,
    ),
]
Every = Annotated[int, Option(help="Explain every n-th token.")]
MaxPending = Annotated[
    int | None,
    Option(
        help="Most activations that wait for their explanations; one beyond is skipped. Default: "
        "the engine's.",
        show_default=False,
    ),
]
TokensPerSecond = Annotated[
    float, Option(help="Most that the model says in a second; 0: as many as it can.")
]
TargetTemperature = Annotated[float, Option(help="Of the model that is watched; 0 is greedy.")]
TargetMaxNewTokens = Annotated[
    int | None,
    Option(
        help=f"Most tokens that it says. Default: {DEFAULT_TOKENS}, or what the server allows.",
        show_default=False,
    ),
]
TargetSeed = Annotated[
    int | None, Option(help="Of what it says. Default: --seed.", show_default=False)
]
AsJson = Annotated[bool, Option("--json", help="A JSON object in a line for each event.")]


@dataclass(frozen=True, kw_only=True)
class WatchOptions(ExplanationOptions):
    """Options of one watch, as the command line names them, besides those of every explanation.

    Attributes:
        prompt: what the target goes on from.
        chat: the prompt is a chat in JSON.
        positions: of the prompt, to explain as well, as `Positions.parse` reads them; None: none.
        every: explain every n-th generated token.
        max_pending: most activations whose explanations are not finished; None: the engine's.
        tokens_per_second: most the target generates; 0: no bound.
        target_temperature, target_max_new_tokens, target_seed: of the target; None: the most that
            it can say, up to DEFAULT_TOKENS, and the explanations' seed.
    """

    prompt: str
    chat: bool = False
    positions: str | None = None
    every: int = 1
    max_pending: int | None = None
    tokens_per_second: float = DEFAULT_PACE
    target_temperature: float = 0.7
    target_max_new_tokens: int | None = None
    target_seed: int | None = None

    def check(self) -> None:
        """Refuse what no source takes.

        Raises:
            CommandError, RequestError: a setting that cannot be used.
        """
        super().check()
        pace = self.tokens_per_second
        if not 0 <= pace < math.inf:
            raise CommandError(
                f"--tokens-per-second: got {pace}, expected a finite number, 0 or more"
            )

    def target_sampling(self, seed: int, most: int) -> SamplingParams:
        """How the target generates.

        Args:
            seed: of the explanations.
            most: tokens that it can say.

        Raises:
            RequestError: a setting that cannot be used.
        """
        wanted = self.target_max_new_tokens
        try:
            return SamplingParams(
                temperature=self.target_temperature,
                max_new_tokens=min(DEFAULT_TOKENS, most) if wanted is None else wanted,
                seed=seed if self.target_seed is None else self.target_seed,
            )
        except RequestError as error:
            # Its fields are those of the options with this before them.
            raise RequestError(error.reason, f"target_{error.field}", f"target_{error}") from error
