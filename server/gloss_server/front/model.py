"""What the front knows of the model it serves."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Tokenizer

from gloss_api.v1 import gloss_pb2 as pb
from gloss_engine.info import CheckpointInfo, ModelInfo
from gloss_server import __version__
from gloss_server.front.token_texts import TokenTexts
from gloss_server.settings import ServeSettings

MAX_REPLY_BYTES = 3 << 20
"""Largest reply of a unary call: gRPC clients receive 4 MiB unless they are told otherwise."""
_SOURCES = {
    "sidecar": pb.BASELINE_SOURCE_SIDECAR,
    "setting": pb.BASELINE_SOURCE_SETTING,
    "released": pb.BASELINE_SOURCE_RELEASED,
    None: pb.BASELINE_SOURCE_UNSPECIFIED,
}


@dataclass(frozen=True, kw_only=True)
class ServedTarget:
    """A loaded target.

    Attributes:
        fingerprint: of its checkpoint.
        tokenizer: its own; texts: of single tokens.
    """

    fingerprint: str
    tokenizer: Tokenizer
    texts: TokenTexts


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A loaded engine's checkpoints, under the name that requests may state.

    Attributes:
        model: the name.
        info: the checkpoints.
        tokenizer: the AV's, for text as it streams.
        target: the explained model; None where none is loaded.
        version: of Gloss.
    """

    model: str
    info: ModelInfo
    tokenizer: Tokenizer
    target: ServedTarget | None = None
    version: str = __version__

    @classmethod
    def of(cls, model: str, info: ModelInfo) -> ServedModel:
        """The model that an engine has loaded."""
        tokenizer = Tokenizer.from_str(info.tokenizer)
        target = None
        if info.target is not None:
            assert info.target_tokenizer is not None
            # Often the AV's own: a large vocabulary takes a second.
            same = info.target_tokenizer == info.tokenizer
            its_own = tokenizer if same else Tokenizer.from_str(info.target_tokenizer)
            target = ServedTarget(
                fingerprint=info.target.fingerprint, tokenizer=its_own, texts=TokenTexts(its_own)
            )
        return cls(model=model, info=info, tokenizer=tokenizer, target=target)

    @property
    def fingerprint(self) -> str:
        """Of the checkpoints and settings that decide results."""
        return self.info.fingerprint

    @property
    def device(self) -> str:
        """Device the engine runs on."""
        return self.info.device

    @property
    def dtype(self) -> str:
        """Element type of weights and keys."""
        return self.info.dtype

    @property
    def fve_baseline(self) -> float | None:
        """Baseline of the FVE."""
        return self.info.fve_baseline

    @property
    def num_slots(self) -> int:
        """Explanations that run at once."""
        return self.info.num_slots

    @property
    def num_pages(self) -> int:
        """Private pages of the key-value cache."""
        return self.info.num_pages

    def response(self, settings: ServeSettings) -> pb.GetModelInfoResponse:
        """The answer of GetModelInfo."""
        info = self.info
        return pb.GetModelInfoResponse(
            model=self.model,
            version=self.version,
            fingerprint=info.fingerprint,
            av=_checkpoint(info.av),
            ar=None if info.ar is None else _checkpoint(info.ar),
            target=None if info.target is None else _checkpoint(info.target),
            layer_index=info.layer_index,
            d_model=info.av.d_model,
            injection_scale=info.injection_scale,
            injection_mode=info.injection_mode,
            mse_scale=info.mse_scale,
            fve_baseline=info.fve_baseline,
            fve_baseline_source=_SOURCES[info.baseline_source],
            norm_median=info.norm_median,
            min_position=info.min_position,
            prefix_tokens=info.prefix_tokens,
            suffix_tokens=info.suffix_tokens,
            device=info.device,
            dtype=info.dtype,
            kernels=info.kernels,
            quantization=info.quantization,
            batch_invariant=info.batch_invariant,
            target_generates=info.target_generates,
            limits=pb.Limits(
                max_items=settings.max_items,
                max_samples=settings.max_samples,
                max_new_tokens=info.max_new_tokens,
                max_request_bytes=settings.max_request_bytes,
                max_reply_bytes=MAX_REPLY_BYTES,
                max_queued_explanations=settings.max_queued_explanations,
                max_queued_tokens=settings.max_queued_tokens,
                default_deadline_seconds=settings.default_deadline_seconds,
                max_text_tokens=info.max_text_tokens,
                max_watch_tokens=info.max_watch_tokens,
                watch_max_pending=info.watch_max_pending,
                watch_deadline_seconds=settings.watch_deadline_seconds,
            ),
        )


def _checkpoint(info: CheckpointInfo) -> pb.Checkpoint:
    return pb.Checkpoint(
        architecture=info.architecture,
        num_layers=info.num_layers,
        d_model=info.d_model,
        vocab_size=info.vocab_size,
        fingerprint=info.fingerprint,
        template=info.template,
    )
