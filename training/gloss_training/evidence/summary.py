"""summary.md and the plots, from the results that are there: nothing in them is written by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from gloss_training.evaluation.plots import Point, plot_training, plot_truth
from gloss_training.evidence.acceptance import (
    LEAST_PRECISION,
    NUM_SEEDS,
    SUBJECT,
    Verdict,
    judge_results,
)
from gloss_training.evidence.arms import ARMS
from gloss_training.evidence.results import Result, read_results
from gloss_training.storage.disk import writing

COLUMNS: Final = (
    *("fve", "fve_shuffled", "fve_fresh_ar", "fve_bag_of_words", "paraphrase_retention"),
    *("claim_precision", "facts_per_explanation", "fact_recall", "unparsed_rate"),
    *("tokens_mean", "unclosed_rate"),
)
SUMMARY_FILE: Final = "summary.md"
TRUTH_PLOT: Final = "fve-against-truth.png"


def summarise(folder: Path) -> None:
    """Writes summary.md and the plots of the results in a folder."""
    results = read_results(folder)
    if not results:
        return
    seeds = sorted({result["seed"] for result in results})
    for seed in seeds:
        runs = {_label(r): r["curves"] for r in results if r["seed"] == seed and r["curves"]}
        if runs:
            plot_training(runs, folder / curves_file(seed))
    points = [
        Point(
            arm=_label(result),
            fve=result["figures"]["fve"],
            claim_precision=result["figures"]["claim_precision"],
        )
        for result in results
        if "claim_precision" in result["figures"]
    ]
    if points:
        plot_truth(points, LEAST_PRECISION, folder / TRUTH_PLOT)
    text = "\n".join(_page(results, seeds)) + "\n"
    with writing(SUMMARY_FILE, "The results are whole."):
        (folder / SUMMARY_FILE).write_text(text, encoding="utf-8")


def curves_file(seed: int) -> str:
    """Name of the plot of a seed's RL runs."""
    return f"curves-seed-{seed}.png"


def _page(results: Sequence[Result], seeds: Sequence[int]) -> Iterable[str]:
    yield "# Evidence: the tiny world, arm by arm"
    yield ""
    yield (
        f"Made by `gloss-train evidence` from the JSON files beside it. {_teaching(results[0])} "
        "Arms of a seed share target, data and supervised stages. All figures are of held-out "
        "stories."
    )
    yield ""
    yield from _acceptance(judge_results(results))
    yield "## Arms"
    yield ""
    headline = [result for result in results if not result["is_oracle"]]
    yield from _table(headline)
    oracle = [result for result in results if result["is_oracle"]]
    if oracle:
        yield "## With an oracle in the reward"
        yield ""
        yield (
            "The grammar judges truth while RL runs. No such judge exists outside the tiny world: "
            "what is below is a bound, no result of the method."
        )
        yield ""
        yield from _table(oracle)
    yield from _missing(results)
    yield "## Plots"
    yield ""
    yield f"![FVE against claim precision]({TRUTH_PLOT})"
    for seed in seeds:
        if any(result["curves"] for result in results if result["seed"] == seed):
            yield ""
            yield f"![RL of seed {seed}]({curves_file(seed)})"
    yield ""
    yield from _origin(results)


def _teaching(result: Result) -> str:
    """What the supervised stages were taught."""
    most = result["config"]["world"]["most_stated"]
    if not most:
        return "The teacher states all that a text has revealed: RL has little to find."
    return (
        f"The teacher states one to {most} of the facts that a text has revealed, the last words "
        "counted as one, so that there is something for RL to find."
    )


def _acceptance(verdicts: Sequence[Verdict]) -> Iterable[str]:
    yield "## Acceptance"
    yield ""
    yield f"Of `{SUBJECT}`, {ARMS[SUBJECT].says}; a condition has to hold on {NUM_SEEDS} seeds."
    yield ""
    yield "| condition | bound | by seed | least margin | holds |"
    yield "|---|---|---|---|---|"
    said = {True: "yes", False: "**no**"}
    for verdict in verdicts:
        condition = verdict.condition
        values = ", ".join(f"{seed}: {value:.3f}" for seed, value in verdict.values.items())
        margin = f"{min(verdict.margins.values()):+.3f}" if verdict.margins else "–"
        holds = verdict.holds
        answer = f"undecided, {len(verdict.values)} of {NUM_SEEDS} seeds"
        yield (
            f"| {condition.says} | {'≤' if condition.is_most else '≥'} {condition.bound:g} "
            f"| {values or '–'} | {margin} | {answer if holds is None else said[holds]} |"
        )
    yield ""


def _table(results: Sequence[Result]) -> Iterable[str]:
    """A row for each arm and seed, and their mean where there are several seeds."""
    yield "| arm | seed | " + " | ".join(name.replace("_", " ") for name in COLUMNS) + " |"
    yield "|---|---|" + "---|" * len(COLUMNS)
    arms = list(dict.fromkeys(result["arm"] for result in results))
    for arm in arms:
        rows = {str(r["seed"]): r["figures"] for r in results if r["arm"] == arm}
        if len(rows) > 1:
            rows["mean"] = _means(list(rows.values()))
        for seed, figures in rows.items():
            shown = [_shown(figures.get(name)) for name in COLUMNS]
            yield f"| {arm} | {seed} | " + " | ".join(shown) + " |"
    yield ""
    for arm in arms:
        yield f"- `{arm}`: {ARMS[arm].says}."
    yield ""


def _missing(results: Sequence[Result]) -> Iterable[str]:
    """Why figures are not there."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for name, why in result["missing"].items():
            reasons.setdefault((name, why), []).append(f"{result['arm']} {result['seed']}")
    if not reasons:
        return
    yield "Figures that are missing:"
    yield ""
    for (name, why), where in reasons.items():
        yield f"- {name}: {why} ({', '.join(where)})."
    yield ""


def _origin(results: Sequence[Result]) -> Iterable[str]:
    """Where the results come from."""
    yield "## Where this comes from"
    yield ""
    yield "| arm | seed | minutes by stage | command | commit | machine |"
    yield "|---|---|---|---|---|---|"
    for result in results:
        minutes = ", ".join(f"{name} {s / 60:.1f}" for name, s in result["seconds"].items())
        machine = result["machine"]
        yield (
            f"| {result['arm']} | {result['seed']} | {minutes} | `{result['command']}` "
            f"| {result['commit'] or 'unknown'} | {machine['processor']}, "
            f"{machine['threads']} of {machine['cores']} cores, torch {machine['torch']} |"
        )
    yield ""
    yield "Stages that arms share were made once; their minutes stand at each of them."


def _means(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of the figures that all have."""
    common = set.intersection(*({*row} for row in rows))
    return {name: sum(row[name] for row in rows) / len(rows) for name in common}


def _label(result: Result) -> str:
    """An arm in a plot."""
    arm: str = result["arm"]
    return f"{arm} (oracle)" if result["is_oracle"] else arm


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
