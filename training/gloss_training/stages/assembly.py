"""Captured parts and answers become one file a split, in the released columns, with its sidecar."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from gloss_training.capture.parts import CapturedParts
from gloss_training.dataset.parquet_file import split_file, vectors_of, write_parquet
from gloss_training.dataset.sidecar import DatasetFacts, write_dataset_sidecar
from gloss_training.dataset.statistics import RunningStatistics, Statistics
from gloss_training.documents.splits import SPLITS
from gloss_training.errors import DatasetError
from gloss_training.models.prompts import wrap
from gloss_training.settings import AR_SLOT, AV_SLOT, PromptSettings
from gloss_training.teachers.teacher import KEPT, Answer

_KEPT_FILES: Final = "Activations and answers are kept."


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """What the files hold.

    Attributes:
        num_rows: of each split.
        outcomes: of the questions, by split and outcome.
        statistics: of all rows but those held out.
    """

    num_rows: dict[str, int]
    outcomes: dict[str, Counter[str]]
    statistics: Statistics


def assemble(
    parts: CapturedParts,
    answers: Sequence[Answer],
    explained: Sequence[str],
    facts: DatasetFacts,
    folder: Path,
) -> Assembled:
    """Writes every split.

    Args:
        parts: the activations.
        answers: one for each row of the explained splits, split by split.
        explained: these.
        facts: what the sidecars say.
        folder: where the files go.

    Raises:
        DatasetError: a split that is trained on explanations and has none.
        DiskError: a file could not be written.
    """
    left = iter(answers)
    num_rows: dict[str, int] = {}
    outcomes: dict[str, Counter[str]] = {}
    running = RunningStatistics()
    for split in (*explained, *(split for split in SPLITS if split not in explained)):
        count: Counter[str] = Counter()

        def tables(split: str = split, count: Counter[str] = count) -> Iterator[pa.Table]:
            for captured in parts.tables(split):
                of_rows: list[Answer] | None = None
                if split in explained:
                    of_rows = [next(left) for _ in range(len(captured))]
                    count.update(answer.outcome for answer in of_rows)
                table = _rows(captured, of_rows, split, facts.prompt)
                if split != "heldout":
                    running.add(vectors_of(table["activation_vector"]))
                yield table

        path = split_file(folder, split)
        num_rows[split] = write_parquet(path, _schema(facts.d_model), tables(), _KEPT_FILES)
        outcomes[split] = count
    _require_rows(num_rows, outcomes)
    statistics = running.result(facts.prompt)
    for split, count_rows in num_rows.items():
        contents = facts.contents(split, count_rows, statistics)
        write_dataset_sidecar(split_file(folder, split), contents)
    return Assembled(num_rows=num_rows, outcomes=outcomes, statistics=statistics)


def _rows(
    captured: pa.Table, answers: list[Answer] | None, split: str, prompt: PromptSettings
) -> pa.Table:
    """The rows of a part; what is trained on explanations keeps those that have one."""
    texts = [None] * len(captured) if answers is None else [a.text or None for a in answers]
    if split in ("av", "ar"):
        kept = np.flatnonzero([text is not None for text in texts])
        captured, texts = captured.take(pa.array(kept)), [texts[i] for i in kept.tolist()]
    prompts = [prompt.av_template.replace(AV_SLOT, prompt.injection_char)] * len(texts)
    if split == "ar":
        prompts = [prompt.ar_template.replace(AR_SLOT, text or "") for text in texts]
    responses = [wrap(text) if split == "av" and text else None for text in texts]
    columns = {name: captured[name] for name in captured.column_names}
    columns |= {
        "prompt": pa.array(prompts, pa.string()),
        "response": pa.array(responses, pa.string()),
        "explanation": pa.array(texts, pa.string()),
    }
    width = captured.schema.field("activation_vector").type.list_size
    schema = _schema(width)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _schema(d_model: int) -> pa.Schema:
    """The released columns, then ours."""
    return pa.schema(
        [
            ("prompt", pa.string()),
            ("response", pa.string()),
            ("activation_vector", pa.list_(pa.float32(), d_model)),
            ("n_raw_tokens", pa.int32()),
            ("activation_layer", pa.int32()),
            ("doc_id", pa.string()),
            ("position", pa.int32()),
            ("token_id", pa.int32()),
            ("explanation", pa.string()),
            ("text", pa.string()),
            ("facts", pa.string()),
        ]
    )


def _require_rows(num_rows: dict[str, int], outcomes: dict[str, Counter[str]]) -> None:
    """Refuses a data set that a stage would find empty, since no answer was of use.

    Splits without documents or activations are refused before anybody is asked.
    """
    for split in ("av", "ar"):
        if num_rows[split]:
            continue
        dropped = {name: n for name, n in outcomes[split].items() if name != KEPT}
        raise DatasetError(
            f"split {split}",
            got=f"no rows, of answers {dropped}",
            expected="one or more",
            fix="Give more documents, another teacher, or a larger teacher.max_tokens where they "
            "are truncated.",
        )
