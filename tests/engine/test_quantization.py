"""Linear layers in fp8: streamed bit for bit, the numbers of a plain rounded model, refusals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from gloss_engine.ar.reconstructor import Reconstructor
from gloss_engine.checkpoint import read_spec, stream_weights
from gloss_engine.config import ConfigError, EngineConfig
from gloss_engine.errors import CheckpointError
from gloss_engine.models import linear_fp8
from gloss_engine.models.batch import ForwardBatch
from gloss_engine.models.decoder import Decoder
from gloss_engine.models.linear_fp8 import Fp8Linear
from gloss_engine.models.spec import ModelSpec
from gloss_kernels import Operations, PackedPlan
from gloss_kernels.fp8 import Fp8Rows, quantize_rows
from support.backends import ON_GPU, REFERENCE, TRITON, Backend
from support.checkpoints import Pair, write_target
from support.edits import add_weights, edit_json, edit_weights
from support.engine_runs import small_engine
from support.fp8_reference import quantize_model, row_errors
from support.reference import ReferenceReconstructor

NUM_SEQUENCES, LENGTH = 12, 5
# Two float32 ways to the same rows, 1e-6 apart, may round a value to either side of a step. That
# is rare, so the median row has none and differs by as little.
SAME = 1e-4
# Random blocks that outweigh the embedding amplify: what rounding adds to each of 24 products, 3.7%
# of it, has become 23 to 39% of the logits (12 models, three of each
# architecture, 60 tokens).
MOST_ERROR = 0.5


@pytest.fixture
def chunks_of_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of 72 to 112 columns arrive in chunks of 5 to 8 rows, the last one shorter."""
    monkeypatch.setattr(linear_fp8, "_CHUNK_ELEMENTS", 600)


def load(
    directory: Path,
    quantization: str = "fp8",
    dtype: torch.dtype = torch.float32,
    backend: Backend = REFERENCE,
) -> Decoder:
    decoder = Decoder(
        read_spec(directory),
        max_positions=64,
        operations=backend.ops,
        device=backend.device,
        dtype=dtype,
        quantization=quantization,
    )
    for target in decoder.targets().values():
        poison(target)
    stream_weights(directory, decoder.targets())
    decoder.pack()
    return decoder


def poison(target: Tensor | Fp8Rows) -> None:
    if isinstance(target, Fp8Rows):
        target.values.view(torch.uint8).fill_(0x7F)
        target.scales.fill_(torch.nan)
        assert target.dequantised().isnan().all()
    else:
        target.fill_(torch.nan)


def token_ids(vocab_size: int, num_sequences: int = NUM_SEQUENCES) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(vocab_size, (num_sequences, LENGTH), generator=generator)


@torch.no_grad()
def logits(decoder: Decoder, num_sequences: int = NUM_SEQUENCES) -> Tensor:
    """[num_sequences * LENGTH, vocab_size] on the CPU, of short random sequences, packed."""
    device = decoder.device
    ids = token_ids(decoder.spec.vocab_size, num_sequences).flatten().to(device)
    ends = torch.arange(0, len(ids) + 1, LENGTH, device=device)
    packed = PackedPlan(ends, num_tokens=len(ids), max_seqlen=LENGTH)
    positions = torch.arange(LENGTH, device=device).repeat(num_sequences)
    batch = ForwardBatch(positions=positions, packed=packed)
    return decoder.logits(decoder.forward(decoder.embed(ids), batch)).float().cpu()


