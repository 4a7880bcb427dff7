"""Hugging Face `config.json` to `ModelSpec`: Qwen2, Qwen3, Llama 3, Gemma 3 (text or wrapped).

transformers parses the file (old and new spellings of rope settings, defaults per model type) and
never runs code that came with it; what it parsed is translated here. Whatever a `ModelSpec` cannot
express is refused by name. Weights are for `checkpoint.py`, the forward pass for `decoder.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING

from gloss_engine.errors import CheckpointError
from gloss_engine.models.spec import LayerSpec, ModelSpec, RopeSpec

SUPPORTED_MODEL_TYPES = ("qwen2", "qwen3", "llama", "gemma3_text", "gemma3")
SUPPORTED_ROPE_TYPES = ("default", "linear", "llama3")
_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}


def read_config(directory: Path) -> Any:
    """Read `directory/config.json` with transformers' own parser.

    Returns:
        The transformers config of a supported model type, defaults filled in.

    Raises:
        CheckpointError: missing or broken file, unsupported model type, values that transformers
            itself refuses.
    """
    path = directory / "config.json"
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
        model_type = loaded.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(
            str(path),
            got=f"{type(error).__name__}: {error}",
            expected="a JSON object written by transformers",
            fix="Name a Hugging Face model directory.",
        ) from error
    if model_type not in SUPPORTED_MODEL_TYPES:
        raise _unsupported("model_type", model_type, SUPPORTED_MODEL_TYPES)
    _truncate_layer_types(loaded)
    try:
        return CONFIG_MAPPING[model_type].from_dict(loaded)
    # Validation inside transformers ends in KeyError, TypeError, ValueError or its own
    # StrictDataclassError, which derives from Exception alone.
    except Exception as error:
        raise CheckpointError(
            str(path),
            got=f"{type(error).__name__}: {error}",
            expected=f"a valid {model_type} configuration",
            fix="Correct config.json or take it from the release again.",
        ) from error


def spec_from_config(config: Any) -> ModelSpec:
    """Translate a transformers config.

    Args:
        config: Qwen2Config, Qwen3Config, LlamaConfig, Gemma3TextConfig or Gemma3Config.

    Raises:
        CheckpointError: a setting that the decoder does not implement, named.
    """
    model_type = config.model_type
    if model_type not in SUPPORTED_MODEL_TYPES:
        raise _unsupported("model_type", model_type, SUPPORTED_MODEL_TYPES)
    text = config.text_config if model_type == "gemma3" else config
    if text.model_type not in SUPPORTED_MODEL_TYPES or text.model_type == "gemma3":
        raise _unsupported("text_config.model_type", text.model_type, ("gemma3_text",))
    _refuse_unsupported(config)
    _refuse_unsupported(text)
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    _check_geometry(text, head_dim)
    ropes, rope_index = _ropes(text, head_dim)
    return ModelSpec(
        architecture=model_type,
        d_model=text.hidden_size,
        layers=_layers(text, rope_index),
        num_heads=text.num_attention_heads,
        num_kv_heads=text.num_key_value_heads,
        head_dim=head_dim,
        intermediate_size=text.intermediate_size,
        vocab_size=text.vocab_size,
        rms_norm_eps=text.rms_norm_eps,
        ropes=ropes,
        max_positions=text.max_position_embeddings,
        # The wrapping config decides for a wrapped model: its class ties the outer head.
        tie_word_embeddings=bool(config.tie_word_embeddings),
        **_switches(text, head_dim),
    )


def inverse_frequencies(rope: Mapping[str, Any], head_dim: int) -> tuple[float, ...]:
    """The inverse frequencies of one rope setting, bit for bit those of transformers.

    Args:
        rope: `rope_type`, `rope_theta` and what the type needs (`factor`, ...).
        head_dim: rotated width; every supported model rotates the whole head.

    Returns:
        head_dim / 2 float32 values, radians per position.

    Raises:
        CheckpointError: another rope type, a partial rotation, a missing or senseless setting.
    """
    rope_type = rope.get("rope_type", "default")
    if rope_type not in SUPPORTED_ROPE_TYPES:
        raise _unsupported("rope_type", rope_type, SUPPORTED_ROPE_TYPES)
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise _unsupported("partial_rotary_factor", rope["partial_rotary_factor"], (1.0,))
    # float32 throughout, in transformers' order of operations: float64 would differ in the last
    # bit, and at position 100,000 one such bit turns an angle by 0.01 radians.
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    inv_freq = 1.0 / (_setting(rope, "rope_theta") ** exponents)
    if rope_type == "linear":
        inv_freq = inv_freq / _setting(rope, "factor")
    if rope_type == "llama3":
        inv_freq = _llama3(inv_freq, rope)
    return tuple(inv_freq.tolist())


def _llama3(inv_freq: torch.Tensor, rope: Mapping[str, Any]) -> torch.Tensor:
    """Long wavelengths divided by `factor`, short ones kept, a smooth ramp between them."""
    factor, low = _setting(rope, "factor"), _setting(rope, "low_freq_factor")
    high = _setting(rope, "high_freq_factor")
    original = _setting(rope, "original_max_position_embeddings")
    if high <= low:
        raise CheckpointError(
            "rope high_freq_factor",
            got=high,
            expected=f"more than low_freq_factor ({low})",
            fix="Correct config.json.",
        )
    wavelength = 2 * math.pi / inv_freq
    scaled = torch.where(wavelength > original / low, inv_freq / factor, inv_freq)
    smooth = (original / wavelength - low) / (high - low)
    ramp = (1 - smooth) * scaled / factor + smooth * scaled
    is_between = ~(wavelength < original / high) & ~(wavelength > original / low)
    return torch.where(is_between, ramp, scaled)


def _setting(rope: Mapping[str, Any], key: str) -> float:
    value = rope.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise CheckpointError(
            f"rope {key}",
            got=value,
            expected="a positive number",
            fix="Correct rope_parameters (or rope_scaling) in config.json.",
        )
    return value


def _truncate_layer_types(loaded: dict[str, Any]) -> None:
    """An AR cut to K + 1 blocks may keep its base model's whole list, which transformers 5 then
    refuses; the first K + 1 entries are the AR's. A list that is too short stays an error."""
    for table in (loaded, loaded.get("text_config")):
        if not isinstance(table, dict):
            continue
        layer_types, num_layers = table.get("layer_types"), table.get("num_hidden_layers")
        if isinstance(layer_types, list) and type(num_layers) is int and num_layers > 0:
            table["layer_types"] = layer_types[:num_layers]


