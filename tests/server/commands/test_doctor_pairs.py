"""Parts that do not belong together are found, whatever each of them is worth alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from gloss_server.commands.doctor.examination import examine
from support.checkpoints import write_ar, write_av, write_pair, write_target
from support.edits import edit_sidecar
from support.findings import Edit, by_name, extraction, failures, sidecar, templates, tokens


@pytest.mark.parametrize(
    ("role", "edit", "name"),
    [
        ("ar", sidecar(lambda m: m.update(extraction_layer_index=2)), "layer K"),
        ("ar", extraction(mse_scale=None), "mse_scale"),
        ("av", extraction(mse_scale=3.0), "mse_scale"),
        ("ar", extraction(injection_scale=7.0), "injection_scale"),
        ("ar", templates(av="other {injection_char}"), "AV template"),
        ("av", templates(ar="other {explanation}"), "AR template"),
        ("ar", tokens(injection_token_id=5), "marker"),
    ],
)
def test_parts_that_do_not_belong_together(
    tmp_path: Path, role: str, edit: Edit, name: str
) -> None:
    pair = write_pair(tmp_path / "pair", "qwen2")
    edit(getattr(pair, role))
    checks = by_name(examine(tmp_path / "pair"))
    assert f"pair: {name}" in failures(checks)
    assert "(AV)" in checks[f"pair: {name}"].got and "(AR)" in checks[f"pair: {name}"].got


def test_a_scale_written_out_to_four_digits_still_agrees(tmp_path: Path) -> None:
    pair = write_pair(tmp_path / "pair", "qwen2")
    edit_sidecar(pair.ar, lambda meta: meta["extraction"].update(mse_scale=8.485))
    assert failures(by_name(examine(tmp_path / "pair"))) == set()


def test_pairs_of_different_width(tmp_path: Path) -> None:
    write_av(tmp_path / "pair" / "av", "qwen2")
    write_ar(tmp_path / "pair" / "ar", "llama3")
    assert "pair: d_model" in failures(by_name(examine(tmp_path / "pair")))


def test_swapped_folders(tmp_path: Path) -> None:
    write_av(tmp_path / "pair" / "ar", "qwen2")
    write_ar(tmp_path / "pair" / "av", "qwen2")
    assert {"av: sidecar", "ar: sidecar"} <= failures(by_name(examine(tmp_path / "pair")))


def test_a_target_beside_its_pair(tmp_path: Path) -> None:
    write_pair(tmp_path / "p", "qwen2")
    write_target(tmp_path / "p" / "target", "qwen2")
    good = by_name(examine(tmp_path / "p"))
    assert failures(good) == set() and good["target and AV: d_model"].status == "pass"
    write_pair(tmp_path / "q", "qwen2")
    write_target(tmp_path / "q" / "target", "llama3", num_layers=3)
    found = failures(by_name(examine(tmp_path / "q")))
    assert found == {"target and AV: d_model", "target and AV: layer K"}