def reference_model(directory: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


@torch.no_grad()
def reference_logits(model: Any) -> Tensor:
    vocab_size = model.get_input_embeddings().weight.shape[0]
    return model(input_ids=token_ids(vocab_size)).logits.flatten(0, 1)


def linears(decoder: Decoder) -> Iterator[Fp8Linear]:
    for block in decoder.blocks:
        for linear in block.linears:
            assert isinstance(linear, Fp8Linear)
            yield linear


def same_bits(got: Fp8Rows, expected: Fp8Rows) -> bool:
    return torch.equal(got.values.view(torch.uint8), expected.values.view(torch.uint8)) and (
        torch.equal(got.scales, expected.scales)
    )


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_packed_weights_are_quantised_as_if_whole(
    tmp_path: Path, arch: str, stored: torch.dtype, chunks_of_few_rows: None
) -> None:
    """From what is stored, not from what the model's type leaves of it."""
    directory = write_target(tmp_path / "m", arch, dtype=stored, sharded=arch == "qwen3")
    weights: dict[str, Tensor] = {}
    for path in directory.glob("*.safetensors"):
        weights.update(load_file(path))
    decoder = load(directory, dtype=torch.bfloat16)
    for index, block in enumerate(decoder.blocks):
        parts = {
            "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "output": ("self_attn.o_proj",),
            "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
            "down": ("mlp.down_proj",),
        }
        for name, projections in parts.items():
            whole = [weights[f"model.layers.{index}.{each}.weight"] for each in projections]
            assert same_bits(getattr(block, name).weight, quantize_rows(torch.cat(whole))), name
    assert torch.equal(decoder.embedding, weights["model.embed_tokens.weight"].bfloat16())


class Copies(TorchDispatchMode):
    """Knows the largest float32 tensor that was made inside."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.dtype == torch.float32:
            self.largest = max(self.largest, out.numel())
        return out


def test_no_whole_weight_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = write_target(tmp_path / "m", "llama3", dtype=torch.bfloat16)
    decoder = load(directory, dtype=torch.bfloat16)
    largest = []
    for elements in (1 << 24, 600):
        monkeypatch.setattr(linear_fp8, "_CHUNK_ELEMENTS", elements)
        with Copies() as copies:
            stream_weights(directory, decoder.targets())
        largest.append(copies.largest)
    # Without chunks a gate whole, never gate and up together; then five or six rows.
    gate = decoder.spec.intermediate_size * decoder.spec.d_model
    assert largest[0] == gate and 480 <= largest[1] <= 600


def test_eight_bits_a_weight_and_nothing_else(pairs: dict[str, Pair]) -> None:
    decoder = load(pairs["gemma3"].av, dtype=torch.bfloat16)
    spec = decoder.spec
    for linear in linears(decoder):
        assert linear.weight.values.element_size() == 1
        assert linear.weight.scales.shape == (linear.out_features, 1)
    tensors = [v for block in decoder.blocks for v in vars(block).values() if torch.is_tensor(v)]
    # Norms and biases.
    assert max(tensor.numel() for tensor in tensors) <= 4 * spec.d_model
    assert decoder.embedding.dtype == torch.bfloat16 and decoder.head is not None
    assert decoder.head.weight is decoder.embedding


def test_numbers_are_those_of_a_plain_rounded_model(pair: Pair, arch: str) -> None:
    """Every projection with its own scales, the right rows quantised, nothing else rounded."""
    decoder = load(pair.av)
    model = reference_model(pair.av)
    exact = reference_logits(model)
    expected = reference_logits(quantize_model(model))
    assert row_errors(logits(decoder), expected).median() < SAME
    assert 0.02 < row_errors(expected, exact).median() < MOST_ERROR
    assert row_errors(logits(load(pair.av, "none")), exact).max() < 1e-5
    block = decoder.blocks[2]
    for linear in block.linears:
        assert isinstance(linear, Fp8Linear)
        scales = linear.weight.scales
        kept = scales.clone()
        # A neighbour's scale is seen. One that is dropped leaves no sense, unless Gemma's norm
        # after the layer takes out what all rows share.
        scales.copy_(kept.roll(1, 0))
        assert row_errors(logits(decoder), expected).median() > 100 * SAME
        scales.fill_(1.0)
        if block.post_mlp_norm is None:
            assert row_errors(logits(decoder), exact).median() > MOST_ERROR
        scales.copy_(kept)


def test_biases(tmp_path: Path) -> None:
    directory = write_target(tmp_path / "m", "llama3")
    generator = torch.Generator().manual_seed(5)
    added = {
        f"model.layers.{index}.{name}.bias": torch.randn(size, generator=generator)
        for index in range(6)
        for name, size in (
            *(("self_attn.q_proj", 96), ("self_attn.k_proj", 48), ("self_attn.v_proj", 48)),
            *(("self_attn.o_proj", 96), ("mlp.gate_proj", 112), ("mlp.up_proj", 112)),
            ("mlp.down_proj", 96),
        )
    }
    without = logits(load(directory))
    edit_json(directory / "config.json", lambda c: c.update(attention_bias=True, mlp_bias=True))
    add_weights(directory, added)
    got = logits(load(directory))
    expected = reference_logits(quantize_model(reference_model(directory)))
    assert row_errors(got, expected).median() < SAME < row_errors(without, expected).median()


def test_vectors_of_an_ar(pair: Pair) -> None:
    texts = ["The river froze.", "", "a", *(f"In {year} the council met." for year in range(9))]
    vectors = [
        Reconstructor.load(
            pair.ar,
            operations=Operations("reference"),
            device=torch.device("cpu"),
            dtype=torch.float32,
            quantization=quantization,
        ).reconstruct(texts)
        for quantization in ("none", "fp8")
    ]
    reference = ReferenceReconstructor(pair.ar)
    quantize_model(reference.model)
    expected = torch.stack([reference.vector(text) for text in texts])
    assert row_errors(vectors[1], expected).median() < SAME
    assert 0.02 < row_errors(vectors[1], vectors[0]).median() < MOST_ERROR


def test_kernels_and_reference_say_the_same(pairs: dict[str, Pair]) -> None:
    """Of the small models only Llama's widths are multiples of 16. On a GPU rows go in bfloat16,
    whose own rounding moves values across the steps of fp8."""
    dtype, most = (torch.bfloat16, MOST_ERROR / 2) if ON_GPU else (torch.float32, SAME)
    directory = pairs["llama3"].av
    expected = logits(load(directory, dtype=dtype), num_sequences=2)
    got = logits(load(directory, dtype=dtype, backend=TRITON), num_sequences=2)
    assert row_errors(got, expected).median() < most


def test_quantization_is_told_and_changes_the_fingerprint(pairs: dict[str, Pair]) -> None:
    infos = [small_engine(pairs["qwen2"].av, quantization=q).info for q in ("none", "fp8")]
    assert [info.quantization for info in infos if info is not None] == ["none", "fp8"]
    assert infos[0] is not None and infos[1] is not None
    assert infos[0].fingerprint != infos[1].fingerprint


@pytest.mark.parametrize(
    ("arch", "said"),
    [
        ("qwen2", "qwen2: hidden_size: got 72, expected a multiple of 16"),
        ("qwen3", "qwen3: the width of all heads: got 120, expected a multiple of 16"),
    ],
)
def test_widths_that_kernels_cannot_run_are_refused(
    pairs: dict[str, Pair], arch: str, said: str
) -> None:
    device = "cuda" if ON_GPU else "cpu"
    with pytest.raises(CheckpointError, match=said) as caught:
        small_engine(pairs[arch].av, kernels="triton", quantization="fp8", device=device)
    assert "without quantization" in caught.value.fix


def test_the_limits_are_those_of_the_kernels() -> None:
    from gloss_kernels.gated_activation import MOST_HELD_COLUMNS
    from gloss_kernels.linear_fp8 import ALIGNMENT

    assert (linear_fp8._ALIGNMENT, linear_fp8._MOST_GATED) == (ALIGNMENT, MOST_HELD_COLUMNS)


def test_an_mlp_too_wide_for_the_gate_is_refused(tmp_path: Path) -> None:
    spec = read_spec(write_target(tmp_path / "m", "llama3"))
    wide = {**vars(spec), "intermediate_size": linear_fp8._MOST_GATED + 16}
    with pytest.raises(CheckpointError, match="intermediate_size: got 32784, expected at most"):
        linear_fp8.check_fp8(ModelSpec(**wide), Operations("triton"), torch.device("cpu"))
    linear_fp8.check_fp8(ModelSpec(**wide), Operations("reference"), torch.device("cpu"))


def test_a_gpu_without_fp8_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = read_spec(write_target(tmp_path / "m", "llama3"))
    operations = Operations("triton")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(CheckpointError, match=r"got fp8 on NVIDIA A100 .*8\.0.*expected .*8\.9"):
        linear_fp8.check_fp8(spec, operations, torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    linear_fp8.check_fp8(spec, operations, torch.device("cuda"))


def test_an_unknown_quantization_is_refused() -> None:
    with pytest.raises(ConfigError, match="quantization: got 'int4', expected one of none, fp8"):
        EngineConfig(quantization="int4")


def test_values_beyond_the_models_type_fit_the_scales(tmp_path: Path) -> None:
    directory = write_target(tmp_path / "m", "qwen2")
    edit_weights(directory, lambda n, t: t * 1e6 if "2.mlp.up" in n else t)
    with pytest.raises(CheckpointError, match=r"layers\.2\.mlp\.up_proj.*torch\.float16"):
        load(directory, "none", torch.float16)
    weight = load(directory, "fp8", torch.float16).blocks[2].gate_up.weight
    assert isinstance(weight, Fp8Rows) and weight.dequantised().isfinite().all()
    assert weight.dequantised()[112:].abs().max() > torch.finfo(torch.float16).max
