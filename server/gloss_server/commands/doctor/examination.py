"""Examines checkpoint directories: will they load, and as what they were trained to be?

Every trap that is known to give wrong text without an error has a check. Nothing is generated
here: that texts make sense is for a run.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gloss_engine.checkpoint import VALUE_HEAD_NAME
from gloss_engine.sidecar import SIDECAR_NAME, Sidecar, read_sidecar
from gloss_server.commands.doctor.check import Check, attempt
from gloss_server.commands.doctor.model import Model, Role, check_model, unreadable
from gloss_server.commands.doctor.sidecar import check_sidecar

__all__ = ["Check", "examine", "exit_code"]

_PARTS: tuple[Role, ...] = ("av", "ar", "target")


def examine(directory: Path) -> list[Check]:
    """Check an AV, an AR, a target, or a folder of `av/`, `ar/` and possibly `target/`.

    Reads every weight once (about a minute for 14 GB) and holds none of them.

    Args:
        directory: what to examine; it need not exist.

    Returns:
        Findings in the order of looking; in a folder of parts their names begin with the part.
    """
    if (directory / "config.json").is_file() or (directory / SIDECAR_NAME).is_file():
        checks, _, _ = _examine_part(directory, None)
        return checks
    parts = [part for part in _PARTS if (directory / part).is_dir()]
    if not parts:
        return [unreadable(directory)]
    found: list[Check] = []
    sidecars: dict[str, Sidecar] = {}
    models: dict[str, Model] = {}
    for part in parts:
        checks, model, sidecar = _examine_part(directory / part, part)
        found += [check.within(part) for check in checks]
        models[part] = model
        if sidecar is not None:
            sidecars[part] = sidecar
    if "av" in sidecars and "ar" in sidecars:
        found += _belong_together(sidecars["av"], sidecars["ar"])
    if "target" in models and "av" in sidecars:
        found += _fits_target(sidecars["av"], models["target"])
    return found


def exit_code(checks: Sequence[Check]) -> int:
    """1 if any check failed, else 0; warnings do not fail."""
    return int(any(check.status == "fail" for check in checks))


def _examine_part(directory: Path, part: Role | None) -> tuple[list[Check], Model, Sidecar | None]:
    """One directory; `part` is what its place says it is, None where nothing does."""
    looks_ar = (directory / VALUE_HEAD_NAME).is_file()
    if part == "target" or (part is None and not looks_ar and not _has_sidecar(directory)):
        checks, model = check_model(directory, "target")
        note = "No nla_meta.yaml: examined as a target."
        kind = Check(name="kind", status="pass", got="target", fix=note if part is None else "")
        return [kind, *checks], model, None
    attempted = attempt("sidecar", lambda: read_sidecar(directory), lambda s: f"role {s.role}")
    read, sidecar = attempted.check, attempted.result
    role = sidecar.role if sidecar is not None else part or ("ar" if looks_ar else "av")
    if sidecar is not None and part is not None and sidecar.role != part:
        read = Check(
            name="sidecar",
            status="fail",
            got=f"role {sidecar.role}",
            expected=f"role {part}, as the folder's name says",
            fix="Swap the folders, or correct the role.",
        )
    checks, model = check_model(directory, role)
    if sidecar is None:
        return [read, *checks], model, None
    return [read, *checks, *check_sidecar(sidecar, model)], model, sidecar


def _has_sidecar(directory: Path) -> bool:
    return (directory / SIDECAR_NAME).exists()


def _belong_together(av: Sidecar, ar: Sidecar) -> list[Check]:
    """An AV and an AR from different runs load without complaint and score nonsense."""
    checks = [
        _agree("d_model", av.d_model, ar.d_model),
        _agree("layer K", av.layer_index, ar.layer_index),
        # null is a value here (trained on raw mse), not an absence.
        _agree("mse_scale", av.mse_scale or "null", ar.mse_scale or "null"),
        _agree("injection_scale", av.injection_scale, ar.injection_scale),
        _agree("AV template", av.av_template, ar.av_template),
        _agree("AR template", av.ar_template, ar.ar_template),
        _agree("fve_baseline", av.fve_baseline, ar.fve_baseline),
        _agree("marker", av.marker, ar.marker),
    ]
    return [check.within("pair") for check in checks if check is not None]


def _agree(name: str, av: Any, ar: Any) -> Check | None:
    """None where either side states nothing."""
    if av is None or ar is None:
        return None
    # One sidecar may write a square root out to a few digits.
    close = isinstance(av, float) and isinstance(ar, float) and math.isclose(av, ar, rel_tol=1e-3)
    agrees = av == ar or close
    return Check(
        name=name,
        status="pass" if agrees else "fail",
        got=f"{reprlib.repr(av)} in both" if agrees else f"{av!r} (AV) and {ar!r} (AR)",
        expected="" if agrees else "the same in both sidecars",
        fix="" if agrees else "Use the AV and the AR of one training run.",
    )


def _fits_target(av: Sidecar, target: Model) -> list[Check]:
    if target.spec is None:
        return []
    width = target.spec.d_model == av.d_model
    checks = [
        Check(
            name="d_model",
            status="pass" if width else "fail",
            got=f"{target.spec.d_model} in the target",
            expected=f"{av.d_model}, the AV's",
            fix="" if width else "Use the target that the pair was trained for.",
        )
    ]
    if av.layer_index is not None:
        deep = av.layer_index < target.spec.num_layers
        checks.append(
            Check(
                name="layer K",
                status="pass" if deep else "fail",
                got=f"{target.spec.num_layers} layers in the target",
                expected=f"more than K = {av.layer_index}",
                fix="" if deep else "Use the target that the pair was trained for.",
            )
        )
    return [check.within("target and AV") for check in checks]
