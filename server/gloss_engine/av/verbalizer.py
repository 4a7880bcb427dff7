"""The AV: a checkpoint loaded, its prompt cut, its prefix computed, its output read.

What is the same for every activation is made here once; which activations run is the scheduler's
business, and running them the runner's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gloss_engine.av.explanation import Extract, extract
from gloss_engine.av.prompt import VerbalizerPrompt, build_prompt
from gloss_engine.av.stop import stop_table, token_texts
from gloss_engine.checkpoint import (
    end_of_sequence_ids,
    load_tokenizer,
    read_spec,
    stream_weights,
)
from gloss_engine.config import ConfigError, EngineConfig
from gloss_engine.errors import CheckpointError
from gloss_engine.models.decoder import Decoder
from gloss_engine.models.spec import ModelSpec
from gloss_engine.program import ADD_LAYER_INDEX, AvProgram
from gloss_engine.sidecar import Sidecar, read_sidecar


class ExplanationReader:
    """Turns generated ids into text.

    Args:
        tokenizer: the AV's.
        eos_ids: ids that end a sequence.
    """

    def __init__(self, tokenizer: Any, eos_ids: frozenset[int]) -> None:
        self.tokenizer, self.eos_ids = tokenizer, eos_ids

    def raw_text(self, token_ids: list[int]) -> str:
        """Everything generated, special tokens included."""
        text: str = self.tokenizer.decode(token_ids, skip_special_tokens=False)
        return text

    def read(self, token_ids: list[int]) -> tuple[str, Extract]:
        """The raw text, and the explanation in it."""
        raw = self.raw_text(token_ids)
        if token_ids and token_ids[-1] in self.eos_ids:
            return raw, extract(self.raw_text(token_ids[:-1]))
        return raw, extract(raw)


class Verbalizer:
    """A loaded AV.

    Attributes:
        directory: where it came from.
        sidecar, spec: the checkpoint's.
        prompt: its canonical prompt.
        decoder: its weights.
        program: what the runner needs of it.
        reader: what reads its output.
        special_ids, unknown_id: for flags.
    """

    def __init__(self, directory: Path, config: EngineConfig) -> None:
        device, dtype = config.resolve_device(), config.resolve_dtype()
        self.directory = directory
        self.sidecar, self.spec = read_sidecar(directory), read_spec(directory)
        check_av(directory, self.sidecar, self.spec, config, dtype)
        tokenizer = load_tokenizer(directory)
        self.prompt = build_prompt(tokenizer, self.sidecar)
        num_positions = len(self.prompt.ids) + config.max_new_tokens
        _check_length(self.spec, len(self.prompt.ids), config.max_new_tokens)
        self.decoder = Decoder(
            self.spec,
            max_positions=num_positions,
            operations=config.operations(),
            device=device,
            dtype=dtype,
            quantization=config.quantization,
        )
        stream_weights(directory, self.decoder.targets())
        self.decoder.pack()
        eos_ids = end_of_sequence_ids(directory, tokenizer)
        self.reader = ExplanationReader(tokenizer, eos_ids)
        self.special_ids = frozenset(tokenizer.all_special_ids)
        self.unknown_id: int | None = tokenizer.unk_token_id
        self.program = _program(
            self.decoder, self.prompt, self.sidecar, config.injection_mode, tokenizer, eos_ids
        )


@torch.inference_mode()
def _program(
    decoder: Decoder,
    prompt: VerbalizerPrompt,
    sidecar: Sidecar,
    injection_mode: str,
    tokenizer: Any,
    eos_ids: frozenset[int],
) -> AvProgram:
    device, vocab_size = decoder.device, decoder.spec.vocab_size
    is_eos = torch.zeros(vocab_size, dtype=torch.bool)
    is_eos[[index for index in eos_ids if index < vocab_size]] = True
    prefix = None
    if prompt.prefix_ids:
        prefix = decoder.compute_prefix(torch.tensor(prompt.prefix_ids, device=device))
    assert sidecar.injection_scale is not None
    return AvProgram(
        suffix_ids=torch.tensor([prompt.marker_id, *prompt.suffix_ids], device=device),
        prefix=prefix,
        injection_scale=sidecar.injection_scale,
        injection_mode=injection_mode,
        stop_table=stop_table(token_texts(tokenizer, vocab_size)).to(device),
        is_eos=is_eos.to(device),
    )


def check_av(
    directory: Path, sidecar: Sidecar, spec: ModelSpec, config: EngineConfig, dtype: torch.dtype
) -> None:
    """Refuse a directory that is no AV, or that these settings cannot run.

    Raises:
        CheckpointError: role or width that do not agree.
        ConfigError: a scale beyond the dtype, an `add` injection into a model of one block.
    """
    if sidecar.role != "av":
        raise CheckpointError(
            f"{directory.name}: role",
            got=sidecar.role,
            expected="av",
            fix="Pass this directory as --ar, and the verbalizer as --av.",
        )
    if sidecar.d_model != spec.d_model:
        raise CheckpointError(
            f"{directory.name}: d_model",
            got=f"{sidecar.d_model} in the sidecar",
            expected=f"the config's hidden_size {spec.d_model}",
            fix="Sidecar and weights belong to different models.",
        )
    scale = sidecar.injection_scale or 0.0
    if scale > torch.finfo(dtype).max:
        raise ConfigError(
            f"dtype: got {config.dtype}, but the checkpoint's injection_scale {scale:g} exceeds "
            f"its largest value {torch.finfo(dtype).max:g}; use bfloat16 or float32"
        )
    if config.injection_mode == "add" and spec.num_layers <= ADD_LAYER_INDEX:
        raise ConfigError(
            f"injection_mode: got add, which writes to the output of block {ADD_LAYER_INDEX}, "
            f"but the model has {spec.num_layers} block; use replace"
        )


def _check_length(spec: ModelSpec, prompt_len: int, max_new_tokens: int) -> None:
    if prompt_len + max_new_tokens > spec.max_positions:
        raise ConfigError(
            f"max_new_tokens: got {max_new_tokens}, but the model has {spec.max_positions} "
            f"positions and the prompt takes {prompt_len}; "
            f"use at most {spec.max_positions - prompt_len}"
        )
