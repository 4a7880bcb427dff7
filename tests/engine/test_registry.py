"""Configs to specs: switches per architecture, rope bit for bit, windows, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig, Qwen2Config, Qwen3Config
from transformers.masking_utils import sliding_window_causal_mask_function
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

from gloss_engine.checkpoint import read_spec
from gloss_engine.errors import CheckpointError
from gloss_engine.models.registry import spec_from_config
from support.checkpoints import Pair, write_target
from support.edits import edit_json
from support.models_made import make_config

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def write_config(directory: Path, **values: Any) -> Path:
    (directory / "config.json").write_text(json.dumps(values))
    return directory


def inv_freq(directory: Path, index: int = 0) -> torch.Tensor:
    return torch.tensor(read_spec(directory).ropes[index].inv_freq)


def test_sizes(pair: Pair, arch: str) -> None:
    spec, config = read_spec(pair.av), make_config(arch, num_layers=6, vocab_size=9, tied=False)
    assert spec.num_layers == 6 and spec.d_model == config.hidden_size
    assert spec.num_heads == config.num_attention_heads
    assert spec.num_kv_heads == config.num_key_value_heads < spec.num_heads
    assert spec.intermediate_size == 112 and spec.max_positions == 512
    assert read_spec(pair.ar).num_layers == 4


def test_qwen2(pairs: dict[str, Pair]) -> None:
    spec = read_spec(pairs["qwen2"].av)
    assert (spec.qkv_bias, spec.o_bias, spec.mlp_bias, spec.qk_norm) == (True, False, False, False)
    assert spec.head_dim == 12 and spec.attention_scale == 12**-0.5
    assert (spec.norm_offset, spec.embed_scale, spec.activation) == (0.0, 1.0, "silu")
    assert not spec.post_norms and not spec.tie_word_embeddings
    assert all(layer.window is None for layer in spec.layers)


def test_qwen3(pairs: dict[str, Pair]) -> None:
    spec = read_spec(pairs["qwen3"].av)
    assert spec.qk_norm and not spec.qkv_bias and not spec.post_norms
    # 5 heads of 24 are wider than the model: head_dim is no quotient here.
    assert spec.head_dim == 24 and spec.attention_scale == 24**-0.5


def test_llama_biases(tmp_path: Path) -> None:
    config = LlamaConfig(attention_bias=True, mlp_bias=True)
    spec = spec_from_config(config)
    assert spec.qkv_bias and spec.o_bias and spec.mlp_bias
    plain = spec_from_config(LlamaConfig())
    assert not (plain.qkv_bias or plain.o_bias or plain.mlp_bias)


def test_gemma3(pairs: dict[str, Pair]) -> None:
    spec = read_spec(pairs["gemma3"].av)
    assert spec.attention_scale == 36**-0.5 != spec.head_dim**-0.5
    assert (spec.norm_offset, spec.activation) == (1.0, "gelu_tanh")
    assert spec.qk_norm and spec.post_norms and spec.tie_word_embeddings
    assert spec.embed_scale == 72**0.5
    windows = [layer.window for layer in spec.layers]
    assert windows == [8, 8, None, 8, 8, None]
    assert [layer.rope_index for layer in spec.layers] == [1, 1, 0, 1, 1, 0]


def test_the_27b_scale() -> None:
    config = Gemma3TextConfig(
        hidden_size=5376, num_attention_heads=32, head_dim=128, query_pre_attn_scalar=168
    )
    assert spec_from_config(config).attention_scale == 168**-0.5


@pytest.mark.parametrize("tied", [True, False])
def test_wrapped_gemma_equals_the_plain_one(tmp_path: Path, tied: bool) -> None:
    plain = read_spec(write_target(tmp_path / "a", "gemma3", tied=tied))
    wrapped = read_spec(write_target(tmp_path / "b", "gemma3", tied=tied, wrapped=True))
    assert wrapped.architecture == "gemma3" and wrapped.tie_word_embeddings is tied
    assert {**vars(wrapped), "architecture": ""} == {**vars(plain), "architecture": ""}


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default", "rope_theta": 1_000_000.0},
        {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 8.0},
        {"rope_theta": 500_000.0, **LLAMA3_ROPE},
    ],
    ids=lambda rope: rope["rope_type"],
)
@pytest.mark.parametrize(
    ("config_class", "module"),
    [
        (Qwen2Config, Qwen2RotaryEmbedding),
        (Qwen3Config, Qwen3RotaryEmbedding),
        (LlamaConfig, LlamaRotaryEmbedding),
    ],
)
def test_inverse_frequencies_are_transformers_own(
    config_class: Any, module: Any, rope: dict[str, Any]
) -> None:
    config = config_class(
        hidden_size=128 * 4,
        num_attention_heads=4,
        num_key_value_heads=4,
        rope_parameters=dict(rope),
        max_position_embeddings=131072,
    )
    ours = torch.tensor(spec_from_config(config).ropes[0].inv_freq)
    assert torch.equal(ours, module(config).inv_freq)


def test_the_llama3_fixture_scales_for_real(pairs: dict[str, Pair]) -> None:
    scaled = inv_freq(pairs["llama3"].av)
    plain = torch.tensor(
        spec_from_config(LlamaConfig(hidden_size=96, num_attention_heads=6)).ropes[0].inv_freq
    )
    ratio = (plain / scaled).tolist()
    assert ratio[0] == 1.0 and ratio[-1] == 8.0 and any(1.0 < value < 8.0 for value in ratio)


def test_gemma_ropes_are_transformers_own(pairs: dict[str, Pair]) -> None:
    config = make_config("gemma3", num_layers=6, vocab_size=9, tied=True)
    module = Gemma3RotaryEmbedding(config)
    assert torch.equal(inv_freq(pairs["gemma3"].av, 0), module.full_attention_inv_freq)
    assert torch.equal(inv_freq(pairs["gemma3"].av, 1), module.sliding_attention_inv_freq)


GEMMA_SIZES = {
    "model_type": "gemma3_text",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_hidden_layers": 8,
    "sliding_window": 16,
}


def test_old_gemma_file(tmp_path: Path) -> None:
    old = write_config(
        tmp_path,
        **GEMMA_SIZES,
        sliding_window_pattern=4,
        rope_theta=1_000_000.0,
        rope_local_base_freq=20_000.0,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
    )
    exponents = torch.arange(0, 16, 2) / 16
    assert torch.equal(inv_freq(old, 0), 1 / (1_000_000.0**exponents) / 8)
    assert torch.equal(inv_freq(old, 1), 1 / (20_000.0**exponents))
    assert [layer.window for layer in read_spec(old).layers] == [16, 16, 16, None] * 2


def test_old_llama_file(tmp_path: Path) -> None:
    sizes = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}
    old = write_config(tmp_path, **sizes, rope_theta=500_000.0, rope_scaling=LLAMA3_ROPE)
    new = spec_from_config(
        LlamaConfig(
            hidden_size=64,
            num_attention_heads=4,
            rope_parameters={"rope_theta": 500_000.0, **LLAMA3_ROPE},
        )
    )
    assert read_spec(old).ropes == new.ropes


def test_qwen_sliding_window(tmp_path: Path) -> None:
    sizes = {"model_type": "qwen2", "num_hidden_layers": 4, "sliding_window": 9}
    on = write_config(tmp_path, **sizes, use_sliding_window=True, max_window_layers=2)
    assert [layer.window for layer in read_spec(on).layers] == [None, None, 9, 9]
    off = write_config(tmp_path, **sizes, use_sliding_window=False, max_window_layers=2)
    assert [layer.window for layer in read_spec(off).layers] == [None] * 4


def test_a_window_means_what_transformers_means() -> None:
    mask = sliding_window_causal_mask_function(8)
    seen = [kv for kv in range(20) if mask(0, 0, torch.tensor(15), torch.tensor(kv))]
    assert seen == [kv for kv in range(20) if 15 - 8 < kv <= 15]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_truncated_ar_may_keep_the_whole_list_of_layer_types(
    tmp_path: Path, wrapped: bool
) -> None:
    types = ["sliding_attention", "full_attention"] * 4
    text = {**GEMMA_SIZES, "layer_types": types, "num_hidden_layers": 3}
    values = {"model_type": "gemma3", "text_config": text} if wrapped else text
    layers = read_spec(write_config(tmp_path, **values)).layers
    assert [layer.window for layer in layers] == [16, None, 16]


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"model_type": "mistral"}, "model_type"),
        ({"model_type": None}, "model_type"),
        ({"model_type": "qwen3_moe"}, "model_type"),
        ({**GEMMA_SIZES, "final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ({**GEMMA_SIZES, "attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({**GEMMA_SIZES, "use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({**GEMMA_SIZES, "query_pre_attn_scalar": 0}, "query_pre_attn_scalar"),
        ({**GEMMA_SIZES, "sliding_window": None}, "sliding_window"),
        ({**GEMMA_SIZES, "layer_types": ["chunked_attention"] * 8}, "layer_types"),
        ({**GEMMA_SIZES, "layer_types": ["full_attention"] * 7}, "config.json"),
        ({"model_type": "llama", "hidden_act": "relu"}, "hidden_act"),
        ({"model_type": "llama", "num_key_value_heads": 5}, "geometry"),
        ({"model_type": "llama", "hidden_size": "x"}, "config.json"),
        ({"model_type": "qwen2", "hidden_size": 36, "num_attention_heads": 4}, "geometry"),
        (
            {"model_type": "qwen2", "rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
            "rope_type",
        ),
        ({"model_type": "llama", "rope_scaling": {"type": "dynamic", "factor": 4.0}}, "rope_type"),
        ({"model_type": "llama", "rope_scaling": {"type": "linear", "factor": -4.0}}, "factor"),
        ({"model_type": "llama", "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        (
            {"model_type": "llama", "rope_scaling": {**LLAMA3_ROPE, "high_freq_factor": 1.0}},
            "high_freq_factor",
        ),
        ({"model_type": "llama", "quantization_config": {"bits": 4}}, "quantization_config"),
    ],
)
def test_refusals_name_the_setting(tmp_path: Path, values: dict[str, Any], name: str) -> None:
    with pytest.raises(CheckpointError, match=name) as caught:
        read_spec(write_config(tmp_path, **values))
    assert caught.value.fix


def test_an_unknown_model_type_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="qwen2 or qwen3 or llama or gemma3_text or gemma3"):
        read_spec(write_config(tmp_path, model_type="rwkv"))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"'])
def test_broken_config(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_spec(tmp_path)


def test_missing_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="FileNotFoundError"):
        read_spec(tmp_path)


def test_code_beside_the_config_never_runs(
    pairs: dict[str, Pair], copy_of: Callable[[Path], Path]
) -> None:
    directory = copy_of(pairs["llama3"].av)
    (directory / "evil.py").write_text("open('ran', 'w')\nraise SystemExit('ran')\n")
    edit_json(
        directory / "config.json",
        lambda config: config.update(auto_map={"AutoConfig": "evil.Config"}),
    )
    assert read_spec(directory).architecture == "llama"
    assert not (Path.cwd() / "ran").exists()
