"""Generation options of the contract as the engine takes them, within the limits of a server."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from gloss_api.v1 import gloss_pb2 as pb
from gloss_engine.errors import RequestError
from gloss_engine.info import ModelInfo
from gloss_engine.sampling import SamplingParams
from gloss_server.front.call_error import CallError
from gloss_server.front.model import ServedModel
from gloss_server.settings import ServeSettings

_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
_MAX_STOPS, _MAX_STOP_LENGTH = 16, 256


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a call may ask of this model under these settings."""

    settings: ServeSettings
    model: ServedModel


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to explain.

    Attributes:
        num_samples: explanations of each activation.
        sampling: with a seed.
        score: whether to score; None: wherever there is an AR.
    """

    num_samples: int
    sampling: SamplingParams
    score: bool | None

    @classmethod
    def read(cls, options: pb.GenerationOptions, limits: Limits, field: str) -> Options:
        """What a request states, and the defaults of what it does not.

        Raises:
            CallError: with the field at fault; `field` is where the options stand.
        """
        info, settings = limits.model.info, limits.settings
        num_samples = options.num_samples if options.HasField("num_samples") else 1
        if not 1 <= num_samples <= settings.max_samples:
            raise CallError(
                "INVALID_SAMPLES",
                f"{field}.num_samples: got {num_samples}, expected 1 to {settings.max_samples}",
                f"{field}.num_samples",
            )
        score = options.score if options.HasField("score") else None
        if score:
            check_ar(info, f"{field}.score")
        sampling = read_sampling(
            options,
            field,
            most=info.max_new_tokens,
            default=SamplingParams.max_new_tokens,
            seed=secrets.randbits(64),
        )
        return cls(num_samples=num_samples, sampling=sampling, score=score)


def read_sampling(
    options: pb.GenerationOptions, field: str, *, most: int, default: int, seed: int
) -> SamplingParams:
    """How tokens are drawn.

    Args:
        options: what the request states.
        field: where they stand.
        most: tokens that may be asked for.
        default: tokens where none are stated, or `most`.
        seed: where none is stated.

    Raises:
        CallError: with the field at fault.
    """
    given = {name: getattr(options, name) for name in _SAMPLING if options.HasField(name)}
    wanted = options.max_new_tokens if options.HasField("max_new_tokens") else min(default, most)
    if wanted > most:
        raise CallError(
            "TOO_MANY_TOKENS",
            f"{field}.max_new_tokens: got {wanted}, expected at most {most}, this server's limit",
            f"{field}.max_new_tokens",
        )
    # Counted before anything is made of them: a call may bring millions.
    if len(options.stop) > _MAX_STOPS or any(len(s) > _MAX_STOP_LENGTH for s in options.stop):
        raise CallError(
            "INVALID_SAMPLING",
            f"{field}.stop: got {len(options.stop)}, expected at most {_MAX_STOPS} of at most "
            f"{_MAX_STOP_LENGTH} characters",
            f"{field}.stop",
        )
    stops = tuple(options.stop)
    seed = options.seed if options.HasField("seed") else seed
    try:
        return SamplingParams(max_new_tokens=wanted, seed=seed, stop=stops, **given)
    except RequestError as error:
        raise CallError.of_request(error, f"{field}.{error.field}") from error


def check_ar(info: ModelInfo, field: str | None = None) -> None:
    """Refuse what needs an AR where there is none.

    Raises:
        CallError: NO_RECONSTRUCTOR.
    """
    if info.ar is None:
        what = f"{field}: " if field else ""
        raise CallError(
            "NO_RECONSTRUCTOR",
            f"{what}no AR is loaded; start the server with --ar",
            field,
        )
