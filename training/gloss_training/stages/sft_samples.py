"""What the AV says once it has learnt from the teacher, to be read: `samples/av.md`.

Rows and draws have streams of their own, so nothing that is trained hangs on them.
"""

from __future__ import annotations

from typing import Final

from gloss_engine.errors import GlossError
from gloss_training.evaluation.evaluate import choose_rows
from gloss_training.evaluation.explaining import Explainer
from gloss_training.learning.progress import Progress, Sample
from gloss_training.models.lora_pair import AV
from gloss_training.run.context import Context
from gloss_training.seeds import stream_seed

NUM_SHOWN: Final = 4
_STREAM: Final = "samples-av"


def tell_samples(run: Context, progress: Progress) -> None:
    """Explains a few held-out activations with the AV that the stage has saved.

    Where the engine cannot hold it beside what is there, or does not know it, the reason is said:
    the AV is made all the same.

    Raises:
        DiskError: they could not be written.
    """
    rows = run.rows("heldout")
    chosen = choose_rows(NUM_SHOWN, run.config.seed, len(rows), _STREAM)
    try:
        explainer = Explainer(
            run.folder.root / AV,
            run.config.evaluate.max_new_tokens,
            device=run.device.type,
            dtype=run.config.dtype,
            num_slots=NUM_SHOWN,
        )
    except GlossError as error:
        run.console.print(f"no samples of stage av: {error}", markup=False, soft_wrap=True)
        return
    seed = stream_seed(run.config.seed, _STREAM)
    found = explainer.explain(rows.activations[chosen], seed)
    samples = [
        Sample(
            text=rows.texts[row],
            explanation=text if is_closed else f"{text} (cut off)",
            figures={},
        )
        for row, text, is_closed in zip(chosen, found.texts, found.is_closed, strict=True)
    ]
    # Behind the last step, so that a stage that goes on from its last checkpoint writes them anew.
    progress.samples(run.config.av.num_steps, samples)
