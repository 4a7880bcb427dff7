"""A checkpoint directory: its spec, its weights streamed into place, its tokenizer, its head.

Safetensors only; no pickle and no remote code. `stream_weights` fills tensors that the decoder
owns, one at a time, so there is never a second full copy, quantising on the way what the decoder
holds quantised. `sidecar.py` reads `nla_meta.yaml`,
`models/registry.py` translates config.json, `weight_files.py` finds and opens the files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from gloss_engine.errors import CheckpointError
from gloss_engine.models.linear_fp8 import fill, shape_of
from gloss_engine.models.registry import read_config, spec_from_config
from gloss_engine.models.spec import ModelSpec
from gloss_engine.sidecar import SIDECAR_NAME
from gloss_engine.weight_files import (
    hash_file,
    largest_magnitude,
    open_safetensors,
    read_tensor,
    weight_files,
)
from gloss_engine.weight_names import canonical_name, is_vision, some_names
from gloss_kernels.fp8 import Fp8Rows

VALUE_HEAD_NAME = "value_head.safetensors"
_FINGERPRINTED = (
    "config.json",
    "generation_config.json",
    SIDECAR_NAME,
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
_LAYER = re.compile(r"model\.layers\.(\d+)\.")
# An AR or a truncated target needs neither; files carry them anyway, in any shape.
_OPTIONAL = ("lm_head.weight", "model.norm.weight")


def read_spec(directory: Path) -> ModelSpec:
    """The `ModelSpec` of `directory/config.json`.

    Raises:
        CheckpointError: missing, broken or unsupported configuration.
    """
    return spec_from_config(read_config(directory))


def stored_tensors(directory: Path) -> dict[str, tuple[Path, str]]:
    """Every language-model tensor of a directory: canonical name to file and name in the file.

    Raises:
        CheckpointError: missing or damaged files.
    """
    found = {}
    for path in weight_files(directory):
        with open_safetensors(path) as handle:
            names = list(handle.keys())
        found.update({canonical_name(n): (path, n) for n in names if not is_vision(n)})
    return found


def stream_weights(
    directory: Path,
    targets: Mapping[str, torch.Tensor | Fp8Rows],
    *,
    elsewhere: Container[str] = (),
) -> None:
    """Fill `targets` in place from the directory's safetensors files.

    Names are checked before the first byte is read. Vision weights, rotary buffers, an `lm_head`
    or final norm without a target, and blocks above the deepest target (up to the depth that
    config.json states) are passed over; any other tensor without a target is refused.

    Args:
        directory: single-file or sharded checkpoint, wrapped or not.
        targets: canonical name (`model.layers.0.self_attn.q_proj.weight`, ...) to destination;
            any float dtype and device, views into packed tensors included; `Fp8Rows` are
            quantised row by row from the stored values.
        elsewhere: canonical names that another model holds already; passed over.

    Raises:
        CheckpointError: missing, unexpected or doubled tensors, wrong shapes, damaged files,
            NaN or Inf, values beyond the destination's range.
    """
    paths = weight_files(directory)
    plan = {path: _wanted(path, targets, elsewhere, _depth(directory)) for path in paths}
    found = [canonical for wanted in plan.values() for canonical in wanted.values()]
    if len(found) != len(set(found)):
        doubled = sorted({name for name in found if found.count(name) > 1})
        raise CheckpointError(
            str(directory),
            got=f"two tensors for {some_names(doubled)}",
            expected="one each",
            fix="Remove stale files or the doubled tensors.",
        )
    missing = sorted(set(targets) - set(found))
    if missing:
        raise CheckpointError(
            str(directory),
            got=f"no tensor for {some_names(missing)}",
            expected="all weights that config.json calls for",
            fix="config.json and the weights belong to different models, or files are missing.",
        )
    for path, wanted in plan.items():
        with open_safetensors(path) as handle:
            for name, canonical in wanted.items():
                target = targets[canonical]
                tensor = read_tensor(handle, path, name, tuple(shape_of(target)))
                if isinstance(target, torch.Tensor):
                    _check_range(target, tensor, path, name)
                fill(target, tensor)


def load_value_head(directory: Path, d_model: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """An AR's linear head.

    Returns:
        weight [d_model, d_model] and bias [d_model] or None, on CPU, in their stored dtype.

    Raises:
        CheckpointError: missing or damaged file, other keys, wrong shapes, NaN or Inf.
    """
    path = directory / VALUE_HEAD_NAME
    if not path.is_file():
        raise CheckpointError(
            str(path),
            got="no such file",
            expected="the AR's linear head",
            fix="Name an AR directory, and copy the file from its release.",
        )
    with open_safetensors(path) as handle:
        keys = set(handle.keys())
        if not {"weight"} <= keys <= {"weight", "bias"}:
            raise CheckpointError(
                str(path),
                got=f"keys {sorted(keys)}",
                expected="weight, and possibly bias",
                fix="Save the head's state_dict under these names.",
            )
        weight = read_tensor(handle, path, "weight", (d_model, d_model)).clone()
        if "bias" not in keys:
            return weight, None
        return weight, read_tensor(handle, path, "bias", (d_model,)).clone()


def load_tokenizer(directory: Path) -> Any:
    """The directory's fast tokenizer, as transformers builds it (which may differ from
    tokenizer.json; the checks of the canonical prompts catch what that breaks).

    Raises:
        CheckpointError: no tokenizer.json, or one that transformers cannot load.
    """
    path = directory / "tokenizer.json"
    # Without this check transformers builds an empty tokenizer for some model types, silently.
    if not path.is_file():
        raise CheckpointError(
            str(path),
            got="no such file",
            expected="a fast tokenizer",
            fix="Copy the tokenizer files from the release.",
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    # The tokenizers library raises bare Exception on a tokenizer.json it cannot parse.
    except Exception as error:
        raise CheckpointError(
            str(path),
            got=f"{type(error).__name__}: {error}",
            expected="a tokenizer that transformers can load",
            fix="Copy the tokenizer files from the release.",
        ) from error
    if not tokenizer.is_fast:
        raise CheckpointError(
            str(path),
            got=type(tokenizer).__name__,
            expected="a fast tokenizer",
            fix="Convert it with transformers and save tokenizer.json.",
        )
    return tokenizer


def end_of_sequence_ids(directory: Path, tokenizer: Any) -> frozenset[int]:
    """Every id that ends a generation: generation_config.json, config.json and its text_config,
    and the tokenizer, united. generation_config.json supplies nothing else.

    Raises:
        CheckpointError: a file that is no JSON, or an id that is no integer.
    """
    config = _read_json(directory / "config.json")
    text_config = config.get("text_config")
    ids = {tokenizer.eos_token_id}
    for where, table in (
        ("generation_config.json", _read_json(directory / "generation_config.json")),
        ("config.json", config),
        ("config.json text_config", text_config if isinstance(text_config, dict) else {}),
    ):
        stated = table.get("eos_token_id")
        listed = stated if isinstance(stated, list) else [stated]
        if not all(value is None or type(value) is int for value in listed):
            raise CheckpointError(
                f"{directory}: {where} eos_token_id",
                got=repr(stated),
                expected="an integer, a list of integers or null",
                fix="Correct the file.",
            )
        ids.update(listed)
    return frozenset(ids - {None})


def fingerprint(directory: Path) -> str:
    """16 hex digits that name a checkpoint's content.

    Covers the configuration, sidecar and tokenizer files whole, and of each safetensors file its
    size, its header and 64 sampled blocks: a change elsewhere in the payload goes unseen, since
    hashing 14 GB would take a minute.

    Raises:
        CheckpointError: a safetensors file too short to have a header.
    """
    digest = hashlib.sha256()
    for name in _FINGERPRINTED:
        path = directory / name
        content = path.read_bytes() if path.is_file() else b""
        digest.update(f"{name} {len(content)} ".encode())
        digest.update(content)
    for path in sorted(directory.glob("*.safetensors")):
        digest.update(f"{path.name} ".encode())
        hash_file(digest, path)
    return digest.hexdigest()[:16]


def _wanted(
    path: Path, targets: Mapping[str, object], elsewhere: Container[str], depth: int
) -> dict[str, str]:
    """The file's tensors that have a target: stored name to canonical name."""
    deepest = max((_layer_index(name) for name in targets), default=-1)
    wanted, unexpected = {}, []
    with open_safetensors(path) as handle:
        names = list(handle.keys())
    for name in names:
        canonical = canonical_name(name)
        if canonical in targets:
            wanted[name] = canonical
        elif not (
            is_vision(name)
            or canonical in _OPTIONAL
            or canonical in elsewhere
            or canonical.endswith(".rotary_emb.inv_freq")
            or deepest < _layer_index(canonical) < depth
        ):
            unexpected.append(name)
    if unexpected:
        raise CheckpointError(
            str(path),
            got=f"unexpected tensors {some_names(unexpected)}",
            expected="only weights that config.json calls for",
            fix="config.json and the weights belong to different models.",
        )
    return wanted


def _check_range(target: torch.Tensor, tensor: torch.Tensor, path: Path, name: str) -> None:
    """Quantised rows need no such check: their scales are float32."""
    limit = torch.finfo(target.dtype).max
    if limit < torch.finfo(tensor.dtype).max and largest_magnitude(tensor) > limit:
        raise CheckpointError(
            f"{path}: {name}",
            got=f"values up to {largest_magnitude(tensor):.4g}",
            expected=f"at most {limit:.4g} for {target.dtype}",
            fix="Load the checkpoint in bfloat16 or float32.",
        )


def _layer_index(canonical: str) -> int:
    match = _LAYER.match(canonical)
    return int(match.group(1)) if match else -1


def _depth(directory: Path) -> int:
    """num_hidden_layers as config.json states it; 0 if it does not, so nothing is passed over."""
    config = _read_json(directory / "config.json")
    nested = config.get("text_config")
    stated = (nested if isinstance(nested, dict) else config).get("num_hidden_layers")
    return stated if type(stated) is int else 0


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object; a missing file is the empty one."""
    if not path.is_file():
        return {}
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            str(path), got=str(error), expected="a JSON object", fix="Correct the file."
        ) from error
    return loaded if isinstance(loaded, dict) else {}
