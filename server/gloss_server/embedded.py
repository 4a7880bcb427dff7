"""Where the pair that ships inside the package lies, and its activations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gloss_server.command_error import CommandError

_ROOT = Path(__file__).parent / "embedded"


@dataclass(frozen=True, kw_only=True)
class EmbeddedPair:
    """The shipped files.

    Attributes:
        av, ar, target: checkpoint directories.
        activations: parquet file of held-out activations, with their tokens and texts.
    """

    av: Path
    ar: Path
    target: Path
    activations: Path


def embedded_pair(root: Path = _ROOT) -> EmbeddedPair:
    """The shipped pair.

    Raises:
        CommandError: a package that was built without it.
    """
    pair = EmbeddedPair(
        av=root / "av",
        ar=root / "ar",
        target=root / "target",
        activations=root / "activations.parquet",
    )
    for path in (pair.av, pair.ar, pair.target, pair.activations):
        if not path.exists():
            raise CommandError(
                f"{path}: got nothing, expected part of the embedded pair. Install a released "
                "package again, or name a checkpoint with --av and --ar"
            )
    return pair
