"""What a checkpoint holds beside its weights: value head, tokenizer, end ids, fingerprint."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gloss_engine.checkpoint import (
    end_of_sequence_ids,
    fingerprint,
    load_tokenizer,
    load_value_head,
    read_spec,
    stream_weights,
)
from gloss_engine.errors import CheckpointError
from support.checkpoints import ARCHITECTURES, Pair, write_ar, write_target
from support.edits import edit_json, edit_weights

Copy = Callable[[Path], Path]


@pytest.mark.parametrize("bias", [False, True])
def test_value_head(tmp_path: Path, bias: bool) -> None:
    directory = write_ar(tmp_path / "m", "llama3", bias=bias)
    stored = load_file(directory / "value_head.safetensors")
    weight, got_bias = load_value_head(directory, 96)
    assert torch.equal(weight, stored["weight"])
    assert (got_bias is not None) is bias
    assert got_bias is None or torch.equal(got_bias, stored["bias"])


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (None, "no such file"),
        ({"weight": torch.full((72, 72), torch.nan)}, "NaN or Inf"),
        ({"weight": torch.eye(71)}, r"shape \[71, 71\]"),
        ({"weight": torch.eye(72), "bias": torch.zeros(3)}, r"bias: got shape \[3\]"),
        ({"value_head.weight": torch.eye(72)}, "keys"),
        ({"weight": torch.eye(72), "scale": torch.ones(1)}, "keys"),
    ],
)
def test_broken_value_heads(
    pairs: dict[str, Pair], copy_of: Copy, head: dict[str, torch.Tensor] | None, message: str
) -> None:
    directory = copy_of(pairs["qwen2"].ar)
    path = directory / "value_head.safetensors"
    path.unlink()
    if head is not None:
        save_file(head, path)
    with pytest.raises(CheckpointError, match=message):
        load_value_head(directory, 72)


def test_tokenizer_survives_the_round_trip(pair: Pair, arch: str) -> None:
    tokenizer = load_tokenizer(pair.av)
    text = "The text describes <explanation>\nrivers</explanation> and 42 caf\u00e9s."
    ids = tokenizer.encode(text)
    assert tokenizer.is_fast and len(ids) > 5
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert (ids[0] == tokenizer.bos_token_id) is (arch in ("llama3", "gemma3"))
    assert len(tokenizer) == read_spec(pair.av).vocab_size


@pytest.mark.parametrize("content", [None, "{}", "no json", '{"model": {"type": "Nothing"}}'])
def test_broken_tokenizers(pairs: dict[str, Pair], copy_of: Copy, content: str | None) -> None:
    directory = copy_of(pairs["llama3"].av)
    (directory / "tokenizer.json").unlink()
    if content is not None:
        (directory / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load_tokenizer(directory)


@pytest.mark.parametrize("model_type", ["qwen2", "evil"])
def test_a_checkpoint_runs_no_code(
    pairs: dict[str, Pair], copy_of: Copy, monkeypatch: pytest.MonkeyPatch, model_type: str
) -> None:
    """Whatever class of its own it names, for a known architecture or an unknown one."""
    directory = copy_of(pairs["qwen2"].av)
    ran = directory / "ran"
    (directory / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Evil: pass\n")
    own = {"AutoConfig": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    changes = {"auto_map": own, "model_type": model_type, "tokenizer_class": "Evil"}
    for name in ("config.json", "tokenizer_config.json"):
        edit_json(directory / name, lambda content: content.update(changes))
    # As if somebody had answered yes to its question.
    monkeypatch.setattr("builtins.input", lambda *prompt: "y")
    for read in (load_tokenizer, read_spec, fingerprint):
        with suppress(CheckpointError):
            read(directory)
    assert not ran.exists() and "evil" not in sys.modules


def test_end_of_sequence_ids_are_united(pairs: dict[str, Pair], copy_of: Copy) -> None:
    directory = copy_of(pairs["llama3"].av)
    tokenizer = load_tokenizer(directory)
    own = tokenizer.eos_token_id
    edit_json(directory / "generation_config.json", lambda c: c.update(eos_token_id=[5, 6]))
    edit_json(
        directory / "config.json",
        lambda c: c.update(eos_token_id=7, text_config={"eos_token_id": [8]}),
    )
    assert end_of_sequence_ids(directory, tokenizer) == {own, 5, 6, 7, 8}
    (directory / "generation_config.json").unlink()
    assert end_of_sequence_ids(directory, tokenizer) == {own, 7, 8}


@pytest.mark.parametrize("value", ["2", True, [2, None, "x"], {"a": 1}])
def test_senseless_end_of_sequence_ids(
    pairs: dict[str, Pair], copy_of: Copy, value: object
) -> None:
    directory = copy_of(pairs["llama3"].av)
    tokenizer = load_tokenizer(directory)
    edit_json(directory / "generation_config.json", lambda c: c.update(eos_token_id=value))
    with pytest.raises(CheckpointError, match="eos_token_id"):
        end_of_sequence_ids(directory, tokenizer)


def test_gemma_ends_turns_with_its_own_token(pairs: dict[str, Pair]) -> None:
    tokenizer = load_tokenizer(pairs["gemma3"].av)
    end_of_turn = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert tokenizer.eos_token_id != end_of_turn
    found = end_of_sequence_ids(pairs["gemma3"].av, tokenizer)
    assert found == {tokenizer.eos_token_id, end_of_turn}


def test_fingerprint_is_stable_and_sees_every_file(pairs: dict[str, Pair], copy_of: Copy) -> None:
    directory = copy_of(pairs["qwen2"].ar)
    before = fingerprint(directory)
    assert before == fingerprint(pairs["qwen2"].ar) and len(before) == 16
    int(before, 16)
    seen = {before}
    for name in ("config.json", "nla_meta.yaml", "tokenizer.json", "chat_template.jinja"):
        path = directory / name
        path.write_text(path.read_text() + "\n")
        seen.add(fingerprint(directory))
    save_file({"weight": torch.eye(72).double()}, directory / "value_head.safetensors")
    seen.add(fingerprint(directory))
    assert len(seen) == 6


def test_fingerprint_tells_training_steps_apart(pairs: dict[str, Pair], copy_of: Copy) -> None:
    directory = copy_of(pairs["qwen2"].av)
    before = fingerprint(directory)
    edit_weights(directory, lambda name, tensor: tensor + 1e-3)
    assert fingerprint(directory) != before


def test_fingerprint_of_a_stub(pairs: dict[str, Pair], copy_of: Copy) -> None:
    directory = copy_of(pairs["qwen2"].av)
    (directory / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(CheckpointError, match="20 bytes"):
        fingerprint(directory)


def test_loading_is_quiet(pair: Pair, capfd: pytest.CaptureFixture[str]) -> None:
    load_tokenizer(pair.av)
    read_spec(pair.av)
    stream_weights(pair.ar, ar_targets_of(pair.ar))
    assert capfd.readouterr() == ("", "")


def ar_targets_of(directory: Path) -> dict[str, torch.Tensor]:
    stored = load_file(directory / "model.safetensors")
    return {name: torch.empty_like(tensor) for name, tensor in stored.items()}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_one_seed_one_checkpoint(tmp_path: Path, arch: str) -> None:
    same = [write_target(tmp_path / name, arch, seed=3) for name in ("a", "b")]
    other = write_target(tmp_path / "c", arch, seed=4)
    assert fingerprint(same[0]) == fingerprint(same[1]) != fingerprint(other)