def _ropes(text: Any, head_dim: int) -> tuple[tuple[RopeSpec, ...], Mapping[str, int]]:
    """The rotary embeddings, and which of them each layer type uses."""
    parameters = text.rope_parameters
    layer_types = ("full_attention", "sliding_attention")
    if text.model_type != "gemma3_text":
        spec = RopeSpec(inv_freq=inverse_frequencies(parameters, head_dim))
        return (spec,), dict.fromkeys(layer_types, 0)
    ropes = tuple(
        RopeSpec(inv_freq=inverse_frequencies(parameters[layer_type], head_dim))
        for layer_type in layer_types
    )
    return ropes, {layer_type: index for index, layer_type in enumerate(layer_types)}


def _layers(text: Any, rope_index: Mapping[str, int]) -> tuple[LayerSpec, ...]:
    layer_types = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    if len(layer_types) != text.num_hidden_layers:
        raise CheckpointError(
            "config.json layer_types",
            got=f"{len(layer_types)} entries",
            expected=f"num_hidden_layers = {text.num_hidden_layers}",
            fix="Truncate layer_types together with the layers.",
        )
    layers = []
    for layer_type in layer_types:
        if layer_type not in rope_index:
            raise _unsupported("layer_types", layer_type, tuple(rope_index))
        window = None
        if layer_type == "sliding_attention":
            # transformers' mask (masking_utils.sliding_window_overlay): kv > q - sliding_window.
            window = text.sliding_window
            if not isinstance(window, int) or window < 1:
                raise _unsupported("sliding_window", window, ("a positive integer",))
        layers.append(LayerSpec(rope_index=rope_index[layer_type], window=window))
    return tuple(layers)


def _switches(text: Any, head_dim: int) -> dict[str, Any]:
    """The fields of a `ModelSpec` that depend on the architecture and not on its size."""
    is_gemma = text.model_type == "gemma3_text"
    activation_name = text.hidden_activation if is_gemma else text.hidden_act
    if activation_name not in _ACTIVATIONS:
        raise _unsupported("hidden_act", activation_name, tuple(_ACTIVATIONS))
    attention_bias = bool(getattr(text, "attention_bias", False))
    scalar = text.query_pre_attn_scalar if is_gemma else head_dim
    return {
        "attention_scale": scalar**-0.5,
        "activation": _ACTIVATIONS[activation_name],
        "norm_offset": 1.0 if is_gemma else 0.0,
        "qkv_bias": text.model_type == "qwen2" or attention_bias,
        "o_bias": text.model_type != "qwen2" and attention_bias,
        "mlp_bias": bool(getattr(text, "mlp_bias", False)),
        "qk_norm": text.model_type in ("qwen3", "gemma3_text"),
        "post_norms": is_gemma,
        "embed_scale": text.hidden_size**0.5 if is_gemma else 1.0,
    }


def _check_geometry(text: Any, head_dim: int) -> None:
    """Sizes that would fail far from their cause."""
    sizes = ["hidden_size", "intermediate_size", "vocab_size", "num_hidden_layers"]
    sizes += ["num_attention_heads", "num_key_value_heads", "max_position_embeddings"]
    sizes += ["query_pre_attn_scalar"] if text.model_type == "gemma3_text" else []
    for name in sizes:
        if not getattr(text, name) > 0:
            raise _unsupported(name, getattr(text, name), ("a positive number",))
    if text.num_attention_heads % text.num_key_value_heads or head_dim % 2:
        raise CheckpointError(
            "config.json attention geometry",
            got=f"{text.num_attention_heads} heads, {text.num_key_value_heads} key-value heads, "
            f"head_dim {head_dim}",
            expected="heads divisible by key-value heads and an even head_dim",
            fix="Correct config.json.",
        )


def _refuse_unsupported(config: Any) -> None:
    for name in ("final_logit_softcapping", "attn_logit_softcapping", "quantization_config"):
        if getattr(config, name, None) is not None:
            raise _unsupported(name, getattr(config, name), (None,))
    if getattr(config, "use_bidirectional_attention", None):
        raise _unsupported("use_bidirectional_attention", True, (False,))


def _unsupported(name: str, got: object, supported: tuple[object, ...]) -> CheckpointError:
    return CheckpointError(
        f"config.json {name}",
        got=repr(got),
        expected=" or ".join(str(value) for value in supported),
        fix="This decoder implements no other; use a checkpoint of a supported architecture.",
    )
