"""What runs the target over token ids and brings the output of block K at the wanted positions.

`EngineReader` runs `gloss_engine`'s target side: texts packed without padding, up to block K only.
`TapReader` taps a transformers model, for an architecture that the engine does not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gloss_engine import tap
from gloss_engine.checkpoint import fingerprint
from gloss_engine.config import EngineConfig
from gloss_engine.sidecar import require_plain_model
from gloss_engine.target.reader import TextReader, TextToRead
from gloss_engine.target.target import load_target
from gloss_training.errors import ConfigError

_TAP_BATCH: Final = 16


@dataclass(frozen=True, kw_only=True)
class Captured:
    """Activations of texts, in the order of texts and of their positions.

    Attributes:
        activations: [n, d_model] float32, raw.
        norms: [n] float32; not finite or 0 where a row has no direction.
    """

    activations: np.ndarray
    norms: np.ndarray


class ActivationReader(Protocol):
    """Reads activations of one target.

    Attributes:
        tokenizer: the target's.
        d_model, layer_index: of the activations.
        fingerprint: of the target's weights and tokenizer.
        how: what else decides the last bits of an activation: reader, device, type.
    """

    tokenizer: Any
    d_model: int
    layer_index: int
    fingerprint: str
    how: str

    def read(self, texts: Sequence[TextToRead]) -> Captured:
        """The activations at every text's positions."""


class EngineReader:
    """See `ActivationReader`.

    Args:
        directory: a plain Hugging Face model directory.
        layer_index: K.
        max_document_tokens: longest text.
        device, dtype: as in EngineConfig.

    Raises:
        CheckpointError: no such model, or one that the engine cannot run.
    """

    def __init__(
        self,
        directory: Path,
        layer_index: int,
        *,
        max_document_tokens: int,
        device: str = "auto",
        dtype: str = "auto",
    ) -> None:
        config = EngineConfig(device=device, dtype=dtype, max_text_tokens=max_document_tokens)
        target = load_target(directory, config, layer_index=layer_index, generates=False)
        self._reader = TextReader(target, config.max_read_tokens)
        self.tokenizer, self.layer_index = target.tokenizer, layer_index
        self.d_model, self._num_positions = target.spec.d_model, target.spec.max_positions
        self.fingerprint = fingerprint(directory)
        self.how = f"engine, {_kind(config.resolve_device(), config.resolve_dtype())}"

    def read(self, texts: Sequence[TextToRead]) -> Captured:
        """See `ActivationReader`.

        Raises:
            ConfigError: a text that is longer than the target can read.
        """
        longest = max((len(text.token_ids) for text in texts), default=0)
        if longest > self._num_positions:
            raise ConfigError(
                f"data.max_document_tokens: got a document of {longest} tokens, expected at most "
                f"{self._num_positions}, which the target can read; set it to that, and longer "
                "documents are cut"
            )
        raw, norms = self._reader.read(texts)
        return Captured(activations=raw.cpu().numpy(), norms=norms.cpu().numpy())


class TapReader:
    """See `ActivationReader`; a transformers model, tapped.

    Args:
        directory: a model that AutoModelForCausalLM loads.
        layer_index: K.
        device, dtype: as torch names them.

    Raises:
        CheckpointError: an AV or an AR.
    """

    def __init__(
        self,
        directory: Path,
        layer_index: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        require_plain_model(directory)
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
        self._model = model.to(device).eval()
        self._device = device
        self.tokenizer, self.layer_index = AutoTokenizer.from_pretrained(directory), layer_index
        self.d_model = model.config.get_text_config().hidden_size
        self.fingerprint = fingerprint(directory)
        self.how = f"transformers, {_kind(device, dtype)}"

    @torch.no_grad()
    def read(self, texts: Sequence[TextToRead]) -> Captured:
        """See `ActivationReader`."""
        parts: list[torch.Tensor] = [torch.empty(0, self.d_model)]
        for start in range(0, len(texts), _TAP_BATCH):
            batch = texts[start : start + _TAP_BATCH]
            longest = max(len(text.token_ids) for text in batch)
            ids = torch.zeros(len(batch), longest, dtype=torch.int64)
            mask = torch.zeros(len(batch), longest, dtype=torch.int64)
            for row, text in enumerate(batch):
                ids[row, : len(text.token_ids)] = torch.tensor(text.token_ids)
                mask[row, : len(text.token_ids)] = 1
            with tap(self._model, layer_index=self.layer_index) as captured:
                self._model(
                    input_ids=ids.to(self._device),
                    attention_mask=mask.to(self._device),
                    use_cache=False,
                )
            parts.append(_wanted(captured.activations.cpu(), batch))
        raw = torch.cat(parts)
        norms = torch.linalg.vector_norm(raw, dim=-1)
        return Captured(activations=raw.numpy(), norms=norms.numpy())


def _kind(device: torch.device, dtype: torch.dtype) -> str:
    return f"{device.type}, {str(dtype).removeprefix('torch.')}"


def _wanted(rows: torch.Tensor, batch: Sequence[TextToRead]) -> torch.Tensor:
    """Of all rows of a batch's texts, [tokens, d], those at the wanted positions."""
    wanted, start = [], 0
    for text in batch:
        wanted += [start + position for position in text.positions]
        start += len(text.token_ids)
    return rows[torch.tensor(wanted, dtype=torch.int64)]
