"""Evaluation on held-out stories: how well explanations rebuild activations, and if they are true.

FVE alone rewards invention, so claim precision always stands beside it; explanations scored
against other rows' activations (shuffled) must explain nothing.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from gloss_training.claims import Verdict, judge
from gloss_training.dataset.rows import Rows
from gloss_training.dataset.statistics import Statistics
from gloss_training.prompts import explanation_of, marked_prompt
from gloss_training.reconstructor import Reconstructor, reconstruct
from gloss_training.scoring import fve, normalized_mse
from gloss_training.seeds import generator_for
from gloss_training.settings import EvaluateSettings, PromptSettings
from gloss_training.verbalizer import injected_rows, verbalize


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures over held-out rows. Rates are shares of all rows or of all sentences or claims."""

    num_rows: int
    fve: float
    mean_cosine: float
    fve_shuffled: float
    fve_teacher: float
    claim_precision: float
    fact_precision: float
    ending_precision: float
    facts_per_explanation: float
    fact_recall: float
    unparsed_rate: float
    unclosed_rate: float
    fve_baseline: float


def evaluate(
    settings: EvaluateSettings,
    seed: int,
    av: Any,
    reconstructor: Reconstructor,
    tokenizer: Any,
    prompt: PromptSettings,
    heldout: Rows,
    statistics: Statistics,
) -> tuple[Evaluation, list[dict[str, Any]]]:
    """Figures, and one record per row: text, explanation, cosine, verdict."""
    chosen = _choose_rows(settings.num_rows, seed, len(heldout))
    activations = heldout.activations[chosen]
    responses = verbalize(
        av,
        tokenizer,
        marked_prompt(tokenizer, prompt),
        injected_rows(activations, statistics.injection_scale),
        max_new_tokens=settings.max_new_tokens,
        seed=seed,
    )
    explanations = [explanation_of(response) for response in responses]
    verdicts = [
        judge(text, heldout.facts[index], heldout.words[index])
        for (text, _), index in zip(explanations, chosen, strict=True)
    ]
    rebuilt = reconstruct(
        reconstructor, tokenizer, prompt.ar_template, [text for text, _ in explanations]
    )
    taught = reconstruct(
        reconstructor, tokenizer, prompt.ar_template, [heldout.explanations[i] for i in chosen]
    )
    mse = normalized_mse(rebuilt, activations)
    baseline = statistics.fve_baseline
    cosines = 1.0 - mse / 2.0
    evaluation = Evaluation(
        num_rows=len(chosen),
        fve=fve(mse, baseline),
        mean_cosine=float(cosines.mean()),
        fve_shuffled=fve(normalized_mse(rebuilt, other_documents(activations)), baseline),
        fve_teacher=fve(normalized_mse(taught, activations), baseline),
        unclosed_rate=sum(not closed for _, closed in explanations) / len(chosen),
        fve_baseline=baseline,
        **truth_figures(verdicts),
    )
    samples = [
        _record(heldout, index, explanation, cosine, verdict)
        for index, explanation, cosine, verdict in zip(
            chosen, explanations, cosines.tolist(), verdicts, strict=True
        )
    ]
    return evaluation, samples


def truth_figures(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Pooled over explanations: shares of stated claims that are right, of facts recalled."""
    total = {
        name: sum(getattr(verdict, name) for verdict in verdicts)
        for name in Verdict.__dataclass_fields__
    }
    num_claims = total["num_facts"] + total["num_endings"]
    num_right = total["num_facts_right"] + total["num_endings_right"]
    return {
        "claim_precision": _share(num_right, num_claims),
        "fact_precision": _share(total["num_facts_right"], total["num_facts"]),
        "ending_precision": _share(total["num_endings_right"], total["num_endings"]),
        "facts_per_explanation": _share(total["num_facts"], len(verdicts)),
        "fact_recall": _share(total["num_recalled"], total["num_revealed"]),
        "unparsed_rate": _share(total["num_unparsed"], total["num_sentences"]),
    }


def other_documents(activations: torch.Tensor) -> torch.Tensor:
    """The rows rolled by half their number, so that each meets a row of a distant story."""
    return activations.roll(max(1, len(activations) // 2), dims=0)


def _record(
    heldout: Rows, index: int, explanation: tuple[str, bool], cosine: float, verdict: Verdict
) -> dict[str, Any]:
    """One row's text, explanation and evidence, for reading."""
    text, closed = explanation
    return {
        "doc_id": heldout.doc_ids[index],
        "position": len(heldout.words[index]) - 1,
        "text": " ".join(heldout.words[index]),
        "explanation": text,
        "closed": closed,
        "cosine": cosine,
        **asdict(verdict),
    }


def _choose_rows(wanted: int, seed: int, num_rows: int) -> list[int]:
    generator = generator_for(seed, "evaluation")
    count = min(wanted, num_rows)
    return sorted(int(i) for i in np.sort(generator.choice(num_rows, size=count, replace=False)))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
