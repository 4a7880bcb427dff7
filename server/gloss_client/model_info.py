"""What a server has loaded and what a call to it may ask for."""

from __future__ import annotations

from dataclasses import dataclass

from gloss_api.v1 import gloss_pb2 as pb
from gloss_client.enums import BASELINE_SOURCES


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one call, and of what may be in flight on the server.

    Attributes:
        max_items: activations, or texts, of a call.
        max_samples: samples of one activation.
        max_new_tokens: tokens of an explanation.
        max_request_bytes, max_reply_bytes: of a request, and of the reply of a unary call.
        max_queued_explanations, max_queued_tokens: in flight, waiting ones included.
        default_deadline_seconds: deadline of a call that states none.
        max_text_tokens: tokens of a text that the target reads; 0 without a target.
        max_watch_tokens: tokens the target generates in a watch; 0 where it only reads.
        watch_max_pending: `max_pending` of a watch that states none.
        watch_deadline_seconds: deadline of a watch that states none.
    """

    max_items: int
    max_samples: int
    max_new_tokens: int
    max_request_bytes: int
    max_reply_bytes: int
    max_queued_explanations: int
    max_queued_tokens: int
    default_deadline_seconds: float
    max_text_tokens: int
    max_watch_tokens: int
    watch_max_pending: int
    watch_deadline_seconds: float


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One loaded checkpoint.

    Attributes:
        architecture: in Hugging Face's words, such as qwen2.
        num_layers: blocks it runs.
        d_model: width of its residual stream.
        vocab_size: rows of its vocabulary.
        fingerprint: hash of its files.
        template: prompt template as its sidecar has it; empty for a target.
    """

    architecture: str
    num_layers: int
    d_model: int
    vocab_size: int
    fingerprint: str
    template: str


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a server has loaded.

    Attributes:
        model: name that calls may state.
        version: version of Gloss.
        fingerprint: hash over all checkpoints and the settings that change results.
        av, ar, target: the checkpoints; ar and target None where none is loaded.
        layer_index: K, whose block's output the pair explains; None: the checkpoint does not say.
        d_model: width of an activation.
        injection_scale: L2 norm an activation is given before it is injected.
        injection_mode: replace or add.
        mse_scale: norm both vectors are given before the mse; None without an AR.
        fve_baseline: None where none is known.
        fve_baseline_source: sidecar, setting or released; None where no baseline is known.
        norm_median: usual L2 norm of an activation; None: not known.
        min_position: first position the AV was trained on; None: not known.
        prefix_tokens, suffix_tokens: prompt tokens shared by all activations, and run for each.
        device, dtype: what the engine runs on and in.
        kernels: what computes its inner loop: triton or reference.
        quantization: of the linear layers' weights: none or fp8; empty from a server that is older
            than this field.
        batch_invariant: whether what a sequence draws never depends on what else runs; False from
            a server that is older than this field.
        target_generates: whether the target generates, as `watch` needs it.
        limits: limits of a call.
    """

    model: str
    version: str
    fingerprint: str
    av: Checkpoint
    ar: Checkpoint | None
    target: Checkpoint | None
    layer_index: int | None
    d_model: int
    injection_scale: float
    injection_mode: str
    mse_scale: float | None
    fve_baseline: float | None
    fve_baseline_source: str | None
    norm_median: float | None
    min_position: int | None
    prefix_tokens: int
    suffix_tokens: int
    device: str
    dtype: str
    kernels: str
    quantization: str
    batch_invariant: bool
    target_generates: bool
    limits: Limits

    @classmethod
    def of(cls, reply: pb.GetModelInfoResponse) -> ModelInfo:
        """The contract's message as a value."""
        return cls(
            model=reply.model,
            version=reply.version,
            fingerprint=reply.fingerprint,
            av=_checkpoint(reply.av),
            ar=_checkpoint(reply.ar) if reply.HasField("ar") else None,
            target=_checkpoint(reply.target) if reply.HasField("target") else None,
            layer_index=reply.layer_index if reply.HasField("layer_index") else None,
            d_model=reply.d_model,
            injection_scale=reply.injection_scale,
            injection_mode=reply.injection_mode,
            mse_scale=reply.mse_scale if reply.HasField("mse_scale") else None,
            fve_baseline=reply.fve_baseline if reply.HasField("fve_baseline") else None,
            fve_baseline_source=BASELINE_SOURCES.get(reply.fve_baseline_source),
            norm_median=reply.norm_median if reply.HasField("norm_median") else None,
            min_position=reply.min_position if reply.HasField("min_position") else None,
            prefix_tokens=reply.prefix_tokens,
            suffix_tokens=reply.suffix_tokens,
            device=reply.device,
            kernels=reply.kernels,
            quantization=reply.quantization,
            batch_invariant=reply.batch_invariant,
            target_generates=reply.target_generates,
            dtype=reply.dtype,
            limits=_limits(reply.limits),
        )


def _checkpoint(message: pb.Checkpoint) -> Checkpoint:
    return Checkpoint(
        architecture=message.architecture,
        num_layers=message.num_layers,
        d_model=message.d_model,
        vocab_size=message.vocab_size,
        fingerprint=message.fingerprint,
        template=message.template,
    )


def _limits(message: pb.Limits) -> Limits:
    return Limits(
        max_items=message.max_items,
        max_samples=message.max_samples,
        max_new_tokens=message.max_new_tokens,
        max_request_bytes=message.max_request_bytes,
        max_reply_bytes=message.max_reply_bytes,
        max_queued_explanations=message.max_queued_explanations,
        max_queued_tokens=message.max_queued_tokens,
        default_deadline_seconds=message.default_deadline_seconds,
        max_text_tokens=message.max_text_tokens,
        max_watch_tokens=message.max_watch_tokens,
        watch_max_pending=message.watch_max_pending,
        watch_deadline_seconds=message.watch_deadline_seconds,
    )
