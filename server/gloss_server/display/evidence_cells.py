"""Explanations and their evidence as cells of a table: what all pages of explanations share.

Everything shown is a model's text or a caller's: it is made visible first, and never markup.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rich.text import Text

from gloss_server.files.result_row import Explained
from gloss_server.terminal import visible

MARK = "!"
FLAG_MEANINGS = {
    "unclosed": "cut off before its closing tag",
    "no_tag": "came without tags",
    "norm_outlier": "the activation's norm is unusual",
    "early_position": "read earlier than the AV was trained on",
    "special_token": "read on a special token",
    "unknown_token": "read on a token the target does not know",
    "suspect_script": "reads like a failed injection",
    "low_fidelity": "reconstructs worse than the mean activation",
    "no_fve_baseline": "no baseline for FVE is known",
}
_GOOD_FVE, _FAIR_FVE = 0.7, 0.4


def explanation_cell(explanation: Explained) -> Text:
    """What it says, or why there is none."""
    if explanation.error is not None:
        return Text(visible(explanation.error.message), style="red")
    return Text(visible(explanation.explanation))


def cosine_cell(cosine: float | None) -> Text:
    """Of the reconstruction."""
    return Text("-" if cosine is None else f"{cosine:.3f}")


def fve_cell(fve: float | None) -> Text:
    """Coloured by how good it is."""
    if fve is None:
        return Text("-")
    style = "green" if fve >= _GOOD_FVE else "yellow" if fve >= _FAIR_FVE else "red"
    return Text(f"{fve:.2f}", style=style)


def mark_cell(explanation: Explained) -> Text:
    """Set where there is a warning, which the legend names."""
    return Text(MARK if explanation.flags or explanation.error else "", style="yellow")


def legend(explanations: Iterable[Explained]) -> list[Text]:
    """A line for each flag that occurs."""
    counts = Counter(flag for explanation in explanations for flag in explanation.flags)
    return [
        Text.assemble(
            (f"{MARK} ", "yellow"),
            visible(f"{count} {flag}: {FLAG_MEANINGS.get(flag, 'a flag of a newer server')}"),
        )
        for flag, count in sorted(counts.items())
    ]


def mean_fve(explanations: Iterable[Explained]) -> float | None:
    """Mean over scored explanations; None where there is none."""
    values = [e.fve for e in explanations if e.fve is not None]
    return sum(values) / len(values) if values else None
