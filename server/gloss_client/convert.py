"""The contract's messages of a reply as the values of `results.py`."""

from __future__ import annotations

from google.rpc import code_pb2, status_pb2

from gloss_api.v1 import gloss_pb2 as pb
from gloss_client.enums import FINISH_REASONS, FLAGS, name_of
from gloss_client.results import Explanation, ItemError, Score, TextDelta, TokenPlace, Usage
from gloss_client.status import read_details


def item_error(status: status_pb2.Status) -> ItemError:
    """Why an item failed."""
    known = status.code in code_pb2.Code.values()
    return ItemError(
        code=code_pb2.Code.Name(status.code) if known else "UNKNOWN",
        reason=read_details(status)[0],
        message=status.message,
    )


def token_place(message: pb.TokenPosition) -> TokenPlace:
    """Where an activation stands."""
    return TokenPlace(
        position=message.position,
        token_id=message.token_id,
        token=message.token,
        norm=message.norm,
        layer_index=message.layer_index,
    )


def explanation(message: pb.Explanation, first_index: int) -> Explanation:
    """An explanation; `first_index` is where its piece begins in the caller's batch."""
    evidence = message.evidence
    return Explanation(
        index=first_index + message.item_index,
        sample=message.sample_index,
        explanation=message.explanation,
        raw_text=message.raw_text,
        token_ids=tuple(message.token_ids),
        logprob=message.logprob,
        finish_reason=name_of(FINISH_REASONS, message.finish_reason),
        cosine=evidence.cosine if evidence.HasField("cosine") else None,
        mse=evidence.mse if evidence.HasField("mse") else None,
        fve=evidence.fve if evidence.HasField("fve") else None,
        flags=tuple(name_of(FLAGS, flag) for flag in evidence.flags),
        error=item_error(message.error) if message.HasField("error") else None,
        place=token_place(message.token_position) if message.HasField("token_position") else None,
        lag_seconds=message.lag_seconds if message.HasField("lag_seconds") else None,
    )


def text_delta(message: pb.TextDelta, first_index: int) -> TextDelta:
    """What an explanation gained; `first_index` as above."""
    return TextDelta(
        index=first_index + message.item_index,
        sample=message.sample_index,
        token_ids=tuple(message.token_ids),
        text=message.text,
    )


def score(message: pb.ScoreResult) -> Score:
    """One comparison."""
    return Score(
        cosine=message.cosine if message.HasField("cosine") else None,
        mse=message.mse if message.HasField("mse") else None,
        fve=message.fve if message.HasField("fve") else None,
        error=item_error(message.error) if message.HasField("error") else None,
    )


def usage(messages: list[pb.Usage]) -> Usage:
    """Tokens of all pieces together."""
    return Usage(
        prefill_tokens=sum(message.prefill_tokens for message in messages),
        prefix_tokens_reused=sum(message.prefix_tokens_reused for message in messages),
        generated_tokens=sum(message.generated_tokens for message in messages),
    )
