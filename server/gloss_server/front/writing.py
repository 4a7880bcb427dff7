"""Results of the engine to messages of the contract."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from gloss_api.v1 import gloss_pb2 as pb
from gloss_engine import request
from gloss_engine.info import ModelInfo
from gloss_engine.request import Explanation, TextResult
from gloss_engine.text_request import SKIP_REASONS, TokenPlace
from gloss_server.front.call_error import item_status
from gloss_server.front.run import Run
from gloss_server.front.tensor import encode_rows
from gloss_server.front.token_texts import TokenTexts

FINISH_REASONS: dict[str, pb.FinishReason] = {
    reason: getattr(pb, f"FINISH_REASON_{reason.upper()}") for reason in request.FINISH_REASONS
}
SKIPPED: dict[str, pb.SkipReason] = {
    reason: getattr(pb, f"SKIP_REASON_{reason.upper()}") for reason in SKIP_REASONS
}
_FLAGS: dict[str, pb.ExplanationFlag] = {
    name.removeprefix("EXPLANATION_FLAG_").lower(): getattr(pb, name)
    for name, _ in pb.ExplanationFlag.items()
}


def explanation_message(explanation: Explanation) -> pb.Explanation:
    """One explanation, or why there is none."""
    error = explanation.error
    return pb.Explanation(
        item_index=explanation.index,
        sample_index=explanation.sample,
        error=None if error is None else item_status(error),
        explanation=explanation.explanation,
        raw_text=explanation.raw_text,
        token_ids=explanation.token_ids,
        logprob=explanation.logprob,
        finish_reason=FINISH_REASONS[explanation.finish_reason],
        evidence=pb.Evidence(
            cosine=explanation.cosine,
            mse=explanation.mse,
            fve=explanation.fve,
            flags=[_FLAGS[flag] for flag in explanation.flags],
        ),
        lag_seconds=explanation.lag_seconds,
    )


def token_position(place: TokenPlace, texts: TokenTexts) -> pb.TokenPosition:
    """Where an activation stands in the target's text."""
    return pb.TokenPosition(
        position=place.position,
        token_id=place.token_id,
        token=texts.of(place.token_id),
        norm=place.norm,
        layer_index=place.layer_index,
    )


def verbalize_response(run: Run, request_id: str, info: ModelInfo) -> pb.VerbalizeResponse:
    """The reply of an ended run."""
    in_order = sorted(run.explanations, key=lambda e: (e.index, e.sample))
    return pb.VerbalizeResponse(
        request_id=request_id,
        fingerprint=info.fingerprint,
        seed=run.seed,
        explanations=[explanation_message(explanation) for explanation in in_order],
        usage=usage(run, info),
        timings=timings(run),
    )


def stream_start(run: Run, request_id: str, info: ModelInfo) -> pb.StreamStart:
    """What the first message says of a run."""
    return pb.StreamStart(request_id=request_id, fingerprint=info.fingerprint, seed=run.seed)


def stream_end(run: Run, info: ModelInfo) -> pb.StreamEnd:
    """The last message's summary of an ended run."""
    counts = Counter(explanation.finish_reason for explanation in run.explanations)
    return pb.StreamEnd(
        finish_counts=[
            pb.FinishCount(finish_reason=FINISH_REASONS[name], count=count)
            for name, count in counts.items()
        ],
        usage=usage(run, info),
        timings=timings(run),
    )


def usage(run: Run, info: ModelInfo) -> pb.Usage:
    """Tokens a run took."""
    return pb.Usage(
        prefill_tokens=run.num_started * info.suffix_tokens,
        prefix_tokens_reused=run.num_started * info.prefix_tokens,
        generated_tokens=run.num_tokens,
    )


def timings(run: Run) -> pb.Timings:
    """Where an ended run's time went; of a joined run, since its first call."""
    assert run.ended_at is not None
    started, first = run.started_at, run.first_token_at
    return pb.Timings(
        queue_seconds=(run.ended_at if started is None else started) - run.arrived,
        first_token_seconds=None if first is None else first - run.arrived,
        total_seconds=run.ended_at - run.arrived,
    )


def reconstruct_response(
    run: Run, info: ModelInfo, dtype: pb.TensorDtype
) -> pb.ReconstructResponse:
    """The reply of an ended run of texts."""
    rows = np.zeros((run.num_items, info.av.d_model), np.float32)
    for result in run.texts:
        if result.reconstruction is not None:
            rows[result.index] = result.reconstruction
    return pb.ReconstructResponse(
        fingerprint=info.fingerprint,
        activations=encode_rows(rows, dtype),
        failures=[
            pb.ItemFailure(item_index=result.index, error=item_status(result.error))
            for result in _in_order(run.texts)
            if result.error is not None
        ],
    )


def score_response(run: Run, info: ModelInfo) -> pb.ScoreResponse:
    """The reply of an ended run of comparisons."""
    return pb.ScoreResponse(
        fingerprint=info.fingerprint,
        results=[
            pb.ScoreResult(
                error=None if result.error is None else item_status(result.error),
                cosine=result.cosine,
                mse=result.mse,
                fve=result.fve,
            )
            for result in _in_order(run.texts)
        ],
    )


def _in_order(texts: Iterable[TextResult]) -> list[TextResult]:
    return sorted(texts, key=lambda result: result.index)
