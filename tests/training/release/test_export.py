"""What a run exports passes the doctor, is served, and is the pair that was trained."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3ForCausalLM

from gloss_engine import EngineConfig, SamplingParams, VerbalizeRequest, load_engine
from gloss_server.commands.doctor.examination import examine, exit_code
from gloss_training.dataset.statistics import Statistics
from gloss_training.errors import DiskError, RunFolderError
from gloss_training.models.decoder import Decoder
from gloss_training.models.full_pair import FullPair
from gloss_training.models.lora import LoraSettings
from gloss_training.models.lora_pair import AR, AV, LoraPair
from gloss_training.models.prompts import marked_prompt
from gloss_training.models.reconstructor import from_target, load_reconstructor
from gloss_training.models.sharding import ALONE
from gloss_training.release.export import export
from gloss_training.release.pair import save_pair
from gloss_training.release.pair_adapters import load_role
from gloss_training.release.sidecars import Facts
from gloss_training.world.settings import WORLD_PROMPT

LAYER_INDEX = 2
FACTS = Facts(
    d_model=32,
    layer_index=LAYER_INDEX,
    min_position=8,
    statistics=Statistics(injection_scale=7.0, fve_baseline=0.8, norm_median=7.0),
    prompt=WORLD_PROMPT,
)
LORA = LoraSettings(rank=2, alpha=8.0)


def lora_pair(target: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> LoraPair:
    prompt = marked_prompt(tokenizer, WORLD_PROMPT)
    pair = LoraPair(target, prompt, LAYER_INDEX, LORA, seed=0)
    for parameter in (*pair.av_parameters(), *pair.ar_parameters()):
        torch.nn.init.normal_(parameter, std=0.1)
    return pair


def full_pair(target: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> FullPair:
    prompt = marked_prompt(tokenizer, WORLD_PROMPT)
    reference, blocks = copy.deepcopy(target), copy.deepcopy(target)
    reconstructor = from_target(blocks, LAYER_INDEX)
    return FullPair(Decoder(target), Decoder(reference), reconstructor, prompt)


MakePair = Callable[[Qwen3ForCausalLM, PreTrainedTokenizerFast], FullPair | LoraPair]


def write_run(run: Path, pair: FullPair | LoraPair, tokenizer: PreTrainedTokenizerFast) -> None:
    """What a finished RL stage leaves."""
    save_pair(pair, tokenizer, FACTS, run / "rl", base="target", dtype=torch.float32, ranks=ALONE)
    (run / "stages").mkdir()
    (run / "stages" / "rl.json").write_text("{}")


@pytest.mark.parametrize("make", (lora_pair, full_pair))
@pytest.mark.parametrize("dtype", (None, "bfloat16"))
def test_an_exported_pair_passes_the_doctor_and_is_served(
    tmp_path: Path,
    target: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    make: MakePair,
    dtype: str | None,
) -> None:
    pair = make(target, tokenizer)
    write_run(tmp_path / "run", pair, tokenizer)
    out = tmp_path / "out"
    assert export(tmp_path / "run", out, dtype=dtype, max_shard_bytes=20_000) == (
        tmp_path / "run" / "rl"
    )
    checks = examine(out)
    assert exit_code(checks) == 0, [check for check in checks if check.status == "fail"]
    assert {check.status for check in checks} == {"pass"}
    for role in ("av", "ar"):
        files = list((out / role).glob("model-*.safetensors"))
        assert len(files) > 1 and not (out / role / "model.safetensors").exists()
    # A server that runs as somebody else reads all of it, where new files can be read at all.
    (tmp_path / "new").touch()
    usual = (tmp_path / "new").stat().st_mode
    assert {path.stat().st_mode for path in out.rglob("*") if path.is_file()} == {usual}
    engine = load_engine(out / "av", out / "ar", EngineConfig(device="cpu", num_slots=2))
    sampling = SamplingParams(max_new_tokens=4)
    request = VerbalizeRequest(activations=torch.randn(2, 32), score=True, sampling=sampling)
    assert all(each.error is None for each in engine.verbalize(request))
    kind = torch.float32 if dtype is None else torch.bfloat16
    stored = AutoModelForCausalLM.from_pretrained(out / "av", dtype=torch.float32).state_dict()
    for name, weight in pair.av_weights():
        assert torch.equal(stored[name], weight.to(kind).float()), name
    assert json.loads((out / "av" / "config.json").read_text())["dtype"] == str(kind)[6:]


def test_the_ar_that_is_read_back_is_the_pairs(
    tmp_path: Path, target: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    pair = lora_pair(target, tokenizer)
    write_run(tmp_path, pair, tokenizer)
    token_ids, lengths = torch.randint(50, (3, 9)), torch.tensor([9, 2, 5])
    torch.testing.assert_close(
        load_reconstructor(tmp_path / "rl" / "ar")(token_ids, lengths),
        pair.reconstruct(token_ids, lengths),
        rtol=1e-4,
        atol=1e-4,
    )


def test_adapters_alone_go_on_where_they_were(
    tmp_path: Path, target: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    pair = lora_pair(target, tokenizer)
    expected = [p.detach().clone() for p in (*pair.av_parameters(), *pair.ar_parameters())]
    write_run(tmp_path / "run", pair, tokenizer)
    export(tmp_path / "run", tmp_path / "out", form="peft")
    assert {path.name for path in (tmp_path / "out" / "ar").iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors", "value_head.safetensors")
    }
    head = load_file(tmp_path / "out" / "ar" / "value_head.safetensors")["weight"]
    assert torch.equal(head, pair.value_head.weight)
    for parameter in (*pair.av_parameters(), *pair.ar_parameters()):
        torch.nn.init.zeros_(parameter)
    for role in (AV, AR):
        load_role(pair, role, tmp_path / "out" / role)
    found = [*pair.av_parameters(), *pair.ar_parameters()]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_nothing_stands_under_the_final_name_where_writing_ends_early(
    tmp_path: Path, target: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    pair = full_pair(target, tokenizer)
    write_run(tmp_path / "run", pair, tokenizer)
    weights = tmp_path / "run" / "rl" / "ar" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Exception, match="safetensors"):
        export(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    weights.write_bytes(whole)
    # A run that was killed left half of one.
    (tmp_path / "out.writing" / "av").mkdir(parents=True)
    export(tmp_path / "run", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]
    with pytest.raises(ValueError, match="a folder that exists"):
        export(tmp_path / "run", tmp_path / "out")


def test_what_cannot_be_exported_is_refused(
    tmp_path: Path, target: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    out = tmp_path / "out"
    with pytest.raises(RunFolderError, match="no such directory"):
        export(tmp_path / "nothing", out)
    with pytest.raises(RunFolderError, match="has not finished stage ar, av"):
        export(tmp_path, out)
    write_run(tmp_path / "run", full_pair(target, tokenizer), tokenizer)
    with pytest.raises(RunFolderError, match="trained all weights"):
        export(tmp_path / "run", out, form="peft")
    with pytest.raises(ValueError, match="--dtype: got 'float16'"):
        export(tmp_path / "run", out, dtype="float16")
    with pytest.raises(ValueError, match="--format: got 'gguf'"):
        export(tmp_path / "run", out, form="gguf")
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="directory. The run is as it was. Put that right, then"):
        export(tmp_path / "run", tmp_path / "file" / "out")
    assert not out.exists()
