"""The stage `rl`: AV and AR trained on what the AV itself says."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from gloss_training.dataset.rows import Rows
from gloss_training.errors import Declined
from gloss_training.models.lora_pair import AV
from gloss_training.models.reconstructor import encode_explanations
from gloss_training.release.pair import save_pair
from gloss_training.rl.sampler import Sampler
from gloss_training.rl.task import RlTask
from gloss_training.rl.trainer import train_rl
from gloss_training.run.context import Context
from gloss_training.stages.data import teacher_of
from gloss_training.stages.pairs import rl_pair
from gloss_training.storage.checkpoints import latest_step
from gloss_training.teachers.judging import Judge, rollout_judge


def make_rl(run: Context) -> dict[str, Any]:
    """Trains AV and AR on the AV's own explanations; the last step's figures."""
    settings, root = run.config.rl, run.folder.root
    tokenizer, pair = run.tokenizer(), rl_pair(run)
    sampler = Sampler.of(
        root / AV,
        settings,
        device=run.device.type,
        dtype=run.config.dtype,
        num_ranks=run.ranks.count,
    )
    rows = run.rows("rl")
    with ExitStack() as open_things:
        judge = None
        if settings.reward.judge:
            hired: list[Judge] = []
            run.ranks.first(lambda: hired.append(open_things.enter_context(_hired(run, rows))))
            judge = rollout_judge(hired[0] if hired else None, rows, run.ranks)
        task = RlTask(
            activations=rows.activations,
            texts=rows.texts,
            injection_scale=run.statistics().injection_scale,
            fve_baseline=run.statistics().fve_baseline,
            encode=lambda texts: encode_explanations(
                tokenizer, run.config.prompt.ar_template, texts
            ),
            judge=judge,
        )
        journal = open_things.enter_context(run.journal("rl", settings.num_steps))
        figures = train_rl(
            pair,
            sampler,
            task,
            settings,
            seed=run.config.seed,
            folder=run.folder.checkpoints("rl"),
            progress=journal,
            ranks=run.ranks,
        )
    save_pair(
        pair,
        tokenizer,
        run.facts(pair.model),
        root / "rl",
        base=str(run.target),
        dtype=run.dtype,
        ranks=run.ranks,
    )
    return figures


def _hired(run: Context, rows: Rows) -> Judge:
    """The judge, once what it will take is confirmed; of several ranks the first one's.

    Raises:
        Declined: it was not.
    """
    settings = run.config.rl
    answers = run.folder.root / "judgements.jsonl"
    judge = Judge(teacher_of(run.config, answers, settings=run.config.judge))
    passages = [rows.passage(row) for row in range(min(len(rows), settings.prompts_per_step))]
    num_steps = settings.num_steps - latest_step(run.folder.checkpoints("rl"))
    count = num_steps * settings.prompts_per_step * settings.samples_per_prompt
    with ExitStack() as undo:
        undo.callback(judge.close)
        if not run.confirm(judge.estimate(passages, count)):
            raise Declined("not confirmed: no explanation was judged and nothing was trained")
        undo.pop_all()
    return judge
