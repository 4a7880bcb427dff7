"""The AR: explanations to vectors. Packed without padding, the template's prefix computed once.

Text goes through blocks 0 .. K without a final norm; the hidden state of the last token times the
value head is the reconstruction. Comparing it with an activation is the scorer's work.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from gloss_engine.ar.template import ReconstructorTemplate
from gloss_engine.checkpoint import (
    load_tokenizer,
    load_value_head,
    read_spec,
    stream_weights,
)
from gloss_engine.errors import CheckpointError, RequestError
from gloss_engine.models.batch import ForwardBatch, Prefix
from gloss_engine.models.decoder import Decoder
from gloss_engine.sidecar import Sidecar, read_sidecar
from gloss_engine.transfer import send
from gloss_kernels import Operations, PackedPlan

MAX_PROMPT_TOKENS = 4096
"""Longest AR prompt; an explanation of 200 tokens makes about 230."""


class Reconstructor:
    """Runs an AR.

    Attributes:
        sidecar: the checkpoint's.
        max_prompt_tokens: longest prompt it runs.
        num_tokens: tokens run so far, prefix included once.
    """

    def __init__(
        self,
        decoder: Decoder,
        template: ReconstructorTemplate,
        value_head: tuple[Tensor, Tensor | None],
        sidecar: Sidecar,
    ) -> None:
        self.decoder, self.template, self.sidecar = decoder, template, sidecar
        weight, bias = value_head
        self._weight = weight.to(decoder.device, torch.float32)
        self._bias = None if bias is None else bias.to(decoder.device, torch.float32)
        self.max_prompt_tokens = decoder.rope_tables[0].shape[0]
        self._prefix: Prefix | None = None
        self.num_tokens = 0
        self.refresh_prefix()

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        operations: Operations,
        device: torch.device,
        dtype: torch.dtype,
        quantization: str = "none",
    ) -> Reconstructor:
        """Load an AR directory in the released layout; options as of `Decoder`.

        Raises:
            CheckpointError: anything about it that does not hold together.
        """
        sidecar, spec = read_sidecar(directory), read_spec(directory)
        check_ar(directory, sidecar, spec.d_model, spec.num_layers)
        template = ReconstructorTemplate.build(load_tokenizer(directory), sidecar)
        decoder = Decoder(
            spec,
            num_layers=spec.num_layers,
            max_positions=MAX_PROMPT_TOKENS,
            operations=operations,
            device=device,
            dtype=dtype,
            quantization=quantization,
        )
        stream_weights(directory, decoder.targets())
        decoder.pack()
        return cls(decoder, template, load_value_head(directory, spec.d_model), sidecar)

    def value_head(self) -> dict[str, Tensor]:
        """The head's tensors by their names, float32."""
        named = {"value_head.weight": self._weight, "value_head.bias": self._bias}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @torch.inference_mode()
    def refresh_prefix(self) -> None:
        """Compute the template's prefix again; needed after the weights changed."""
        ids = self.template.prefix_ids
        self._prefix = None
        if ids:
            self._prefix = self.decoder.compute_prefix(
                torch.tensor(ids, device=self.decoder.device)
            )
            self.num_tokens += len(ids)

    @torch.inference_mode()
    def reconstruct(self, texts: Sequence[str]) -> Tensor:
        """Vectors of explanations.

        Args:
            texts: explanations; empty ones are allowed.

        Returns:
            [n, d_model] float32, unnormalised.

        Raises:
            RequestError: a text too long for the AR.
        """
        prompts = self.template.encode(texts)
        for index, prompt in enumerate(prompts):
            if len(prompt) > self.max_prompt_tokens:
                raise RequestError(
                    "TEXT_TOO_LONG",
                    f"texts[{index}]",
                    f"texts[{index}]: got a prompt of {len(prompt)} tokens, expected at most "
                    f"{self.max_prompt_tokens}. Shorten the text.",
                )
        return self.reconstruct_ids(prompts)

    @torch.inference_mode()
    def reconstruct_ids(self, prompts: list[list[int]]) -> Tensor:
        """Vectors of encoded prompts, [n, d_model] float32.

        Args:
            prompts: from `template.encode`, each of at most `max_prompt_tokens` ids.
        """
        out = torch.empty(len(prompts), self.decoder.spec.d_model, device=self.decoder.device)
        sharing = [self._prefix is not None and self.template.shares_prefix(p) for p in prompts]
        for shared in (True, False):
            chosen = [index for index, shares in enumerate(sharing) if shares == shared]
            if not chosen:
                continue
            prefix = self._prefix if shared else None
            start = len(prefix) if prefix is not None else 0
            rows = [prompts[index][start:] for index in chosen]
            out[send(chosen, out.device)] = self._run(rows, prefix, start)
        return out

    def _run(self, rows: list[list[int]], prefix: Prefix | None, start: int) -> Tensor:
        """Queue one packed forward; rows are the ids after the prefix, each at least one."""
        device = self.decoder.device
        lengths = [len(row) for row in rows]
        assert max(lengths) + start <= self.max_prompt_tokens
        ends = send(list(accumulate(lengths, initial=0)), device)
        ids = send([token for row in rows for token in row], device)
        packed = PackedPlan(ends, num_tokens=ids.shape[0], max_seqlen=max(lengths))
        within = torch.arange(ids.shape[0], device=device) - packed.starts
        batch = ForwardBatch(
            positions=within + start, packed=packed, prefix=prefix, wanted=ends[1:] - 1
        )
        last = self.decoder.forward(self.decoder.embed(ids), batch)
        self.num_tokens += ids.shape[0]
        return torch.nn.functional.linear(last.float(), self._weight, self._bias)


def check_ar(directory: Path, sidecar: Sidecar, hidden_size: int, num_layers: int) -> None:
    """Refuse a directory that is no AR, or whose sidecar contradicts its config.

    Raises:
        CheckpointError: role, width or depth that do not agree.
    """
    if sidecar.role != "ar":
        raise CheckpointError(
            f"{directory.name}: role",
            got=sidecar.role,
            expected="ar",
            fix="Pass this directory as --av, and the reconstructor as --ar.",
        )
    if sidecar.d_model != hidden_size:
        raise CheckpointError(
            f"{directory.name}: d_model",
            got=f"{sidecar.d_model} in the sidecar",
            expected=f"the config's hidden_size {hidden_size}",
            fix="Sidecar and weights belong to different models.",
        )
    if sidecar.layer_index is not None and num_layers != sidecar.layer_index + 1:
        raise CheckpointError(
            f"{directory.name}: num_hidden_layers",
            got=num_layers,
            expected=f"K + 1 = {sidecar.layer_index + 1} for layer K = {sidecar.layer_index}",
            fix="K is the output of block K (hidden_states[K + 1]); one of both is off by one.",
        )
