"""Settings of `gloss serve`: one frozen value, checked once.

Flags, environment and file are brought together in `settings_sources.py`.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gloss_server.address import Address
from gloss_server.terminal import visible

MIB = 2**20
EMBEDDED_MODEL = "embedded"
ENV_PREFIX = "GLOSS_"
MAX_NAME_CHARACTERS = 128
MOST_TEXT_TOKENS = 2**17
"""All of them go into the first message of an Explain, which stays under 1 MiB."""
_TEXT_TOKENS = 4096
"""The engine's own max_text_tokens."""


def _tcp(text: str) -> str:
    return str(Address.parse(text))


def _tcp_or_unix(text: str) -> str:
    return str(Address.parse(text, unix=True))


def _tcp_or_off(text: str) -> str:
    return _tcp(text) if text else ""


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("characters that print")
    return text


def _collector(url: str) -> str:
    # The path of a gRPC collector's URL means nothing, and what stands before @ would be logged.
    scheme, _, rest = url.partition("://")
    with suppress(ValueError):
        Address.parse(rest.removesuffix("/"))
        if scheme in ("http", "https"):
            return url
    raise ValueError("http://HOST:PORT or https://HOST:PORT")


Count = Annotated[int, Field(ge=1)]
Bytes = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]
SecondsOrNone = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _model_name(before: dict[str, Any]) -> str:
    av = before.get("av")
    return EMBEDDED_MODEL if av is None else visible(av.resolve().name)[:MAX_NAME_CHARACTERS]


def _max_queued_tokens(before: dict[str, Any]) -> int:
    return int(before["max_queued_explanations"]) * 200


def _max_text_characters(before: dict[str, Any]) -> int:
    return 16 * int(before["max_text_tokens"] or _TEXT_TOKENS)


def _max_queued_text_tokens(before: dict[str, Any]) -> int:
    return 16 * int(before["max_text_tokens"] or _TEXT_TOKENS)


