"""`nla_meta.yaml`: every spelling in use is read, every contradiction refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gloss_engine.errors import CheckpointError
from gloss_engine.released import RELEASED_PAIRS, released_baseline
from gloss_engine.sidecar import (
    DatasetSidecar,
    Marker,
    Sidecar,
    read_dataset_sidecar,
    read_sidecar,
)

MARKER = {
    "injection_char": "\u320e",
    "injection_token_id": 149705,
    "injection_left_neighbor_id": 29,
    "injection_right_neighbor_id": 522,
}


def released(**changes: Any) -> dict[str, Any]:
    meta: dict[str, Any] = {
        "kind": "nla_model",
        "schema_version": 2,
        "role": "av",
        "d_model": 3584,
        "extraction": {"injection_scale": 150, "mse_scale": 59.87},
        "tokens": {**MARKER, "critic_suffix_ids": [1318, 29, 366]},
        "prompt_templates": {"av": "<c>{injection_char}</c>", "ar": "<t>{explanation}</t>"},
        "extraction_layer_index": 20,
        "created_at": "2026-05-06T10:00:00",
        "something_new": [1, {"a": None}],
    }
    return {**meta, **changes}


def write(directory: Path, meta: Any) -> Path:
    (directory / "nla_meta.yaml").write_text(yaml.safe_dump(meta, allow_unicode=True))
    return directory


def read(directory: Path, meta: Any) -> Sidecar:
    return read_sidecar(write(directory, meta))


def test_released_av_is_read_whole(tmp_path: Path) -> None:
    assert read(tmp_path, released()) == Sidecar(
        role="av",
        d_model=3584,
        injection_scale=150.0,
        mse_scale=59.87,
        layer_index=20,
        marker=Marker(char="\u320e", token_id=149705, left_neighbor_id=29, right_neighbor_id=522),
        critic_suffix_ids=(1318, 29, 366),
        av_template="<c>{injection_char}</c>",
        ar_template="<t>{explanation}</t>",
    )


@pytest.mark.parametrize(
    ("role", "expected"), [("av", "av"), ("actor", "av"), ("ar", "ar"), ("critic", "ar")]
)
def test_roles_of_releases_and_of_training(tmp_path: Path, role: str, expected: str) -> None:
    assert read(tmp_path, released(role=role)).role == expected


@pytest.mark.parametrize(
    "names", [("av", "ar"), ("actor", "critic"), ("verbalizer", "reconstructor")]
)
def test_template_names(tmp_path: Path, names: tuple[str, str]) -> None:
    sidecar = read(tmp_path, released(prompt_templates={names[0]: "x", names[1]: "y"}))
    assert (sidecar.av_template, sidecar.ar_template) == ("x", "y")


def test_two_different_templates_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="prompt template"):
        read(tmp_path, released(prompt_templates={"av": "x", "actor": "y"}))


LAYER_PLACES: list[dict[str, Any]] = [
    {"extraction_layer_index": 7},
    {"extraction": {"injection_scale": 1.0, "layer_index": 7}},
    {"critic": {"extraction_layer_index": 7}},
    {"critic": {"num_hidden_layers": 7}},
]


@pytest.mark.parametrize("place", LAYER_PLACES)
def test_layer_index_in_each_of_its_places(tmp_path: Path, place: dict[str, Any]) -> None:
    assert read(tmp_path, {**released(extraction_layer_index=None), **place}).layer_index == 7


@pytest.mark.parametrize("place", LAYER_PLACES[1:])
def test_contradicting_layer_indices_are_refused(tmp_path: Path, place: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="layer K") as caught:
        read(tmp_path, {**released(extraction_layer_index=8), **place})
    assert "7" in str(caught.value.got) and "8" in str(caught.value.got)


def test_layer_zero_is_a_layer(tmp_path: Path) -> None:
    assert read(tmp_path, released(extraction_layer_index=0)).layer_index == 0


@pytest.mark.parametrize("extraction", [{}, None, {"injection_scale": None}])
def test_av_without_injection_scale_is_refused(tmp_path: Path, extraction: Any) -> None:
    with pytest.raises(CheckpointError, match=r"extraction\.injection_scale"):
        read(tmp_path, released(extraction=extraction))


def test_ar_needs_no_injection_scale_and_no_marker(tmp_path: Path) -> None:
    sidecar = read(tmp_path, released(role="ar", extraction=None, tokens=None))
    assert sidecar.injection_scale is None and sidecar.marker is None
    assert sidecar.mse_scale == math.sqrt(3584)


def test_scales_by_name(tmp_path: Path) -> None:
    extraction = {"injection_scale": "sqrt_d_model", "mse_scale": "sqrt_d_model"}
    sidecar = read(tmp_path, released(extraction=extraction))
    assert sidecar.injection_scale == sidecar.mse_scale == math.sqrt(3584)


def test_mse_scale_missing_differs_from_null(tmp_path: Path) -> None:
    assert read(tmp_path, released(extraction={"injection_scale": 1})).mse_scale == math.sqrt(3584)
    null = {"injection_scale": 1, "mse_scale": None}
    assert read(tmp_path, released(extraction=null)).mse_scale is None


def test_optional_keys(tmp_path: Path) -> None:
    ours = {"fve_baseline": 0.72, "min_position": 50, "norm_median": 130}
    sidecar = read(tmp_path, released(extraction={"injection_scale": 150, **ours}))
    assert (sidecar.fve_baseline, sidecar.min_position, sidecar.norm_median) == (0.72, 50, 130.0)


@pytest.mark.parametrize("scale", ["8e4", "big", True, -1.0, 0, math.nan, math.inf, [1], 10**400])
def test_senseless_scales_are_refused(tmp_path: Path, scale: Any) -> None:
    for key in ("injection_scale", "mse_scale"):
        with pytest.raises(CheckpointError, match=rf"extraction\.{key}"):
            read(tmp_path, released(extraction={"injection_scale": 1.0, key: scale}))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"kind": None}, "kind"),
        ({"kind": "something"}, "kind"),
        ({"role": "teacher"}, "role"),
        ({"role": 3}, "role"),
        ({"role": None}, "role"),
        ({"d_model": None}, "d_model"),
        ({"d_model": "3584"}, "d_model"),
        ({"d_model": 3584.0}, "d_model"),
        ({"d_model": True}, "d_model"),
        ({"d_model": 0}, "d_model"),
        ({"extraction": [1]}, "extraction"),
        ({"extraction_layer_index": -1}, "extraction_layer_index"),
        ({"extraction_layer_index": "20"}, "extraction_layer_index"),
        ({"tokens": "none"}, "tokens"),
        ({"tokens": {**MARKER, "critic_suffix_ids": "1318"}}, "critic_suffix_ids"),
        ({"tokens": {**MARKER, "critic_suffix_ids": [1, "a"]}}, "critic_suffix_ids"),
        ({"tokens": {**MARKER, "critic_suffix_ids": []}}, "critic_suffix_ids"),
        ({"tokens": {**MARKER, "injection_char": ""}}, "injection_char"),
        ({"tokens": {**MARKER, "injection_char": None}}, "injection_char"),
        ({"tokens": {**MARKER, "injection_token_id": None}}, "injection_token_id"),
        ({"tokens": {**MARKER, "injection_left_neighbor_id": -4}}, "injection_left_neighbor_id"),
        ({"prompt_templates": {"av": 5}}, r"prompt_templates\.av"),
        ({"prompt_templates": "text"}, "prompt_templates"),
    ],
)
def test_refusals_name_file_and_field(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(CheckpointError, match=field) as caught:
        read(tmp_path, released(**changes))
    assert str(tmp_path) in caught.value.what and caught.value.fix


def test_a_datasets_sidecar_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="parquet"):
        read(tmp_path, released(kind="nla_dataset"))


def test_dataset_sidecar(tmp_path: Path) -> None:
    parquet = tmp_path / "a.parquet"
    assert read_dataset_sidecar(parquet) is None
    beside = tmp_path / "a.parquet.nla_meta.yaml"
    meta = {"kind": "nla_dataset", "schema_version": 1}
    beside.write_text(yaml.safe_dump({**meta, "extraction": {"d_model": 64, "layer_index": 3}}))
    assert read_dataset_sidecar(parquet) == DatasetSidecar(d_model=64, layer_index=3)
    beside.write_text(yaml.safe_dump({**meta, "extraction": {"d_model": "x"}}))
    with pytest.raises(CheckpointError, match=r"extraction\.d_model"):
        read_dataset_sidecar(parquet)
    beside.write_text(yaml.safe_dump(released()))
    with pytest.raises(CheckpointError, match="checkpoint"):
        read_dataset_sidecar(parquet)


@pytest.mark.parametrize(
    "text",
    ["", "[1, 2]", "a: [", "{a: 1", "text", "a: !!python/object/apply:os.system [ls]"]
    + ["a: !!timestamp x", "a: !!int ''", "a: !!bool x", "[" * 3000, "&a [*a]", "\x00"],
)
def test_broken_yaml(tmp_path: Path, text: str) -> None:
    (tmp_path / "nla_meta.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=r"nla_meta\.yaml"):
        read_sidecar(tmp_path)


def test_missing_and_undecodable_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="FileNotFoundError"):
        read_sidecar(tmp_path)
    (tmp_path / "nla_meta.yaml").write_bytes(b"kind: \xff\xfe")
    with pytest.raises(CheckpointError, match="UTF-8"):
        read_sidecar(tmp_path)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)
keys = ["kind", "role", "d_model", "extraction", "tokens", "prompt_templates", "critic"]
nested = ["injection_scale", "mse_scale", "layer_index", "injection_char", "injection_token_id"]
nested += ["critic_suffix_ids", "av", "actor", "fve_baseline", "num_hidden_layers"]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    changes=st.dictionaries(
        st.sampled_from(keys),
        values | st.dictionaries(st.sampled_from(nested), values, max_size=4),
        max_size=3,
    )
)
def test_any_values_give_a_sidecar_or_a_checkpoint_error(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    try:
        sidecar = read(tmp_path, released(**changes))
    except CheckpointError:
        return
    assert sidecar.injection_scale is None or 0 < sidecar.injection_scale < math.inf
    assert sidecar.role == "ar" or sidecar.injection_scale is not None


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.text(alphabet="ab: -[]{}!&*?|>'\"%@`#,\n\t0.", max_size=40))
def test_any_text_gives_a_checkpoint_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "nla_meta.yaml").write_text(text)
    with pytest.raises(CheckpointError):
        read_sidecar(tmp_path)


def test_released_pairs_are_recognised_by_shape() -> None:
    for pair in RELEASED_PAIRS:
        shape = {
            "d_model": pair.d_model,
            "num_layers": pair.num_layers,
            "layer_index": pair.layer_index,
            "marker_id": pair.marker_id,
        }
        assert released_baseline(**shape) == pair.fve_baseline
        for key in shape:
            assert released_baseline(**{**shape, key: shape[key] + 1}) is None
    qwen = {"d_model": 3584, "num_layers": 28, "layer_index": 20, "marker_id": 149705}
    assert released_baseline(**qwen) == 0.72
    assert released_baseline(**{**qwen, "layer_index": None}) is None
