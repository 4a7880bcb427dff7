"""The demo's run: one shipped story's activations through the embedded pair. No rendering."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gloss_engine import (
    EngineConfig,
    Explanation,
    SamplingParams,
    VerbalizeRequest,
    load_engine,
)
from gloss_server.command_error import CommandError
from gloss_server.embedded import EmbeddedPair


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One activation of the story and what was made of it.

    Attributes:
        token: it was read on.
        before: the story before that token.
        facts: what the story had said by then.
        explanations: one per sample.
    """

    token: str
    before: str
    facts: tuple[str, ...]
    explanations: tuple[Explanation, ...]


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """A story and its explanations.

    Attributes:
        story, num_stories: which one, from 1.
        text: the story up to its last shipped activation.
        readings: in the order of the text.
        layer_index: layer the activations were read at, or None.
        seed: of the draws.
        seconds: spent explaining, loading apart.
    """

    story: int
    num_stories: int
    text: str
    readings: tuple[Reading, ...]
    layer_index: int | None
    seed: int
    seconds: float

    @property
    def num_explanations(self) -> int:
        """Explanations in all readings."""
        return sum(len(reading.explanations) for reading in self.readings)

    @property
    def mean_fve(self) -> float | None:
        """Mean over scored explanations; None where there is none."""
        values = [e.fve for r in self.readings for e in r.explanations if e.fve is not None]
        return float(np.mean(values)) if values else None


def run_demo(pair: EmbeddedPair, story: int, num_samples: int, seed: int) -> DemoResult:
    """Explain the shipped activations of one held-out story.

    Args:
        pair: the shipped files.
        story: from 1.
        num_samples: explanations per activation.
        seed: of the draws.

    Raises:
        CommandError: no such story.
        GlossError: a setting that cannot be used.
    """
    sampling = SamplingParams(seed=seed)
    table = pq.read_table(pair.activations)
    stories = table["doc_id"].unique().to_pylist()
    if not 1 <= story <= len(stories):
        raise CommandError(f"--story: got {story}, expected 1 to {len(stories)}")
    rows = table.filter(pc.equal(table["doc_id"], stories[story - 1]))
    engine = load_engine(pair.av, pair.ar, EngineConfig(max_new_tokens=sampling.max_new_tokens))
    started = time.perf_counter()
    explanations = engine.verbalize(_request(rows, num_samples, sampling))
    seconds = time.perf_counter() - started
    return DemoResult(
        story=story,
        num_stories=len(stories),
        text=rows["text"][len(rows) - 1].as_py(),
        readings=_readings(rows, explanations, num_samples),
        layer_index=engine.facts.layer_index,
        seed=seed,
        seconds=seconds,
    )


def _request(rows: pa.Table, num_samples: int, sampling: SamplingParams) -> VerbalizeRequest:
    vectors = rows["activation_vector"].combine_chunks().flatten().to_numpy()
    layers = rows["activation_layer"].unique().to_pylist()
    return VerbalizeRequest(
        activations=vectors.reshape(len(rows), -1),
        num_samples=num_samples,
        sampling=sampling,
        positions=tuple(rows["position"].to_pylist()),
        token_ids=tuple(rows["token_id"].to_pylist()),
        layer_index=layers[0],
    )


def _readings(
    rows: pa.Table, explanations: list[Explanation], num_samples: int
) -> tuple[Reading, ...]:
    columns = zip(
        rows["token"].to_pylist(),
        rows["text"].to_pylist(),
        rows["facts"].to_pylist(),
        strict=True,
    )
    return tuple(
        Reading(
            token=token,
            before=text.removesuffix(token),
            facts=tuple(str(value) for value in json.loads(facts).values()),
            explanations=tuple(explanations[index * num_samples : (index + 1) * num_samples]),
        )
        for index, (token, text, facts) in enumerate(columns)
    )
