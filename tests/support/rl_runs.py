"""RL on models of a few thousand weights: no tokenizer, no engine, texts of numbers.

An explanation is its tokens as decimal numbers. A sampled id that is a multiple of CLOSING closes a
response; so untrained models close some of theirs and leave others open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gloss_training.batches import pad_right
from gloss_training.models.decoder import Decoder
from gloss_training.models.full_pair import FullPair
from gloss_training.models.pair import Pair
from gloss_training.models.prompts import MarkedPrompt
from gloss_training.models.reconstructor import from_target
from gloss_training.models.verbalizer import injected_rows
from gloss_training.rl.rollout import Rollout
from gloss_training.rl.settings import RlSettings
from gloss_training.rl.task import RlTask
from gloss_training.scoring import strict_baseline
from support.models_made import make_config, make_model

VOCABULARY = 60
CLOSING = 6
INJECTION_SCALE = 6.0
PROMPT = MarkedPrompt(token_ids=(5, 6, 7, 1, 8, 9), marker_index=3)
SETTINGS = RlSettings(
    num_steps=4,
    prompts_per_step=3,
    samples_per_prompt=4,
    max_new_tokens=7,
    av_learning_rate=1e-3,
    ar_learning_rate=1e-3,
    num_warmup_steps=2,
    micro_batch=5,
    vocabulary_chunk=32,
    max_skipped=2,
    checkpoint_every=2,
)


def make_pair(
    arch: str = "qwen3",
    *,
    num_layers: int = 2,
    wrapped: bool = False,
    gradient_checkpointing: bool = False,
) -> FullPair:
    """A pair of random models; equal arguments, equal weights."""
    model, reference, target = (
        make_model(
            arch,
            make_config(arch, num_layers=num_layers, vocab_size=VOCABULARY, tied=arch == "gemma3"),
            seed=seed,
            wrapped=wrapped,
        )
        for seed in (0, 0, 1)
    )
    av = Decoder(model, is_checkpointed=gradient_checkpointing)
    return FullPair(av, Decoder(reference), from_target(target, 1), PROMPT)


def encode(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """AR inputs: two ids before an explanation's own and one after them."""
    rows = [[2, 3, *(int(word) for word in text.split()), 4] for text in texts]
    return pad_right(rows, 0), torch.tensor([len(row) for row in rows])


def make_task(width: int, *, judge: Callable[[Rollout], Tensor] | None = None) -> RlTask:
    """Twenty random activations."""
    activations = torch.randn(20, width, generator=torch.Generator().manual_seed(9))
    return RlTask(
        activations=activations,
        texts=tuple(f"text {row}" for row in range(20)),
        injection_scale=INJECTION_SCALE,
        fve_baseline=strict_baseline(activations),
        encode=encode,
        judge=judge,
    )


class PairSampler:
    """Samples from the pair's own AV, a token at a time, each from all before it.

    Args:
        pair: its weights are the ones that sample; nothing is copied.
        closes: whether responses are ever closed.
    """

    def __init__(self, pair: Pair, *, closes: bool = True) -> None:
        self.pair, self.closes = pair, closes
        self.num_loads = 0
        self.rows: list[list[int]] = []

    def load(self, pair: Pair) -> float:
        assert pair is self.pair
        self.num_loads += 1
        return 0.0

    @torch.no_grad()
    def sample(
        self, activations: Tensor, seed: int, settings: RlSettings, rows: Tensor | None = None
    ) -> Rollout:
        assert rows is not None
        self.rows.append(rows.tolist())
        generator = torch.Generator().manual_seed(seed)
        injected = injected_rows(activations, INJECTION_SCALE).repeat_interleave(
            settings.samples_per_prompt, dim=0
        )
        ids = torch.zeros(len(injected), 1, dtype=torch.int64)
        logprobs = torch.zeros(len(injected), 0)
        for _ in range(settings.max_new_tokens):
            states = self.pair.response_states(injected, ids)[:, -1]
            each = (self.pair.logits(states) / settings.temperature).log_softmax(-1)
            drawn = torch.multinomial(each.exp(), 1, generator=generator)
            logprobs = torch.cat([logprobs, each.gather(1, drawn)], dim=1)
            ids = torch.cat([ids[:, :-1], drawn, torch.zeros_like(drawn)], dim=1)
        return self._rollout(activations, rows, settings, ids[:, :-1], logprobs)

    def _rollout(
        self,
        activations: Tensor,
        rows: Tensor,
        settings: RlSettings,
        ids: Tensor,
        logprobs: Tensor,
    ) -> Rollout:
        found, kept, texts, is_valid = [], [], [], []
        for row, values in zip(ids.tolist(), logprobs.tolist(), strict=True):
            closing = [i for i, token in enumerate(row) if token % CLOSING == 0 and self.closes]
            length = closing[0] + 1 if closing else len(row)
            found.append(tuple(row[:length]))
            kept.append(tuple(values[:length]))
            is_valid.append(bool(closing))
            texts.append(" ".join(str(token) for token in row[: length - 1]) if closing else "")
        return Rollout(
            rows=rows,
            activations=activations,
            samples_per_prompt=settings.samples_per_prompt,
            response_ids=tuple(found),
            logprobs=tuple(kept),
            explanations=tuple(texts),
            is_valid=tuple(is_valid),
            seconds=0.5,
        )


def weights_of(pair: FullPair) -> dict[str, Tensor]:
    """A copy of all that is trained, by name."""
    av = {f"av.{name}": weight.clone() for name, weight in pair.av_weights()}
    return av | {f"ar.{name}": weight.clone() for name, weight in pair.ar_weights()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Whether all tensors are equal to the bit."""
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def without_valid(rollout: Rollout, failed: Sequence[int]) -> Rollout:
    """The rollout with some of its responses made failed ones."""
    return replace(
        rollout,
        is_valid=tuple(ok and i not in failed for i, ok in enumerate(rollout.is_valid)),
        explanations=tuple(
            "" if i in failed else text for i, text in enumerate(rollout.explanations)
        ),
    )
