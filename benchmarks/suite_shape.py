"""The pair that the suite runs: a Qwen2 shape with random weights made on the device.

Weights. Matrices are normal with a standard deviation of 1 / sqrt(in_features), so that every layer
keeps the scale of its input, whatever the depth; norms are 1 and biases 0, both with a noise of
0.1. The head's is 0.9 sqrt(2 ln V) times as wide: with logits that flat softmax would spread over
all V tokens, and one drawn by inversion would change with every rounding; with these it has about
(1 - 0.9^2) ln V nats of entropy (2.3 at 152,064), as a language model's has. That makes divergence
rates and log-probabilities mean something; it changes no time.

Text. A tokenizer of as many words as the vocabulary has rows: an explanation is decoded and encoded
again by the real tokenizers library, and its 120 tokens are 120 again. Words are cheaper to encode
than bytes that merge.

The AR is the first blocks of the same weights, no copy, with a random value head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2Config

from gloss_engine.ar.reconstructor import MAX_PROMPT_TOKENS, Reconstructor
from gloss_engine.ar.scorer import Scorer
from gloss_engine.ar.template import ReconstructorTemplate
from gloss_engine.av.verbalizer import ExplanationReader
from gloss_engine.config import EngineConfig
from gloss_engine.floor import Workload
from gloss_engine.models.decoder import Decoder
from gloss_engine.models.linear_fp8 import fill
from gloss_engine.models.registry import spec_from_config
from gloss_engine.models.spec import ModelSpec
from gloss_engine.program import AvProgram
from gloss_engine.sidecar import Sidecar
from gloss_kernels.fp8 import Fp8Rows

SEED = 20250
INJECTION_SCALE = 150.0
FVE_BASELINE = 0.72
ENTROPY = 0.9
"""Of sqrt(2 ln V), the width of normal logits at which softmax freezes to a few tokens."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of one run.

    Attributes:
        name: for notes.
        config: the AV's, in transformers' words.
        ar_layers: blocks of the AR.
        prompt_len, prefix_len: tokens of the prompt, and of them before the injected one.
        new_tokens: of an explanation.
    """

    name: str
    config: Qwen2Config
    ar_layers: int
    prompt_len: int = 125
    prefix_len: int = 100
    new_tokens: int = 120

    @property
    def spec(self) -> ModelSpec:
        """The AV's spec."""
        return spec_from_config(self.config)

    @property
    def ar_spec(self) -> ModelSpec:
        """The AR's: the first blocks."""
        return replace(self.spec, layers=self.spec.layers[: self.ar_layers])


def _config(**sizes: int) -> Qwen2Config:
    return Qwen2Config(
        **sizes,
        tie_word_embeddings=False,
        max_position_embeddings=8192,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )


SEVEN_B = Shape(
    name="Qwen2.5-7B",
    config=_config(
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=152064,
    ),
    ar_layers=21,
)
SMOKE = Shape(
    name="smoke",
    config=_config(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=1000,
    ),
    ar_layers=2,
    prompt_len=21,
    prefix_len=14,
    new_tokens=10,
)


@dataclass(frozen=True, kw_only=True)
class RandomPair:
    """An AV and an AR on the same random weights.

    Attributes:
        shape: its sizes.
        decoder, program: the AV and its prompt, nothing that ends a sequence but its limit.
        scorer: the AR's side.
        reader: decodes with the synthetic tokenizer.
        prompt_ids: [prompt_len] int64, the injected token at `shape.prefix_len`.
        weight_bytes: of the AV and the value head; the AR's blocks are the AV's.
    """

    shape: Shape
    decoder: Decoder
    program: AvProgram
    scorer: Scorer
    reader: ExplanationReader
    prompt_ids: Tensor
    weight_bytes: int

    @property
    def workload(self) -> Workload:
        """One explanation, with what the AR's template adds to its tokens."""
        shape, template = self.shape, self.scorer.reconstructor.template
        added = len(template.encode([""])[0]) - len(template.prefix_ids)
        return Workload(
            prompt_len=shape.prompt_len,
            prefix_len=shape.prefix_len,
            new_tokens=shape.new_tokens,
            ar_tokens=shape.new_tokens + added,
        )

    def activations(self, count: int) -> Tensor:
        """[count, d_model] float32 on the host; the same first rows for every count."""
        generator = torch.Generator().manual_seed(SEED + 2)
        return torch.randn(count, self.shape.spec.d_model, generator=generator)


def random_weights(targets: dict[str, Tensor], device: torch.device, seed: int) -> None:
    """Fill a decoder's weights in place: see above."""
    generator = torch.Generator(device).manual_seed(seed)
    for name, target in targets.items():
        if name.endswith("norm.weight"):
            target.normal_(1.0, 0.1, generator=generator)
        elif name.endswith(".bias"):
            target.normal_(0.0, 0.1, generator=generator)
        elif name == "model.embed_tokens.weight":
            target.normal_(0.0, 1.0, generator=generator)
        else:
            rows, width = target.shape
            spread = ENTROPY * math.sqrt(2 * math.log(rows)) if name == "lm_head.weight" else 1.0
            target.normal_(0.0, spread / math.sqrt(width), generator=generator)


