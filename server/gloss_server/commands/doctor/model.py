"""The doctor's checks of a model directory as such: config, weights, tokenizer, generation.

They hold for an AV, an AR and a target alike. What a sidecar adds is in `sidecar.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer

from gloss_engine.checkpoint import (
    end_of_sequence_ids,
    load_tokenizer,
    read_spec,
    stream_weights,
)
from gloss_engine.models.decoder import Decoder
from gloss_engine.models.linear_fp8 import shape_of
from gloss_engine.models.spec import ModelSpec
from gloss_kernels import Operations
from gloss_server.commands.doctor.check import Check, attempt

Role = Literal["av", "ar", "target"]
_SAMPLE = "The river rose in 1987; caf\u00e9s closed.\n\nNobody  minded, it's said: 42 > 7."


@dataclass(frozen=True, kw_only=True)
class Model:
    """What could be loaded of a directory; None where it could not.

    Attributes:
        directory: where it is.
        role: what it is examined as.
        spec: from config.json.
        tokenizer: as transformers builds it.
    """

    directory: Path
    role: Role
    spec: ModelSpec | None
    tokenizer: Any


def check_model(directory: Path, role: Role) -> tuple[list[Check], Model]:
    """Check config, weights and tokenizer of one directory."""
    config = attempt("config", lambda: read_spec(directory), _describe_spec)
    checks, spec = [config.check], config.result
    if spec is not None:
        checks += _config_notes(spec)
        checks.append(_weights(directory, spec, role))
    loaded = attempt("tokenizer", lambda: load_tokenizer(directory), _describe_tokenizer)
    checks.append(loaded.check)
    tokenizer = loaded.result
    if tokenizer is not None:
        checks += _tokenizer_checks(directory, spec, tokenizer)
        if role == "target":
            checks.append(check_rebuilt(directory, tokenizer, [_SAMPLE]))
        if role != "ar":
            checks += _generation_checks(directory, tokenizer)
    return checks, Model(directory=directory, role=role, spec=spec, tokenizer=tokenizer)


def check_rebuilt(directory: Path, tokenizer: Any, texts: list[str]) -> Check:
    """Whether transformers' tokenizer gives the ids that tokenizer.json alone gives.

    Args:
        directory: holds tokenizer.json.
        tokenizer: as transformers built it.
        texts: prompts (or samples) whose ids must not change.
    """
    raw = Tokenizer.from_file(str(directory / "tokenizer.json"))
    raw.no_truncation()
    for text in texts:
        stated = raw.encode(text, add_special_tokens=False).ids
        got = tokenizer.encode(text, add_special_tokens=False)
        if got == stated:
            continue
        at = next(
            (i for i, (a, b) in enumerate(zip(got, stated, strict=False)) if a != b),
            min(len(got), len(stated)),
        )
        return Check(
            name="tokenizer as stored",
            status="fail",
            got=f"{type(tokenizer).__name__} gives {got[at : at + 4]} at position {at}",
            expected=f"{stated[at : at + 4]}, as tokenizer.json has it",
            fix="transformers rebuilds this model type's tokenizer in its own way; use the "
            "version the checkpoint was made with, or save the tokenizer from it again.",
        )
    return Check(name="tokenizer as stored", status="pass", got="the ids of tokenizer.json")


def _describe_spec(spec: ModelSpec) -> str:
    return f"{spec.architecture}, {spec.num_layers} layers, d_model {spec.d_model}"


def _describe_tokenizer(tokenizer: Any) -> str:
    return f"{type(tokenizer).__name__}, {len(tokenizer)} tokens"


def _config_notes(spec: ModelSpec) -> list[Check]:
    notes = []
    if spec.architecture == "gemma3":
        note = "Wrapped model: the text part is read, vision weights are passed over."
        notes.append(Check(name="wrapping", status="pass", got="gemma3", fix=note))
    usual = spec.head_dim**-0.5
    if spec.attention_scale != usual:
        notes.append(
            Check(
                name="attention scale",
                status="pass",
                got=f"{spec.attention_scale:.6g}",
                fix=f"From query_pre_attn_scalar; head_dim alone would give {usual:.6g}.",
            )
        )
    return notes


def _weights(directory: Path, spec: ModelSpec, role: Role) -> Check:
    """Read every tensor once, into a decoder on the meta device: checked, but never held."""

    def read() -> int:
        decoder = Decoder(
            spec,
            num_layers=spec.num_layers if role == "ar" else None,
            max_positions=1,
            operations=Operations("reference"),
            device=torch.device("meta"),
            dtype=torch.bfloat16,
        )
        targets = decoder.targets()
        stream_weights(directory, targets)
        return sum(shape_of(target).numel() for target in targets.values())

    return attempt("weights", read, lambda count: f"{count:,} parameters, all finite").check


def _tokenizer_checks(directory: Path, spec: ModelSpec | None, tokenizer: Any) -> list[Check]:
    checks = []
    if spec is not None:
        largest = max(tokenizer.get_vocab().values())
        fits = largest < spec.vocab_size
        checks.append(
            Check(
                name="vocabulary",
                status="pass" if fits else "fail",
                got=f"token ids up to {largest}",
                expected=f"below vocab_size {spec.vocab_size}",
                fix="" if fits else "The tokenizer belongs to another model.",
            )
        )
    stated = _json(directory / "tokenizer_config.json").get("padding_side")
    if stated == "left":
        note = "Ignored: sequences are packed, never padded. Other loaders of an AR must pad right."
        checks.append(Check(name="padding side", status="pass", got="left", fix=note))
    return checks


def _generation_checks(directory: Path, tokenizer: Any) -> list[Check]:
    found = attempt(
        "end of sequence",
        lambda: end_of_sequence_ids(directory, tokenizer),
        lambda ids: f"ids {sorted(ids)}",
    )
    checks = [found.check]
    generation = _json(directory / "generation_config.json")
    if found.result is not None and generation.get("eos_token_id") is None:
        checks = [
            Check(
                name="end of sequence",
                status="warn",
                got=f"none in generation_config.json; ids {sorted(found.result)} from elsewhere",
                expected="the ids that end an answer",
                fix="Chat models often end turns with an id that only generation_config.json "
                "states; without it text runs on to the token limit.",
            )
        ]
    sampling = ("repetition_penalty", "temperature", "top_p", "top_k", "min_p")
    ignored = {key: generation[key] for key in sampling if generation.get(key) is not None}
    if ignored:
        note = "Ignored: a request's own sampling settings apply. transformers' generate obeys it."
        checks.append(
            Check(name="generation_config", status="pass", got=json.dumps(ignored), fix=note)
        )
    return checks


def _json(path: Path) -> dict[str, Any]:
    """A JSON object for notes; unreadable ones are empty, since the loader's own check fails."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def unreadable(directory: Path) -> Check:
    """The finding for a directory that is no model at all."""
    return Check(
        name="directory",
        status="fail",
        got=f"{directory}: no config.json, and no av/ or ar/ folder",
        expected="a model directory, or a folder that holds av/ and ar/",
        fix="Name the directory that holds config.json.",
    )
