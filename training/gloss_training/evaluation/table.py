"""All figures of an evaluation in one object, for JSON and for the terminal.

They stand together always: FVE alone rewards invention, and an AR trained beside the AV may read a
code. A figure that cannot be had is not left out: it says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from rich.table import Table

FIGURES: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "Fidelity": (
        ("fve", "fraction of variance explained, strict baseline"),
        ("mean_cosine", "cosine of reconstruction and activation"),
        ("fve_teacher", "FVE of the AR on the teacher's own words"),
    ),
    "Controls": (
        ("fve_shuffled", "FVE on other documents' activations; at or below 0"),
        ("fve_fresh_ar", "FVE of an AR that learnt from the AV's texts alone"),
        ("fve_bag_of_words", "FVE of a ridge regression on word counts"),
        ("fve_reworded", "FVE after the same facts were put in other words"),
        ("paraphrase_retention", "share of FVE that a rewording keeps"),
        ("reworded_share", "explanations that were reworded"),
    ),
    "Truth": (
        ("claim_precision", "stated claims that are true"),
        ("fact_precision", "stated facts that are true"),
        ("ending_precision", "statements about the last words that are true"),
        ("facts_per_explanation", "facts stated"),
        ("fact_recall", "facts of the text that are stated"),
        ("unparsed_rate", "sentences in no known wording"),
    ),
    "Form": (
        ("tokens_mean", "tokens of a response"),
        ("tokens_p95", "of 95% of the responses at most"),
        ("unclosed_rate", "responses without a closing tag"),
    ),
    "Basis": (
        ("num_rows", "held-out activations explained"),
        ("num_training_rows", "activations explained for the fresh AR and the word counts"),
        ("fve_baseline", "strict baseline of the training activations"),
    ),
}
"""Groups of figures in the order they are shown, each with what it says."""
NAMES: Final = tuple(name for group in FIGURES.values() for name, _ in group)


@dataclass(kw_only=True)
class Evaluation:
    """Every figure by its name in FIGURES: its value, or why there is none.

    Attributes:
        figures: values.
        missing: reasons.
    """

    figures: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, figures: Mapping[str, float], missing: Mapping[str, str] | None = None) -> None:
        """Takes figures, and why others are missing."""
        self.figures.update(figures)
        self.missing.update(missing or {})

    def leave_out(self, names: tuple[str, ...], why: str) -> None:
        """States why figures are missing."""
        self.missing.update(dict.fromkeys(names, why))

    def plain(self) -> dict[str, Any]:
        """As JSON has it: values in the table's order, then `missing`."""
        unknown = [n for n in NAMES if (n in self.figures) == (n in self.missing)]
        assert not unknown and {*self.figures} <= {*NAMES}, f"neither or both: {unknown}"
        values = {name: self.figures[name] for name in NAMES if name in self.figures}
        return {**values, "missing": {n: self.missing[n] for n in NAMES if n in self.missing}}


def terminal_table(evaluation: Evaluation, title: str = "") -> Table:
    """Every figure, what it says, and why it is missing."""
    table = Table(title=title or None)
    table.add_column("")
    table.add_column("Figure")
    table.add_column("Value", justify="right")
    table.add_column("What it says")
    for group, names in FIGURES.items():
        for index, (name, meaning) in enumerate(names):
            value = evaluation.figures.get(name)
            why = evaluation.missing.get(name)
            says = meaning if why is None else f"{meaning} [dim](none: {why})[/dim]"
            table.add_row(group if index == 0 else "", name, _shown(value), says)
        table.add_section()
    return table


def _shown(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
