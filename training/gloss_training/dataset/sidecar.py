"""The sidecar beside a file of activations, and whether the file goes with a model.

`nla_meta.yaml` of kind `nla_dataset`, schema version 2, as released: `FILE.parquet.nla_meta.yaml`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from gloss_engine.errors import CheckpointError
from gloss_engine.section import load_section
from gloss_engine.sidecar import SIDECAR_NAME, read_dataset_sidecar
from gloss_training.dataset.parquet_file import write_whole
from gloss_training.dataset.statistics import Statistics
from gloss_training.errors import DatasetError
from gloss_training.models.prompts import MarkedPrompt
from gloss_training.settings import PromptSettings

MADE_AGAIN: Final = (
    "Remove stages/data.json of the run and run gloss-train data: what was captured and answered "
    "is kept."
)
"""How a file that is gone or damaged is made again: a finished stage is not."""
_FIX: Final = (
    "Name the model that was captured from, or run gloss-train data with this one under another "
    "--output."
)


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """What a file of activations says about itself.

    Attributes:
        d_model, layer_index: of the activations.
        target_fingerprint, read_by: the weights, and how they were run.
        min_position: the first position that is read.
        prompt, marked: templates and marker of its prompts, and the AV's as tokens.
        teacher: who explained.
    """

    d_model: int
    layer_index: int
    target_fingerprint: str
    read_by: str
    min_position: int
    prompt: PromptSettings
    marked: MarkedPrompt
    teacher: str

    def contents(self, split: str, num_rows: int, statistics: Statistics) -> dict[str, Any]:
        """The sidecar of one split; statistics are those of all training rows."""
        return {
            "schema_version": 2,
            "kind": "nla_dataset",
            "extraction": {
                "d_model": self.d_model,
                "layer_index": self.layer_index,
                "min_position": self.min_position,
                **asdict(statistics),
            },
            "tokens": {
                "injection_char": self.prompt.injection_char,
                "injection_token_id": self.marked.marker_id,
                "injection_left_neighbor_id": self.marked.left_id,
                "injection_right_neighbor_id": self.marked.right_id,
            },
            "prompt_templates": {
                "av": self.prompt.av_template,
                "ar": self.prompt.ar_template,
            },
            "dataset": {
                "split": split,
                "num_rows": num_rows,
                "target_fingerprint": self.target_fingerprint,
                "read_by": self.read_by,
                "teacher": self.teacher,
            },
        }


def sidecar_path(parquet: Path) -> Path:
    """Where the sidecar of a file stands."""
    return parquet.with_name(f"{parquet.name}.{SIDECAR_NAME}")


def write_dataset_sidecar(parquet: Path, contents: dict[str, Any]) -> None:
    """Writes a file's sidecar.

    Raises:
        DiskError: it could not be written.
    """
    text = yaml.safe_dump(contents, sort_keys=False, allow_unicode=True, width=1000)
    write_whole(sidecar_path(parquet), lambda file: file.write(text.encode()), "The file is whole.")


def check_dataset(
    parquet: Path,
    *,
    d_model: int,
    layer_index: int,
    min_position: int | None = None,
    target_fingerprint: str | None = None,
    prompt: PromptSettings | None = None,
) -> None:
    """Refuses a file of activations that does not go with the model that is to be trained.

    Args:
        parquet: the file; without a sidecar it is refused.
        d_model, layer_index: the model's.
        min_position: the configuration's; None: any.
        target_fingerprint: of the target (`gloss_engine.checkpoint.fingerprint`); None: any.
        prompt: templates and marker of the configuration; None: any.

    Raises:
        DatasetError: no sidecar, or one that says something else.
    """
    try:
        stated = read_dataset_sidecar(parquet)
    except CheckpointError as error:
        raise DatasetError(
            str(sidecar_path(parquet)), got=error, expected="a dataset's sidecar", fix=_FIX
        ) from error
    if stated is None:
        raise DatasetError(
            str(sidecar_path(parquet)),
            got="no such file",
            expected="the sidecar that says what the activations are",
            fix=MADE_AGAIN,
        )
    pairs: list[tuple[str, object, object]] = [
        ("d_model", stated.d_model, d_model),
        ("layer_index", stated.layer_index, layer_index),
    ]
    root = load_section(sidecar_path(parquet))
    if min_position is not None:
        begins = root.section("extraction").integer("min_position")
        pairs.append(("extraction.min_position", begins, min_position))
    if target_fingerprint is not None:
        captured_from = root.section("dataset").text("target_fingerprint")
        pairs.append(("dataset.target_fingerprint", captured_from, target_fingerprint))
    if prompt is not None:
        templates, tokens = root.section("prompt_templates"), root.section("tokens")
        pairs += [
            ("prompt_templates.av", templates.text("av"), prompt.av_template),
            ("prompt_templates.ar", templates.text("ar"), prompt.ar_template),
            ("tokens.injection_char", tokens.text("injection_char"), prompt.injection_char),
        ]
    for name, got, expected in pairs:
        if got != expected:
            raise DatasetError(
                f"{sidecar_path(parquet)}: {name}", got=repr(got), expected=repr(expected), fix=_FIX
            )