class ServeSettings(BaseSettings):
    """What one server is told. Reads nothing by itself; see `read_settings`.

    Attributes:
        av, ar, target: checkpoint directories; without av the embedded pair, with its target.
        address: where gRPC listens: HOST:PORT or unix:PATH. Port 0 lets the system choose.
        metrics_address: HOST:PORT of /metrics; empty: off.
        admin_address: HOST:PORT of health for probes, never encrypted; None: off.
        tls_cert, tls_key: PEM files of the server's certificate chain and its key; None: plaintext.
        tls_client_ca: PEM file of the authorities whose clients are served, by mutual TLS; None:
            any client.
        tokens: TOML file of the clients that are served, each with its bearer token; None: any.
        tokens_in_clear: take tokens although the connection is not encrypted and not of this
            machine: a proxy in front ends TLS.
        device, dtype, quantization, injection_mode, fve_baseline: as in the engine's EngineConfig.
        model_name: what requests may call the model, in characters that print. Default: the name
            of av's directory, with those that do not as escapes.
        memory_fraction: share of a CUDA device's memory that may be in use once pages are made,
            above 0 to 1; None: the engine's.
        max_step_tokens: most rows of a step, of decoding and of prefills; None: the engine's.
        batch_invariant: what a sequence draws never depends on what else runs; slower.
        graphs: auto: on CUDA a step is one captured graph; off: none is, to hunt a fault.
        num_slots: explanations that run at once; None: the engine's default.
        max_new_tokens: most tokens of an explanation.
        num_threads: CPU threads of the engine; None: torch's default.
        target_generates: whether the target is loaded whole, as Watch needs it, or up to block K.
        target_share: share of step time that the target gets while explanations run, between 0
            and 1; None: the engine's.
        num_watches: sequences the target generates at once; None: the engine's.
        max_watch_tokens: most tokens of one of them; None: the engine's.
        watch_max_pending: most unfinished activations of a Watch that states no bound; None: the
            engine's.
        max_text_tokens: most tokens of a text that the target reads; None: the engine's.
        max_read_tokens: most tokens the target reads in one pass; None: the engine's.
        max_text_characters: most characters of such a text; more are refused before they are
            counted in tokens. Default: 16 for each of max_text_tokens.
        max_items: most activations of a call.
        max_samples: most explanations of an activation.
        max_queued_explanations: explanations in flight, waiting ones included; then QUEUE_FULL.
        max_queued_tokens: tokens that those in flight may still generate; then QUEUE_FULL.
            Default: 200 for each of max_queued_explanations.
        max_queued_text_tokens: tokens of texts that the target reads or that wait for it, and that
            Capture calls have not sent yet; then QUEUE_FULL. Default: 16 texts of max_text_tokens.
        max_queued_watches: Watches in flight, waiting ones included; then QUEUE_FULL.
        batch_queue_share: share of the queue, in explanations and in tokens, that calls of priority
            batch may fill.
        batch_share: share of starts that waiting activations of priority batch get while
            interactive ones wait too.
        max_queued_bytes: bytes of requests in flight; then QUEUE_FULL.
        max_unread_bytes: what a stream's client may leave unread, besides what gRPC holds for it;
            then SLOW_READER.
        max_connections: open connections; more are closed at once.
        max_connection_age_seconds: after about as long a connection takes no new calls, and its
            client makes another, to wherever the name it resolves leads by then; None: never.
        client_tokens_per_second: tokens a client, by its name or address, may ask for, generated
            or read; None: no limit. A client of the tokens file may have a limit of its own.
        client_burst_seconds: of them it may ask for at once.
        default_deadline_seconds, watch_deadline_seconds: of a call that states none, and of a
            Watch that does not.
        grace_seconds: after SIGTERM, the most that calls in flight are waited for, and replies that
            their clients have not read yet.
        drain_seconds: after SIGTERM, how long health says NOT_SERVING while new calls are still
            taken, so that load balancers look elsewhere first.
        heartbeat_timeout_seconds: an engine that is silent for longer is killed.
        load_timeout_seconds: an engine that loads, or warms up, for longer is killed.
        restart_limit, restart_window_seconds: an engine that dies more often than this within the
            window, in seconds in which one was loaded, ends the server.
        result_memory_seconds, result_memory_bytes: how long, and how many bytes of, results are
            kept for the same request_id; 0 seconds: off.
        max_request_bytes: largest message that is received.
        max_metadata_bytes: most bytes of a call's metadata.
        reflection: whether gRPC reflection answers; None: unless there are tokens.
        log_level: least level that is logged.
        log_explanations: whether explanations go into the call log; they may repeat what the
            explained model has read.
        traces: URL that spans are sent to by OTLP over gRPC; None: there are none.
        trace_ratio: share of the calls that are traced, of those whose caller does not decide it.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=ENV_PREFIX, validate_default=False
    )

    av: Path | None = None
    ar: Path | None = None
    target: Path | None = None
    address: Annotated[str, AfterValidator(_tcp_or_unix)] = "127.0.0.1:50051"
    metrics_address: Annotated[str, AfterValidator(_tcp_or_off)] = "127.0.0.1:9464"
    admin_address: Annotated[str, AfterValidator(_tcp)] | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    tokens: Path | None = None
    tokens_in_clear: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Literal["none", "fp8"] = "none"
    injection_mode: Literal["replace", "add"] = "replace"
    fve_baseline: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    model_name: Annotated[
        str, Field(min_length=1, max_length=MAX_NAME_CHARACTERS), AfterValidator(_printable)
    ] = Field(default_factory=_model_name)
    memory_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    max_step_tokens: Count | None = None
    batch_invariant: bool = False
    graphs: Literal["auto", "off"] = "auto"
    num_slots: Count | None = None
    max_new_tokens: Count = 200
    num_threads: Count | None = None
    target_generates: bool = True
    target_share: Share | None = None
    num_watches: Count | None = None
    max_watch_tokens: Count | None = None
    watch_max_pending: Count | None = None
    max_text_tokens: Annotated[Count, Field(le=MOST_TEXT_TOKENS)] | None = None
    max_read_tokens: Count | None = None
    max_text_characters: Count = Field(default_factory=_max_text_characters)
    max_items: Count = 1024
    max_samples: Count = 64
    max_queued_explanations: Count = 4096
    max_queued_tokens: Count = Field(default_factory=_max_queued_tokens)
    max_queued_text_tokens: Count = Field(default_factory=_max_queued_text_tokens)
    max_queued_watches: Count = 16
    batch_queue_share: Share = 0.75
    batch_share: Share = 0.125
    max_queued_bytes: Bytes = 256 * MIB
    max_unread_bytes: Bytes = 4 * MIB
    max_connections: Annotated[Count, Field(lt=2**31 - 1)] = 10_000
    max_connection_age_seconds: Seconds | None = None
    client_tokens_per_second: Seconds | None = None
    client_burst_seconds: Seconds = 30.0
    default_deadline_seconds: Seconds = 120.0
    watch_deadline_seconds: Seconds = 600.0
    grace_seconds: SecondsOrNone = 30.0
    drain_seconds: SecondsOrNone = 1.0
    heartbeat_timeout_seconds: Seconds = 30.0
    load_timeout_seconds: Seconds = 600.0
    restart_limit: Annotated[int, Field(ge=0)] = 5
    restart_window_seconds: Seconds = 60.0
    result_memory_seconds: SecondsOrNone = 60.0
    result_memory_bytes: Bytes = 64 * MIB
    max_request_bytes: Annotated[Bytes, Field(lt=2**31)] = 32 * MIB
    max_metadata_bytes: Annotated[int, Field(ge=1024, lt=2**31)] = 16 * 1024
    reflection: bool | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_explanations: bool = False
    traces: Annotated[str, AfterValidator(_collector)] | None = None
    trace_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1

    @property
    def given(self) -> dict[str, str | int | float | bool | None]:
        """What was not left at its default."""
        values = {name: getattr(self, name) for name in sorted(self.model_fields_set)}
        return {
            name: str(value) if isinstance(value, Path) else value for name, value in values.items()
        }

    @property
    def reflects(self) -> bool:
        """Whether gRPC reflection answers."""
        return self.tokens is None if self.reflection is None else self.reflection

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: ValidationInfo) -> Any:
        """An empty value of a setting that may be absent is an absent one; true is no number."""
        field = cls.model_fields[str(info.field_name)]
        if value == "" and field.default is None:
            return None
        if isinstance(value, bool) and field.annotation not in (bool, bool | None):
            raise ValueError("neither true nor false")
        return value

    @field_validator("ar")
    @classmethod
    def _beside_av(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("av") is None:
            raise ValueError("no ar, or the av that it belongs to as well")
        return value

    @field_validator("max_queued_text_tokens")
    @classmethod
    def _two_texts(cls, value: int, info: ValidationInfo) -> int:
        longest = info.data.get("max_text_tokens") or _TEXT_TOKENS
        if value < 2 * longest:
            raise ValueError(
                f"{2 * longest} or more: a Capture has two texts of max_text_tokens in flight"
            )
        return value

    @field_validator("graphs")
    @classmethod
    def _beside_batch_invariant(cls, value: str, info: ValidationInfo) -> str:
        if value == "off" and info.data.get("batch_invariant"):
            raise ValueError("auto beside batch_invariant, whose steps are captured all the same")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what the constructor is given: `settings_sources.py` brings the sources together."""
        return (init_settings,)
