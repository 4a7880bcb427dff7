"""Captured activations as part files, so that a run that was killed loses one part at most.

A part is what became of consecutive documents, a file for each split. Its name holds a hash of all
that decides its rows, so a part of the same content is never read again, and documents behind it
can be added.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gloss_engine.target.reader import TextToRead
from gloss_training.capture.readers import ActivationReader
from gloss_training.dataset.parquet_file import UNFINISHED, vector_column, write_parquet
from gloss_training.documents.plan import Plan, PlannedDocument
from gloss_training.documents.settings import DataSettings
from gloss_training.documents.splits import SPLITS
from gloss_training.errors import DatasetError
from gloss_training.passage import Passage

CAPTURED: Final = "captured"
"""Folder of parts within the data stage's; of no use once the stage is finished."""
_KEPT: Final = "Parts written before are whole."
_LEFT_OUT: Final = b"num_left_out"


@dataclass(frozen=True, kw_only=True)
class CapturedParts:
    """The parts of a plan, in its order.

    Attributes:
        files: of each split.
    """

    files: Mapping[str, tuple[Path, ...]]

    def tables(self, split: str) -> Iterator[pa.Table]:
        """A table for each part."""
        for file in self.files[split]:
            yield pq.read_table(file)

    def passages(self, splits: Sequence[str]) -> Iterator[Passage]:
        """What each row of these splits is about, split by split."""
        columns = ["doc_id", "position", "text", "facts"]
        for split in splits:
            for file in self.files[split]:
                for row in pq.read_table(file, columns=columns).to_pylist():
                    facts = row.pop("facts")
                    yield Passage(**row, facts=None if facts is None else json.loads(facts))

    def num_rows(self, splits: Sequence[str]) -> int:
        """Rows of these splits."""
        files = (file for split in splits for file in self.files[split])
        return sum(int(pq.read_metadata(file).num_rows) for file in files)

    def num_left_out(self, splits: Sequence[str] = SPLITS) -> int:
        """Positions whose activation is zero or not finite."""
        schemas = (pq.read_schema(file) for split in splits for file in self.files[split])
        return sum(int(schema.metadata[_LEFT_OUT].decode()) for schema in schemas)

    def require_rows(self) -> None:
        """Refuses a split of whose positions not one has an activation with a direction.

        Raises:
            DatasetError: which split.
        """
        for split in SPLITS:
            left_out = self.num_left_out((split,))
            if left_out and not self.num_rows((split,)):
                raise DatasetError(
                    f"split {split}",
                    got=f"activations that are zero or not finite at all of its {left_out:,} "
                    "positions",
                    expected="one or more with a direction",
                    fix="Look at the target and its layer_index, or give more documents.",
                )


def capture_parts(
    plan: Plan,
    reader: ActivationReader,
    settings: DataSettings,
    folder: Path,
    on_part: Callable[[int], None],
) -> CapturedParts:
    """Captures what is missing of a plan's parts and removes parts of other plans.

    Args:
        on_part: hears of every part how many documents it holds.

    Raises:
        DiskError: a part could not be written; those before it stay.
    """
    files: dict[str, list[Path]] = {split: [] for split in SPLITS}
    size = settings.documents_per_part
    for index, start in enumerate(range(0, len(plan.documents), size)):
        documents = plan.documents[start : start + size]
        key = _key(documents, reader, settings)
        part = {split: folder / f"{index:06d}-{split}-{key}.parquet" for split in SPLITS}
        if not all(file.exists() for file in part.values()):
            for split, table in _capture(documents, reader, settings).items():
                write_parquet(part[split], table.schema, [table], _KEPT)
        for split in SPLITS:
            files[split].append(part[split])
        on_part(len(documents))
    wanted = {file for found in files.values() for file in found}
    for stale in {*folder.glob("*.parquet"), *folder.glob(f"*{UNFINISHED}")} - wanted:
        stale.unlink()
    return CapturedParts(files={split: tuple(found) for split, found in files.items()})


def _key(
    documents: Sequence[PlannedDocument], reader: ActivationReader, settings: DataSettings
) -> str:
    """16 hex digits of what decides a part's rows."""
    read = (reader.fingerprint, reader.how, reader.layer_index, settings.max_passage_chars)
    hashed = hashlib.sha256(json.dumps(read).encode())
    for planned in documents:
        head = [planned.document.doc_id, planned.split, planned.encoded.text, planned.positions]
        hashed.update(json.dumps(head).encode())
        hashed.update(planned.encoded.token_ids.tobytes())
    return hashed.hexdigest()[:16]


def _capture(
    documents: Sequence[PlannedDocument], reader: ActivationReader, settings: DataSettings
) -> dict[str, pa.Table]:
    """The rows of consecutive documents by their split; those without a direction left out."""
    captured = reader.read(
        [
            TextToRead(token_ids=tuple(d.encoded.token_ids.tolist()), positions=d.positions)
            for d in documents
        ]
    )
    usable = np.isfinite(captured.norms) & (captured.norms > 0)
    places = [(d, passage) for d in documents for passage in d.passages(settings.max_passage_chars)]
    splits = np.array([planned.split for planned, _ in places])
    tables: dict[str, pa.Table] = {}
    for split in SPLITS:
        chosen = np.flatnonzero(usable & (splits == split))
        table = _table(
            [places[index] for index in chosen.tolist()],
            captured.activations[chosen],
            reader.layer_index,
        )
        left_out = int((~usable & (splits == split)).sum())
        tables[split] = table.replace_schema_metadata({_LEFT_OUT: str(left_out)})
    return tables


def _table(
    places: Sequence[tuple[PlannedDocument, Passage]], activations: np.ndarray, layer_index: int
) -> pa.Table:
    passages = [passage for _, passage in places]
    facts = [None if p.facts is None else json.dumps(dict(p.facts)) for p in passages]
    ids = [int(planned.encoded.token_ids[p.position]) for planned, p in places]
    return pa.table(
        {
            "activation_vector": vector_column(activations),
            "n_raw_tokens": pa.array([p.position + 1 for p in passages], pa.int32()),
            "activation_layer": pa.array([layer_index] * len(places), pa.int32()),
            "doc_id": pa.array([p.doc_id for p in passages], pa.string()),
            "position": pa.array([p.position for p in passages], pa.int32()),
            "token_id": pa.array(ids, pa.int32()),
            "text": pa.array([p.text for p in passages], pa.string()),
            "facts": pa.array(facts, pa.string()),
        }
    )
