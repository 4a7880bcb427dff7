"""`nla_meta.yaml`: what makes a Hugging Face model an AV or an AR.

Reads every variant in use (roles av/ar and actor/critic, three spellings of the template keys,
four places for layer K) into one `Sidecar`, and the sidecar beside a parquet file into a
`DatasetSidecar`. Unknown keys are ignored. Whether the ids agree with the tokenizer is for
`av/prompt.py` and `ar/template.py`; whether the widths agree with the weights is for the loader.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from gloss_engine.errors import CheckpointError
from gloss_engine.section import Section, load_section

SIDECAR_NAME = "nla_meta.yaml"
_ROLES: dict[str, Literal["av", "ar"]] = {"av": "av", "actor": "av", "ar": "ar", "critic": "ar"}
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Marker:
    """The injection token of an AV's prompt and the tokens that stand on both sides of it.

    Attributes:
        char: the placeholder as text.
        token_id: the id it encodes to.
        left_neighbor_id, right_neighbor_id: the ids before and after it in the canonical prompt.
    """

    char: str
    token_id: int
    left_neighbor_id: int
    right_neighbor_id: int


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """One checkpoint's `nla_meta.yaml`, validated.

    Attributes:
        role: "av" or "ar".
        d_model: width of the activations; must equal the model's hidden size.
        injection_scale: L2 norm that an injected activation is given; never None on an AV.
        mse_scale: norm both vectors are given before the mse; None: trained on raw mse, so a
            score by direction means nothing.
        layer_index: K; activations are the output of block K. None: not stated.
        marker: the injection token; None where the file has none.
        critic_suffix_ids: the last ids every AR prompt must end with.
        av_template, ar_template: prompt texts with their placeholders still in them.
        fve_baseline: strict baseline of the FVE.
        min_position: first position the AV was trained on.
        norm_median: usual L2 norm of an activation.
    """

    role: Literal["av", "ar"]
    d_model: int
    injection_scale: float | None
    mse_scale: float | None
    layer_index: int | None = None
    marker: Marker | None = None
    critic_suffix_ids: tuple[int, ...] | None = None
    av_template: str | None = None
    ar_template: str | None = None
    fve_baseline: float | None = None
    min_position: int | None = None
    norm_median: float | None = None


@dataclass(frozen=True, kw_only=True)
class DatasetSidecar:
    """What a parquet file of activations says about itself.

    Attributes:
        d_model: width of the `activation_vector` column.
        layer_index: K of the activations; None: not stated.
    """

    d_model: int
    layer_index: int | None


def read_sidecar(directory: Path) -> Sidecar:
    """Read `directory/nla_meta.yaml`.

    Raises:
        CheckpointError: missing file, broken YAML, a value of the wrong type or sign, places that
            contradict each other, a dataset's sidecar, or an AV without an injection scale.
    """
    root = load_section(directory / SIDECAR_NAME)
    _check_kind(root, "nla_model")
    role_text = root.text("role")
    if role_text is None or role_text not in _ROLES:
        raise root.refuse("role", "av or ar (or actor, critic)", "State the checkpoint's role.")
    role = _ROLES[role_text]
    d_model = _required_width(root)
    extraction, tokens = root.section("extraction"), root.section("tokens")
    injection_scale = extraction.scale("injection_scale", d_model)
    if role == "av" and injection_scale is None:
        raise extraction.refuse(
            "injection_scale",
            "a positive number or sqrt_d_model",
            "State the norm that injected activations had in training; it cannot be guessed.",
        )
    mse_scale = math.sqrt(d_model)
    return Sidecar(
        role=role,
        d_model=d_model,
        injection_scale=injection_scale,
        mse_scale=extraction.scale("mse_scale", d_model)
        if "mse_scale" in extraction.values
        else mse_scale,
        layer_index=_layer_index(root),
        marker=_marker(tokens),
        critic_suffix_ids=tokens.ids("critic_suffix_ids"),
        av_template=_template(root, ("av", "actor", "verbalizer")),
        ar_template=_template(root, ("ar", "critic", "reconstructor")),
        fve_baseline=extraction.number("fve_baseline"),
        min_position=extraction.integer("min_position"),
        norm_median=extraction.number("norm_median"),
    )


def require_plain_model(directory: Path) -> None:
    """Refuse an AV or an AR where the model that was captured from is wanted.

    Raises:
        CheckpointError: `directory` has an `nla_meta.yaml`.
    """
    if not (directory / SIDECAR_NAME).exists():
        return
    role = read_sidecar(directory).role
    raise CheckpointError(
        f"{directory.name}: role",
        got=f"an {role.upper()} ({SIDECAR_NAME} says so)",
        expected="a plain model, the target",
        fix="An AV or an AR is trained further, and has other activations. Name the model that "
        "was captured from.",
    )


def read_dataset_sidecar(parquet: Path) -> DatasetSidecar | None:
    """Read `{parquet}.nla_meta.yaml`; None if the file has no sidecar.

    Raises:
        CheckpointError: broken YAML, a checkpoint's sidecar, or a value of the wrong type.
    """
    path = parquet.with_name(f"{parquet.name}.{SIDECAR_NAME}")
    if not path.exists():
        return None
    root = load_section(path)
    _check_kind(root, "nla_dataset")
    extraction = root.section("extraction")
    return DatasetSidecar(
        d_model=_required_width(extraction if "d_model" in extraction.values else root),
        layer_index=_layer_index(root),
    )


def _check_kind(root: Section, expected: str) -> None:
    kind = root.text("kind")
    if kind == expected:
        return
    fix = "State the kind."
    if kind == "nla_dataset":
        fix = "This sidecar describes a parquet file of activations; name a model directory."
    elif kind == "nla_model":
        fix = "This sidecar describes a checkpoint; name a parquet file of activations."
    raise root.refuse("kind", expected, fix)


def _required_width(section: Section) -> int:
    d_model = section.integer("d_model", minimum=1)
    if d_model is None:
        raise section.refuse("d_model", "the model's hidden size", "State d_model.")
    return d_model


def _agreed(path: Path, what: str, places: Mapping[str, _T | None]) -> _T | None:
    """The one value stated, wherever it stands; places that contradict each other are refused."""
    stated = {place: value for place, value in places.items() if value is not None}
    if len(set(stated.values())) > 1:
        raise CheckpointError(
            f"{path}: {what}",
            got=reprlib.repr(stated),
            expected="the same value in every place",
            fix="Find out which one the checkpoint was trained with and remove the others.",
        )
    return next(iter(stated.values()), None)


def _layer_index(root: Section) -> int | None:
    extraction, critic = root.section("extraction"), root.section("critic")
    places = {
        "extraction_layer_index": root.integer("extraction_layer_index"),
        "extraction.layer_index": extraction.integer("layer_index"),
        "critic.extraction_layer_index": critic.integer("extraction_layer_index"),
        # Old files store K itself under this name, not a count of layers.
        "critic.num_hidden_layers": critic.integer("num_hidden_layers"),
    }
    return _agreed(root.path, "layer K", places)


def _marker(tokens: Section) -> Marker | None:
    char = tokens.text("injection_char")
    keys = ("injection_token_id", "injection_left_neighbor_id", "injection_right_neighbor_id")
    ids = [tokens.integer(key) for key in keys]
    if char is None and all(token_id is None for token_id in ids):
        return None
    if char is None:
        raise tokens.refuse("injection_char", "the marker's text", "State all four marker fields.")
    for key, token_id in zip(keys, ids, strict=True):
        if token_id is None:
            raise tokens.refuse(key, "a token id", "State all four marker fields.")
    token_id, left, right = (value for value in ids if value is not None)
    return Marker(char=char, token_id=token_id, left_neighbor_id=left, right_neighbor_id=right)


def _template(root: Section, keys: tuple[str, ...]) -> str | None:
    templates = root.section("prompt_templates")
    return _agreed(
        root.path,
        f"prompt template ({', '.join(keys)})",
        {f"prompt_templates.{key}": templates.text(key) for key in keys},
    )
