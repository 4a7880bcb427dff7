"""The doctor's checks of what makes a model an AV or an AR: sidecar, prompts, value head."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from gloss_engine.ar.template import ReconstructorTemplate
from gloss_engine.av.prompt import VerbalizerPrompt, build_prompt, render_prompt
from gloss_engine.checkpoint import load_value_head
from gloss_engine.errors import CheckpointError
from gloss_engine.models.spec import ModelSpec
from gloss_engine.released import released_pair
from gloss_engine.sidecar import Sidecar
from gloss_engine.weight_files import open_safetensors, weight_files
from gloss_server.commands.doctor.check import Check, attempt
from gloss_server.commands.doctor.model import Model, check_rebuilt

_FLOAT16_MAX = torch.finfo(torch.float16).max


def check_sidecar(sidecar: Sidecar, model: Model) -> list[Check]:
    """Check one sidecar against its model, tokenizer and, on an AR, its head."""
    checks = [_mse_scale(sidecar), *_notes(sidecar)]
    if model.spec is not None:
        checks += [_width(sidecar, model.spec), _layer(sidecar, model.spec)]
    if sidecar.role == "av":
        checks += [_injection_scale(sidecar), _baseline(sidecar, model.spec)]
        if model.tokenizer is not None:
            checks += _av_prompt(sidecar, model)
        return checks
    checks += [_value_head(model.directory, sidecar), *_dummies(model.directory)]
    if model.tokenizer is not None:
        checks += _ar_template(sidecar, model)
    return checks


def _width(sidecar: Sidecar, spec: ModelSpec) -> Check:
    agrees = sidecar.d_model == spec.d_model
    return Check(
        name="d_model",
        status="pass" if agrees else "fail",
        got=f"{sidecar.d_model} in nla_meta.yaml",
        expected=f"hidden_size {spec.d_model} of config.json",
        fix="" if agrees else "The sidecar belongs to another checkpoint.",
    )


def _layer(sidecar: Sidecar, spec: ModelSpec) -> Check:
    layer_index = sidecar.layer_index
    if layer_index is None:
        return Check(
            name="layer K",
            status="warn",
            got="not stated",
            expected="extraction_layer_index",
            fix="State it: without it a request's layer cannot be checked.",
        )
    if sidecar.role == "av":
        # An AV has as many blocks as its target.
        fits, expected = layer_index < spec.num_layers, f"below {spec.num_layers} layers"
    else:
        fits = spec.num_layers == layer_index + 1
        expected = f"{spec.num_layers - 1}, since the AR has {spec.num_layers} layers (K + 1)"
    return Check(
        name="layer K",
        status="pass" if fits else "fail",
        got=str(layer_index),
        expected=expected,
        fix=""
        if fits
        else "K is the block whose output is read, which transformers calls hidden_states[K + 1]; "
        "one of the two counts is off.",
    )


def _injection_scale(sidecar: Sidecar) -> Check:
    scale = sidecar.injection_scale
    assert scale is not None, "read_sidecar refuses an AV without one"
    if scale > _FLOAT16_MAX:
        return Check(
            name="injection_scale",
            status="warn",
            got=f"{scale:g}",
            expected=f"at most {_FLOAT16_MAX:g} for float16",
            fix="Run it in bfloat16 or float32; float16 is refused.",
        )
    return Check(name="injection_scale", status="pass", got=f"{scale:g}")


def _mse_scale(sidecar: Sidecar) -> Check:
    if sidecar.mse_scale is None:
        return Check(
            name="mse_scale",
            status="warn",
            got="null",
            expected="a number or sqrt_d_model",
            fix="Trained on raw mse: texts and vectors work, scores by direction are refused.",
        )
    usual = math.isclose(sidecar.mse_scale, math.sqrt(sidecar.d_model), rel_tol=1e-3)
    return Check(
        name="mse_scale",
        status="pass",
        got=f"{sidecar.mse_scale:.6g}",
        fix="" if usual else "Not sqrt(d_model): mse is not 2 (1 - cosine) here.",
    )


def _baseline(sidecar: Sidecar, spec: ModelSpec | None) -> Check:
    if sidecar.fve_baseline is not None:
        return Check(name="fve_baseline", status="pass", got=f"{sidecar.fve_baseline:g}")
    marker = sidecar.marker
    released = released_pair(
        d_model=sidecar.d_model,
        num_layers=0 if spec is None else spec.num_layers,
        layer_index=sidecar.layer_index,
        marker_id=None if marker is None else marker.token_id,
    )
    if released is not None:
        note = f"Recognised as the released pair of {released.name}."
        return Check(name="fve_baseline", status="pass", got=f"{released.fve_baseline:g}", fix=note)
    return Check(
        name="fve_baseline",
        status="warn",
        got="none",
        expected="extraction.fve_baseline",
        fix="Add it, or give --fve-baseline; else fve is null and flagged no_fve_baseline.",
    )


def _notes(sidecar: Sidecar) -> list[Check]:
    """Optional keys: nothing fails without them, but flags do less."""
    if sidecar.role == "ar":
        return []
    without = {
        "norm_median": (sidecar.norm_median, "Without it norm_outlier is never flagged."),
        "min_position": (sidecar.min_position, "Without it early_position is never flagged."),
    }
    return [
        Check(
            name=name,
            status="pass",
            got="none" if value is None else f"{value:g}",
            fix=note if value is None else "",
        )
        for name, (value, note) in without.items()
    ]


def _av_prompt(sidecar: Sidecar, model: Model) -> list[Check]:
    def describe(prompt: VerbalizerPrompt) -> str:
        return (
            f"{len(prompt.ids)} tokens, injection at {prompt.marker_position}, "
            f"{len(prompt.suffix_ids)} after it"
        )

    tokenizer = model.tokenizer
    checks = [attempt("prompt", lambda: build_prompt(tokenizer, sidecar), describe).check]
    if sidecar.marker is not None:
        try:
            text = render_prompt(tokenizer, sidecar, sidecar.marker)
        except CheckpointError:
            return checks
        checks.append(check_rebuilt(model.directory, tokenizer, [text]))
        count = tokenizer.encode(text, add_special_tokens=False).count(sidecar.marker.token_id)
        if count > 1:
            checks.append(
                Check(
                    name="injection token",
                    status="warn",
                    got=f"{count} times in the prompt",
                    expected="once",
                    fix="Only the one between its stated neighbours is replaced; take the others "
                    "out of the template unless the AV was trained with them.",
                )
            )
    if "strftime_now" in str(tokenizer.chat_template):
        checks.append(
            Check(
                name="chat template",
                status="warn",
                got="a template that writes today's date",
                expected="the same prompt every day",
                fix="Pin the date in chat_template.jinja to the one the AV was trained with.",
            )
        )
    return checks


def _ar_template(sidecar: Sidecar, model: Model) -> list[Check]:
    def build() -> ReconstructorTemplate:
        return ReconstructorTemplate.build(model.tokenizer, sidecar)

    def describe(template: ReconstructorTemplate) -> str:
        start = "BOS first" if model.tokenizer.bos_token_id is not None else "no BOS"
        return f"{len(template.prefix_ids)} shared ids, {start}"

    built = attempt("template", build, describe)
    if built.result is None:
        return [built.check]
    text = built.result.head + "It describes weather." + built.result.tail
    return [built.check, check_rebuilt(model.directory, model.tokenizer, [text])]


def _value_head(directory: Path, sidecar: Sidecar) -> Check:
    def describe(head: tuple[Any, Any]) -> str:
        return f"{list(head[0].shape)}, {'a' if head[1] is not None else 'no'} bias"

    return attempt(
        "value head", lambda: load_value_head(directory, sidecar.d_model), describe
    ).check


def _dummies(directory: Path) -> list[Check]:
    """An AR has neither head nor final norm; files that carry them are no worse for it."""
    carried = []
    try:
        for path in weight_files(directory):
            with open_safetensors(path) as handle:
                names = ("lm_head.weight", "model.norm.weight")
                carried += [name for name in handle.keys() if name.endswith(names)]  # noqa: SIM118
    except CheckpointError:
        return []
    if not carried:
        return []
    note = "Ignored: an AR is read before the final norm and has no language-model head."
    return [Check(name="unused tensors", status="pass", got=", ".join(carried), fix=note)]