def plain_targets(decoder: Decoder) -> dict[str, Tensor]:
    """The named weights of a decoder that is not quantised."""
    named = {}
    for name, target in decoder.targets().items():
        assert isinstance(target, Tensor), f"{name} is quantised"
        named[name] = target
    return named


@torch.no_grad()
def random_decoder(shape: Shape, config: EngineConfig) -> Decoder:
    """An AV's decoder with random weights, not packed yet.

    No inference tensors: transformers' parameters are to be views of them.
    """
    decoder = _decoder(shape, config)
    random_weights(plain_targets(decoder), decoder.device, SEED)
    return decoder


@torch.no_grad()
def quantized_decoder(shape: Shape, config: EngineConfig, plain: Decoder) -> Decoder:
    """The same weights as `plain`, quantised as a checkpoint's are while it is loaded."""
    decoder = _decoder(shape, config)
    sources = plain_targets(plain)
    for name, target in decoder.targets().items():
        fill(target, sources[name])
    return decoder


def _decoder(shape: Shape, config: EngineConfig) -> Decoder:
    return Decoder(
        shape.spec,
        max_positions=shape.prompt_len + shape.new_tokens,
        operations=config.operations(),
        device=config.resolve_device(),
        dtype=config.resolve_dtype(),
        quantization=config.quantization,
    )


def _num_bytes(target: Tensor | Fp8Rows) -> int:
    tensors = [target.values, target.scales] if isinstance(target, Fp8Rows) else [target]
    return sum(tensor.nbytes for tensor in tensors)


@torch.inference_mode()
def random_pair(shape: Shape, decoder: Decoder) -> RandomPair:
    """Prompt, prefix, AR and tokenizer around a loaded decoder, which is packed here."""
    weight_bytes = sum(_num_bytes(target) for target in decoder.targets().values())
    decoder.pack()
    device, spec = decoder.device, shape.spec
    generator = torch.Generator().manual_seed(SEED + 1)
    ids = torch.randint(spec.vocab_size, (shape.prompt_len,), generator=generator)
    program = AvProgram(
        suffix_ids=ids[shape.prefix_len :].to(device),
        prefix=decoder.compute_prefix(ids[: shape.prefix_len].to(device)),
        injection_scale=INJECTION_SCALE,
        injection_mode="replace",
        stop_table=torch.zeros(2, spec.vocab_size, dtype=torch.uint8, device=device),
        is_eos=torch.zeros(spec.vocab_size, dtype=torch.bool, device=device),
    )
    tokenizer = word_tokenizer(spec.vocab_size)
    scorer = Scorer(_reconstructor(shape, decoder, tokenizer), FVE_BASELINE)
    return RandomPair(
        shape=shape,
        decoder=decoder,
        program=program,
        scorer=scorer,
        reader=ExplanationReader(tokenizer, frozenset()),
        prompt_ids=ids,
        weight_bytes=weight_bytes + 4 * spec.d_model**2,
    )


def word_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """A tokenizer of `vocab_size` words, w0 to w<vocab_size - 1>, written with spaces between."""
    words = {f"w{index}": index for index in range(vocab_size)}
    backend: Any = Tokenizer(WordLevel(words, unk_token="w0"))
    backend.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def _reconstructor(shape: Shape, decoder: Decoder, tokenizer: Any) -> Reconstructor:
    """The AR on the AV's first blocks, behind a template of 9 and 4 tokens."""
    spec = shape.ar_spec
    ar = Decoder(
        replace(spec, vocab_size=1),
        num_layers=0,
        max_positions=MAX_PROMPT_TOKENS,
        operations=decoder.operations,
        device=decoder.device,
        dtype=decoder.dtype,
    )
    ar.blocks, ar.embedding = decoder.blocks[: shape.ar_layers], decoder.embedding
    sidecar = Sidecar(
        role="ar",
        d_model=spec.d_model,
        injection_scale=None,
        mse_scale=math.sqrt(spec.d_model),
        ar_template="w1 w2 w3 w4 w5 w6 w7 w8 w9 {explanation} w10 w11 w12 w13",
    )
    template = ReconstructorTemplate.build(tokenizer, sidecar)
    generator = torch.Generator(decoder.device).manual_seed(SEED + 3)
    head = torch.empty(spec.d_model, spec.d_model, device=decoder.device)
    head.normal_(0.0, spec.d_model**-0.5, generator=generator)
    return Reconstructor(ar, template, (head, None), sidecar)
