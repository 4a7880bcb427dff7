"""Rows of one split in memory, as the stages read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from gloss_training.dataset.parquet_file import vectors_of
from gloss_training.dataset.sidecar import MADE_AGAIN
from gloss_training.errors import DatasetError
from gloss_training.passage import Passage

_NEEDED = {
    *("prompt", "response", "activation_vector", "n_raw_tokens", "activation_layer", "doc_id"),
    *("position", "explanation", "text", "facts"),
}


@dataclass(frozen=True, kw_only=True)
class Rows:
    """One split; row i of every field belongs together.

    Attributes:
        activations: [n, d] float32, raw.
        explanations: the teacher's; "" where it was not asked.
        texts: what stands before each position, and the token there.
        doc_ids, positions: where each activation comes from.
        facts: of the tiny world, what the text has revealed; elsewhere empty.
    """

    activations: torch.Tensor
    explanations: tuple[str, ...]
    texts: tuple[str, ...]
    doc_ids: tuple[str, ...]
    positions: tuple[int, ...]
    facts: tuple[Mapping[str, str], ...]

    def __len__(self) -> int:
        return len(self.texts)

    def passage(self, index: int) -> Passage:
        """What row `index` is about."""
        return Passage(
            doc_id=self.doc_ids[index],
            position=self.positions[index],
            text=self.texts[index],
            facts=self.facts[index],
        )


def read_rows(path: Path) -> Rows:
    """One split from parquet.

    Raises:
        DatasetError: no such file, none of ours, or ragged vectors.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        is_gone = isinstance(error, FileNotFoundError)
        raise DatasetError(
            str(path),
            got="no such file" if is_gone else str(error).splitlines()[0][:200],
            expected="a split that gloss-train data has written",
            fix=MADE_AGAIN,
        ) from error
    missing = sorted(_NEEDED - {*table.column_names})
    if missing or not pa.types.is_fixed_size_list(table.schema.field("activation_vector").type):
        raise DatasetError(
            str(path),
            got=f"no {', '.join(missing)}" if missing else "vectors of any length",
            expected="the columns of gloss-train data, vectors as fixed-size lists",
            fix=MADE_AGAIN,
        )
    facts = table["facts"].to_pylist()
    return Rows(
        activations=torch.from_numpy(vectors_of(table["activation_vector"]).copy()),
        explanations=tuple(text or "" for text in table["explanation"].to_pylist()),
        texts=tuple(table["text"].to_pylist()),
        doc_ids=tuple(table["doc_id"].to_pylist()),
        positions=tuple(table["position"].to_pylist()),
        facts=tuple({} if text is None else json.loads(text) for text in facts),
    )
