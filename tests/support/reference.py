"""What the engine is compared with: transformers, driven the slow and plain way.

Shares nothing with the engine's own loading: the prompt is rendered, encoded and searched for the
marker here, and every text runs alone, unpadded.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

CLOSING_TAG = "</explanation>"
TIE = 1e-4
"""Two logits nearer than this may come out in either order from another order of float32 sums."""


def _load_model(directory: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def text_model(model: Any) -> Any:
    """The stack of blocks of a plain or wrapped model."""
    inner = model.model
    return getattr(inner, "language_model", inner)


class ReferenceVerbalizer:
    """An AV run by transformers' `generate` over input embeddings.

    Attributes:
        model, tokenizer: as transformers loads them.
        ids: the canonical prompt; marker_position: where the activation goes.
        eos_ids: from generation_config, config and tokenizer.
    """

    def __init__(self, directory: Path) -> None:
        self.model = _load_model(directory)
        self.tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        meta = yaml.safe_load((directory / "nla_meta.yaml").read_text())
        self.scale = float(meta["extraction"]["injection_scale"])
        template = meta["prompt_templates"]["av"]
        char = meta["tokens"]["injection_char"]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": template.replace("{injection_char}", char)}],
            tokenize=False,
            add_generation_prompt=True,
        )
        self.ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        self.marker_position = self.ids.index(meta["tokens"]["injection_token_id"])
        assert self.ids.count(meta["tokens"]["injection_token_id"]) == 1
        eos = self.model.generation_config.eos_token_id
        self.eos_ids = {eos} if isinstance(eos, int) else set(eos)
        self.eos_ids.add(self.tokenizer.eos_token_id)

    @torch.no_grad()
    def embeds(self, activations: Tensor) -> Tensor:
        """[n, prompt length, d_model] the prompt's embeddings with the activations injected."""
        ids = torch.tensor([self.ids]).expand(activations.shape[0], -1)
        embeds = self.model.get_input_embeddings()(ids).clone()
        unit = activations / activations.norm(dim=-1, keepdim=True)
        embeds[:, self.marker_position] = unit * self.scale
        return embeds

    @torch.no_grad()
    def generate(
        self, embeds: Tensor, max_new_tokens: int, *, repetition_penalty: float = 1.0
    ) -> list[list[int]]:
        """Greedy tokens of each row, up to and with the one that ends it."""
        with warnings.catch_warnings():
            # Given embeddings, the penalty sees generated tokens only: just what we compare with.
            warnings.filterwarnings("ignore", "Passing `repetition_penalty` with `inputs_embeds`")
            rows = self.model.generate(
                inputs_embeds=embeds,
                attention_mask=torch.ones(embeds.shape[:2], dtype=torch.int64),
                do_sample=False,
                max_new_tokens=max_new_tokens,
                repetition_penalty=repetition_penalty,
                eos_token_id=sorted(self.eos_ids),
                pad_token_id=0,
            )
        return [self.cut(row) for row in rows.tolist()]

    def generate_uncached(self, embeds: Tensor, max_new_tokens: int) -> list[list[int]]:
        """`generate` for wrapped models, whose own refuses embeddings: a whole pass a token."""
        rows = []
        for row in embeds:
            tokens: list[int] = []
            while len(tokens) < max_new_tokens and not self.eos_ids & set(tokens):
                tokens.append(int(self.logits(row, tokens)[-1].argmax()))
            rows.append(self.cut(tokens))
        return rows

    def cut(self, tokens: list[int]) -> list[int]:
        """Tokens up to and with the first that is an end of sequence or completes the tag."""
        for count, token in enumerate(tokens, 1):
            if token in self.eos_ids or CLOSING_TAG in self.tokenizer.decode(tokens[:count]):
                return tokens[:count]
        return tokens

    @torch.no_grad()
    def logits(self, embeds: Tensor, tokens: list[int]) -> Tensor:
        """[len(tokens) + 1, vocab_size] logits of one row after 0, 1, .. of its tokens.

        Args:
            embeds: [prompt length, d_model].
        """
        if tokens:
            told = self.model.get_input_embeddings()(torch.tensor(tokens))
            embeds = torch.cat((embeds, told))
        out = self.model(inputs_embeds=embeds.unsqueeze(0))
        return out.logits[0, len(self.ids) - 1 :].float()

    def ties_at_first_difference(
        self, embeds: Tensor, mine: list[int], theirs: list[int], *, penalty: float = 1.0
    ) -> bool:
        """False if both are the same, True if they part at a tie.

        Raises:
            AssertionError: they part where the two logits are no tie.
        """
        if mine == theirs:
            return False
        parted = [
            at for at, pair in enumerate(zip(mine, theirs, strict=False)) if pair[0] != pair[1]
        ]
        assert parted, f"one ends where the other goes on: {len(mine)} and {len(theirs)} tokens"
        at = parted[0]
        logits = self.logits(embeds, theirs[:at])[-1]
        seen = torch.tensor(sorted(set(theirs[:at])), dtype=torch.int64)
        told = logits[seen]
        logits[seen] = torch.where(told > 0, told / penalty, told * penalty)
        top = logits.topk(2)
        gap = float(top.values[0] - top.values[1])
        both = {mine[at], theirs[at]}
        assert both == set(top.indices.tolist()) and gap < TIE, (
            f"token {at}: got {mine[at]}, expected {theirs[at]}, {gap:.2g} apart from the next"
        )
        return True


class ReferenceReconstructor:
    """An AR run by transformers, one unpadded text at a time."""

    def __init__(self, directory: Path) -> None:
        self.model = _load_model(directory)
        self.tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        meta = yaml.safe_load((directory / "nla_meta.yaml").read_text())
        self.head, self.tail = meta["prompt_templates"]["ar"].split("{explanation}")
        value_head = load_file(directory / "value_head.safetensors")
        self.weight, self.bias = value_head["weight"], value_head.get("bias")

    @torch.no_grad()
    def vector(self, text: str) -> Tensor:
        """[d_model]: output of the last block (no final norm) at the last token, times the head."""
        ids = self.tokenizer(self.head + text + self.tail, add_special_tokens=True)["input_ids"]
        bos = self.tokenizer.bos_token_id
        assert bos is None or (ids[0] == bos and ids[1] != bos)
        kept: list[Tensor] = []
        stack = text_model(self.model)

        def keep(module: Any, args: Any, output: Any) -> None:
            kept.append(output[0] if isinstance(output, tuple) else output)

        handle = stack.layers[-1].register_forward_hook(keep)
        try:
            stack(input_ids=torch.tensor([ids]))
        finally:
            handle.remove()
        return torch.nn.functional.linear(kept[0][0, -1], self.weight, self.bias)
