"""The AR reads the last real token of the truncated target, through a head that starts as one."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from gloss_engine.errors import CheckpointError
from gloss_training.dataset.statistics import Statistics
from gloss_training.models.model_files import cast_weights, load_language_model
from gloss_training.models.reconstructor import (
    Reconstructor,
    encode_explanations,
    from_target,
    load_reconstructor,
    reconstruct,
)
from gloss_training.models.sharding import ALONE
from gloss_training.release.pair import save_part
from gloss_training.release.sidecars import Facts
from gloss_training.world.settings import WORLD_PROMPT

AR_TEMPLATE = WORLD_PROMPT.ar_template
TEXTS = [
    "The hero is Ben.",
    "It is a rainy morning. He is in the garden with Ada.",
    "He eats soup.",
]


def test_untrained_ar_gives_the_targets_own_layer_k(
    target: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    vectors = reconstruct(from_target(copy.deepcopy(target), 2), tokenizer, AR_TEMPLATE, TEXTS)
    for text, vector in zip(TEXTS, vectors, strict=True):
        token_ids = torch.tensor([tokenizer.encode(AR_TEMPLATE.format(explanation=text))])
        with torch.no_grad():
            states = target(token_ids, output_hidden_states=True).hidden_states
        torch.testing.assert_close(vector, states[3][0, -1], rtol=1e-4, atol=1e-4)


def test_rows_do_not_depend_on_the_batch(
    target: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    reconstructor = from_target(copy.deepcopy(target), 2)
    together = reconstruct(reconstructor, tokenizer, AR_TEMPLATE, TEXTS)
    for index, text in enumerate(TEXTS):
        alone = reconstruct(reconstructor, tokenizer, AR_TEMPLATE, [text])[0]
        torch.testing.assert_close(together[index], alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[0], together[1])


def test_padding_is_on_the_right(tokenizer: PreTrainedTokenizerFast) -> None:
    token_ids, lengths = encode_explanations(tokenizer, AR_TEMPLATE, TEXTS)
    for row, length in zip(token_ids.tolist(), lengths.tolist(), strict=True):
        assert tokenizer.pad_token_id not in row[:length]
        assert set(row[length:]) <= {tokenizer.pad_token_id}


def test_braces_mean_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    """Neither in a template beside its slot nor in an explanation."""
    for template, text in (("{red} {explanation} {", "kite"), ("{explanation}", "{red} kite {")):
        token_ids, _ = encode_explanations(tokenizer, template, [text])
        expected, _ = encode_explanations(tokenizer, "{explanation}", ["{red} kite {"])
        assert torch.equal(token_ids, expected)


def save(
    reconstructor: Reconstructor, target: Any, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    facts = Facts(
        d_model=32,
        layer_index=len(reconstructor.decoder.blocks) - 1,
        min_position=8,
        statistics=Statistics(injection_scale=7.0, fve_baseline=0.8, norm_median=7.0),
        prompt=WORLD_PROMPT,
    )
    weights = reconstructor.named_weights()
    save_part(*("ar", weights, target, tokenizer, facts, folder), dtype=torch.float32, ranks=ALONE)


def test_saved_files_have_the_released_names(
    tmp_path: Path, target: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    reconstructor = from_target(copy.deepcopy(target), 2)
    torch.nn.init.normal_(reconstructor.value_head.weight)
    save(reconstructor, target, tokenizer, tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert "model.embed_tokens.weight" in names
    assert "model.layers.2.self_attn.q_norm.weight" in names
    assert not any(name.startswith(("lm_head", "model.norm", "model.layers.3")) for name in names)
    with safe_open(tmp_path / "value_head.safetensors", "pt") as file:
        assert set(file.keys()) == {"weight"}
        assert tuple(file.get_tensor("weight").shape) == (32, 32)
    loaded = load_reconstructor(tmp_path)
    assert loaded.decoder.text.config.num_hidden_layers == 3
    before = reconstruct(reconstructor, tokenizer, AR_TEMPLATE, TEXTS)
    assert torch.equal(reconstruct(loaded, tokenizer, AR_TEMPLATE, TEXTS), before)


def test_missing_weights_are_refused(
    tmp_path: Path, target: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    save(from_target(copy.deepcopy(target), 1), target, tokenizer, tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(
        text.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3').replace(
            '"layer_types": [', '"layer_types": ["full_attention",'
        )
    )
    with pytest.raises(RuntimeError, match=r"layers\.2"):
        load_reconstructor(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "value_head.safetensors"])
def test_a_file_cut_short_is_named(
    tmp_path: Path, target: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, name: str
) -> None:
    save(from_target(copy.deepcopy(target), 1), target, tokenizer, tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match=f"{name}.*expected a complete safetensors file"):
        load_reconstructor(tmp_path)


def test_a_language_model_cut_short_is_named(tmp_path: Path, target: Qwen3ForCausalLM) -> None:
    target.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*expected a complete"):
        load_language_model(tmp_path)


def test_casting_leaves_the_rotary_frequencies_as_they_are(
    tmp_path: Path, target: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Rounded to bfloat16 they turn late positions by a good part of a radian."""
    exact = [each.clone() for each in target.model.rotary_emb.buffers()]
    reconstructor = cast_weights(from_target(copy.deepcopy(target), 2), torch.bfloat16)
    assert {weight.dtype for weight in reconstructor.parameters()} == {torch.bfloat16}
    save(reconstructor, target, tokenizer, tmp_path)
    for each in (reconstructor, load_reconstructor(tmp_path, torch.bfloat16)):
        found = list(each.decoder.text.rotary_emb.buffers())
        assert all(torch.equal(a, b) for a, b in zip(found, exact, strict=True))
    with pytest.raises(AssertionError, match="frequencies were rounded"):
        reconstruct(reconstructor.to(torch.bfloat16), tokenizer, AR_TEMPLATE, TEXTS)
