"""Rollouts from the engine: whole, repeatable, with the trainer's weights; log-probabilities are
those of transformers on the whole prompt, after updates too, whatever is drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gloss_engine.errors import WeightsError
from gloss_server.embedded import embedded_pair
from gloss_training.errors import RolloutError, TrainingError
from gloss_training.rl.rollout import Rollout
from gloss_training.rl.sampler import Sampler
from gloss_training.rl.settings import RlSettings
from support.checkpoints import Pair as Directories
from support.checkpoints import write_av
from support.engine_runs import activations, assert_idle, small_engine
from support.reference import ReferenceVerbalizer

HEAT = 1.3
SETTINGS = RlSettings(samples_per_prompt=3, max_new_tokens=24, temperature=HEAT)


@dataclass
class Weights:
    """As much of a pair as `load` reads: a transformers model."""

    model: Any

    def av_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Its parameters; those of a tied head come once."""
        return self.model.named_parameters()


def logprobs(reference: ReferenceVerbalizer, rollout: Rollout) -> list[Tensor]:
    """Log-probabilities of each response by a whole, unshared pass for each alone."""
    embeds = reference.embeds(rollout.activations)
    found = []
    for place, ids in enumerate(rollout.response_ids):
        row = embeds[place // rollout.samples_per_prompt]
        logits = reference.logits(row.to(reference.model.dtype), list(ids))[:-1]
        chosen = torch.tensor(ids)[:, None]
        found.append((logits / HEAT).log_softmax(-1).gather(1, chosen)[:, 0])
    return found


def differences(reference: ReferenceVerbalizer, rollout: Rollout) -> Tensor:
    """The trainer's log-probability minus the engine's, of every token."""
    mine = [torch.tensor(row) for row in rollout.logprobs]
    return torch.cat(logprobs(reference, rollout)) - torch.cat(mine)


@torch.no_grad()
def train(model: Any, seed: int) -> None:
    """Move every weight by a tenth of its spread."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        spread = parameter.std() if parameter.numel() > 1 else torch.tensor(1.0)
        parameter.add_(0.1 * spread * noise)


@torch.no_grad()
def make_likely(model: Any, token: int, like: int) -> None:
    """Give a token the logits of another."""
    head = model.get_output_embeddings().weight
    head[token] = head[like]


def test_log_probabilities_after_an_update(pair: Directories, arch: str) -> None:
    """By a formulation of its own; `test_rollout_parity.py` has the trainer's."""
    reference = ReferenceVerbalizer(pair.av)
    sampler = Sampler(small_engine(pair.av, num_slots=4, max_new_tokens=12))
    rows = activations(3, reference.model.config.hidden_size)
    train(reference.model, seed=2)
    settings = replace(SETTINGS, samples_per_prompt=2, max_new_tokens=12)
    before = sampler.sample(rows, 1, settings)
    assert differences(reference, before).abs().max() > 0.1
    assert sampler.load(Weights(reference.model)) == 0.0
    rollout = sampler.sample(rows, 1, settings)
    assert len(rollout) == 6
    assert differences(reference, rollout).abs().max() < 1e-4
    assert_idle(sampler.engine)


def test_injecting_by_token_id_would_show(pairs: dict[str, Directories]) -> None:
    """The tolerance above is no accident: a trainer that looks for the marker is nats away."""
    reference = ReferenceVerbalizer(pairs["qwen2"].av)
    sampler = Sampler(small_engine(pairs["qwen2"].av, num_slots=8))
    marker = reference.ids[reference.marker_position]
    rows = activations(4, 72)
    often = Counter(t for ids in sampler.sample(rows, 1, SETTINGS).response_ids for t in ids)
    make_likely(reference.model, marker, often.most_common(1)[0][0])
    sampler.load(Weights(reference.model))
    rollout = sampler.sample(rows, 1, SETTINGS)
    place = next(p for p, ids in enumerate(rollout.response_ids) if marker in ids[:-1])
    ids = list(rollout.response_ids[place])
    row = reference.embeds(rows)[place // 3]
    told = reference.model.get_input_embeddings()(torch.tensor(ids))
    told[torch.tensor(ids) == marker] = row[reference.marker_position]
    with torch.no_grad():
        logits = reference.model(inputs_embeds=torch.cat((row, told))[None]).logits[0]
    by_id = (logits[len(reference.ids) - 1 : -1] / HEAT).log_softmax(-1)
    chosen = by_id.gather(1, torch.tensor(ids)[:, None])[:, 0]
    assert (chosen - torch.tensor(rollout.logprobs[place])).abs().max() > 0.5


def test_a_wrapped_model_loads_too(tmp_path: Path) -> None:
    directory = write_av(tmp_path / "av", "gemma3", wrapped=True)
    reference = ReferenceVerbalizer(directory)
    sampler = Sampler(small_engine(directory))
    train(reference.model, seed=2)
    sampler.load(Weights(reference.model))
    rollout = sampler.sample(activations(2, 72), 1, SETTINGS)
    assert differences(reference, rollout).abs().max() < 1e-4


class TestEmbedded:
    """The pair that ships: it was trained, so its responses close and its logits mean something."""

    @pytest.fixture
    def rows(self, story_rows: Any) -> Tensor:
        return torch.tensor(story_rows[:6])

    @pytest.fixture
    def sampler(self) -> Sampler:
        settings = RlSettings(prompts_per_step=4, samples_per_prompt=3, max_new_tokens=24)
        return Sampler.of(embedded_pair().av, settings, device="cpu")

    def test_a_rollout_is_whole_and_repeatable(self, sampler: Sampler, rows: Tensor) -> None:
        settings = replace(SETTINGS, max_new_tokens=24, temperature=1.0)
        rollout = sampler.sample(rows, 7, settings, rows=torch.tensor([9, 8, 7, 6, 5, 4]))
        again = sampler.sample(rows, 7, settings)
        assert (rollout.response_ids, rollout.logprobs) == (again.response_ids, again.logprobs)
        other = sampler.sample(rows, 8, settings)
        assert rollout.response_ids != other.response_ids
        assert rollout.rows.tolist() == [9, 8, 7, 6, 5, 4] and again.rows.tolist() == [*range(6)]
        assert torch.equal(rollout.activations, rows)
        assert len(rollout) == len(rollout.logprobs) == len(rollout.is_valid) == 18
        assert rollout.seconds > 0
        tokenizer = sampler.engine.reader.tokenizer
        for place, ids in enumerate(rollout.response_ids):
            text = tokenizer.decode(ids)
            closed = "</explanation>" in text
            assert rollout.is_valid[place] is closed
            assert (rollout.explanations[place] != "") is closed
            assert rollout.explanations[place] in text
            assert len(rollout.logprobs[place]) == len(ids)
        assert any(rollout.is_valid)

    def test_a_used_sampler_is_a_fresh_one_after_a_load(
        self, sampler: Sampler, rows: Tensor
    ) -> None:
        """To the bit, as exact resumption needs it, and as the stages run on a CPU."""
        model = ReferenceVerbalizer(embedded_pair().av).model
        torch.use_deterministic_algorithms(True)
        try:
            sampler.sample(rows, 1, SETTINGS)
            train(model, seed=1)
            sampler.load(Weights(model))
            sampler.sample(rows[:5], 2, SETTINGS)
            train(model, seed=2)
            settings = RlSettings(prompts_per_step=4, samples_per_prompt=3, max_new_tokens=24)
            fresh = Sampler.of(embedded_pair().av, settings, device="cpu")
            found = []
            for one in (sampler, fresh):
                one.load(Weights(model))
                rollout = one.sample(rows, 3, SETTINGS)
                found.append((rollout.response_ids, rollout.logprobs))
        finally:
            torch.use_deterministic_algorithms(False)
        assert found[0] == found[1]

    def test_what_is_cut_off_is_not_valid(self, sampler: Sampler, rows: Tensor) -> None:
        rollout = sampler.sample(rows[:2], 7, replace(SETTINGS, max_new_tokens=2))
        assert not any(rollout.is_valid) and set(rollout.explanations) == {""}
        assert {len(ids) for ids in rollout.response_ids} == {2}

    def test_there_is_room_for_a_ranks_rollout(self, sampler: Sampler) -> None:
        assert sampler.engine.scheduler.num_slots == 12
        settings = RlSettings(prompts_per_step=4, samples_per_prompt=3, max_new_tokens=24)
        shared = Sampler.of(embedded_pair().av, settings, device="cpu", num_ranks=2)
        assert shared.engine.scheduler.num_slots == 6

    def test_an_activation_is_prefilled_once_and_the_prefix_never(
        self, sampler: Sampler, rows: Tensor
    ) -> None:
        engine = sampler.engine
        before, facts = engine.stats(), engine.facts
        sampler.sample(rows, 7, SETTINGS)
        after = engine.stats()
        assert after.prefill_tokens - before.prefill_tokens == 6 * facts.suffix_len
        reused = after.prefix_tokens_reused - before.prefix_tokens_reused
        assert reused == 6 * facts.prefix_len > 0

    def test_samples_do_not_hang_on_the_batch(self, sampler: Sampler, rows: Tensor) -> None:
        whole = sampler.sample(rows, 7, SETTINGS)
        alone = sampler.sample(rows[:2], 7, SETTINGS)
        assert whole.response_ids[:6] == alone.response_ids

    def test_rows_that_cannot_be_explained_end_the_rollout(
        self, sampler: Sampler, rows: Tensor
    ) -> None:
        for spoiled in (torch.zeros(128), torch.full((128,), torch.nan)):
            said = "for 3 of 6 responses.*of activation 1.* Lower rl.av_learning_rate"
            with pytest.raises(RolloutError, match=said) as ended:
                sampler.sample(torch.stack((rows[0], spoiled)), 7, SETTINGS)
            # What the command says in a line, rather than as a traceback.
            assert isinstance(ended.value, TrainingError)
            assert_idle(sampler.engine)

    def test_weights_that_change_while_they_are_copied_are_noticed(self, sampler: Sampler) -> None:
        model = ReferenceVerbalizer(embedded_pair().av).model

        class Changing(Weights):
            def av_weights(self) -> Iterator[tuple[str, Tensor]]:
                with torch.no_grad():
                    self.model.model.norm.weight += 1e-3
                return super().av_weights()

        with pytest.raises(RolloutError, match="the trainer's"):
            sampler.load(Changing(model))
        sampler.load(Weights(model))

    def test_another_models_weights_are_refused(
        self, sampler: Sampler, pairs: dict[str, Directories]
    ) -> None:
        with pytest.raises(WeightsError, match="weights of the AV"):
            sampler.load(Weights(ReferenceVerbalizer(pairs["qwen3"].av).model))
