from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TensorDtype(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TENSOR_DTYPE_UNSPECIFIED: _ClassVar[TensorDtype]
    TENSOR_DTYPE_FLOAT32: _ClassVar[TensorDtype]
    TENSOR_DTYPE_BFLOAT16: _ClassVar[TensorDtype]
    TENSOR_DTYPE_FLOAT16: _ClassVar[TensorDtype]

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    PRIORITY_INTERACTIVE: _ClassVar[Priority]
    PRIORITY_BATCH: _ClassVar[Priority]

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_EOS: _ClassVar[FinishReason]
    FINISH_REASON_CLOSING_TAG: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
    FINISH_REASON_CANCELLED: _ClassVar[FinishReason]
    FINISH_REASON_ERROR: _ClassVar[FinishReason]

class ExplanationFlag(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXPLANATION_FLAG_UNSPECIFIED: _ClassVar[ExplanationFlag]
    EXPLANATION_FLAG_UNCLOSED: _ClassVar[ExplanationFlag]
    EXPLANATION_FLAG_NO_TAG: _ClassVar[ExplanationFlag]
    EXPLANATION_FLAG_NORM_OUTLIER: _ClassVar[ExplanationFlag]
    EXPLANATION_FLAG_EARLY_POSITION: _ClassVar[ExplanationFlag]
    EXPLANATION_FLAG_SPECIAL_TOKEN: _ClassVar[ExplanationFlag]
    EXPLANATION_FLAG_UNKNOWN_TOKEN: _ClassVar[ExplanationFlag]
    EXPLANATION_FLAG_SUSPECT_SCRIPT: _ClassVar[ExplanationFlag]
    EXPLANATION_FLAG_LOW_FIDELITY: _ClassVar[ExplanationFlag]
    EXPLANATION_FLAG_NO_FVE_BASELINE: _ClassVar[ExplanationFlag]

class SkipReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SKIP_REASON_UNSPECIFIED: _ClassVar[SkipReason]
    SKIP_REASON_EVERY: _ClassVar[SkipReason]
    SKIP_REASON_MAX_PENDING: _ClassVar[SkipReason]
    SKIP_REASON_TARGET_ENDED: _ClassVar[SkipReason]

class BaselineSource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BASELINE_SOURCE_UNSPECIFIED: _ClassVar[BaselineSource]
    BASELINE_SOURCE_SIDECAR: _ClassVar[BaselineSource]
    BASELINE_SOURCE_SETTING: _ClassVar[BaselineSource]
    BASELINE_SOURCE_RELEASED: _ClassVar[BaselineSource]

class ServingState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SERVING_STATE_UNSPECIFIED: _ClassVar[ServingState]
    SERVING_STATE_LOADING: _ClassVar[ServingState]
    SERVING_STATE_SERVING: _ClassVar[ServingState]
    SERVING_STATE_RESTARTING: _ClassVar[ServingState]
    SERVING_STATE_DRAINING: _ClassVar[ServingState]
TENSOR_DTYPE_UNSPECIFIED: TensorDtype
TENSOR_DTYPE_FLOAT32: TensorDtype
TENSOR_DTYPE_BFLOAT16: TensorDtype
TENSOR_DTYPE_FLOAT16: TensorDtype
PRIORITY_UNSPECIFIED: Priority
PRIORITY_INTERACTIVE: Priority
PRIORITY_BATCH: Priority
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_EOS: FinishReason
FINISH_REASON_CLOSING_TAG: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason
FINISH_REASON_CANCELLED: FinishReason
FINISH_REASON_ERROR: FinishReason
EXPLANATION_FLAG_UNSPECIFIED: ExplanationFlag
EXPLANATION_FLAG_UNCLOSED: ExplanationFlag
EXPLANATION_FLAG_NO_TAG: ExplanationFlag
EXPLANATION_FLAG_NORM_OUTLIER: ExplanationFlag
EXPLANATION_FLAG_EARLY_POSITION: ExplanationFlag
EXPLANATION_FLAG_SPECIAL_TOKEN: ExplanationFlag
EXPLANATION_FLAG_UNKNOWN_TOKEN: ExplanationFlag
EXPLANATION_FLAG_SUSPECT_SCRIPT: ExplanationFlag
EXPLANATION_FLAG_LOW_FIDELITY: ExplanationFlag
EXPLANATION_FLAG_NO_FVE_BASELINE: ExplanationFlag
SKIP_REASON_UNSPECIFIED: SkipReason
SKIP_REASON_EVERY: SkipReason
SKIP_REASON_MAX_PENDING: SkipReason
SKIP_REASON_TARGET_ENDED: SkipReason
BASELINE_SOURCE_UNSPECIFIED: BaselineSource
BASELINE_SOURCE_SIDECAR: BaselineSource
BASELINE_SOURCE_SETTING: BaselineSource
BASELINE_SOURCE_RELEASED: BaselineSource
SERVING_STATE_UNSPECIFIED: ServingState
SERVING_STATE_LOADING: ServingState
SERVING_STATE_SERVING: ServingState
SERVING_STATE_RESTARTING: ServingState
SERVING_STATE_DRAINING: ServingState

class Tensor(_message.Message):
    __slots__ = ("dtype", "shape", "data")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    dtype: TensorDtype
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, dtype: _Optional[_Union[TensorDtype, str]] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class ActivationItem(_message.Message):
    __slots__ = ("item_key", "layer_index", "position", "token_id")
    ITEM_KEY_FIELD_NUMBER: _ClassVar[int]
    LAYER_INDEX_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    item_key: int
    layer_index: int
    position: int
    token_id: int
    def __init__(self, item_key: _Optional[int] = ..., layer_index: _Optional[int] = ..., position: _Optional[int] = ..., token_id: _Optional[int] = ...) -> None: ...

class GenerationOptions(_message.Message):
    __slots__ = ("num_samples", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens", "seed", "stop", "score")
    NUM_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    num_samples: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    max_new_tokens: int
    seed: int
    stop: _containers.RepeatedScalarFieldContainer[str]
    score: bool
    def __init__(self, num_samples: _Optional[int] = ..., temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., max_new_tokens: _Optional[int] = ..., seed: _Optional[int] = ..., stop: _Optional[_Iterable[str]] = ..., score: bool = ...) -> None: ...

class VerbalizeRequest(_message.Message):
    __slots__ = ("request_id", "model", "activations", "items", "options", "allow_layer_mismatch", "priority")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    ALLOW_LAYER_MISMATCH_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model: str
    activations: Tensor
    items: _containers.RepeatedCompositeFieldContainer[ActivationItem]
    options: GenerationOptions
    allow_layer_mismatch: bool
    priority: Priority
    def __init__(self, request_id: _Optional[str] = ..., model: _Optional[str] = ..., activations: _Optional[_Union[Tensor, _Mapping]] = ..., items: _Optional[_Iterable[_Union[ActivationItem, _Mapping]]] = ..., options: _Optional[_Union[GenerationOptions, _Mapping]] = ..., allow_layer_mismatch: bool = ..., priority: _Optional[_Union[Priority, str]] = ...) -> None: ...

class ClaimEvidence(_message.Message):
    __slots__ = ("span_start", "span_end", "support")
    SPAN_START_FIELD_NUMBER: _ClassVar[int]
    SPAN_END_FIELD_NUMBER: _ClassVar[int]
    SUPPORT_FIELD_NUMBER: _ClassVar[int]
    span_start: int
    span_end: int
    support: float
    def __init__(self, span_start: _Optional[int] = ..., span_end: _Optional[int] = ..., support: _Optional[float] = ...) -> None: ...

class Evidence(_message.Message):
    __slots__ = ("cosine", "mse", "fve", "flags", "claims")
    COSINE_FIELD_NUMBER: _ClassVar[int]
    MSE_FIELD_NUMBER: _ClassVar[int]
    FVE_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    CLAIMS_FIELD_NUMBER: _ClassVar[int]
    cosine: float
    mse: float
    fve: float
    flags: _containers.RepeatedScalarFieldContainer[ExplanationFlag]
    claims: _containers.RepeatedCompositeFieldContainer[ClaimEvidence]
    def __init__(self, cosine: _Optional[float] = ..., mse: _Optional[float] = ..., fve: _Optional[float] = ..., flags: _Optional[_Iterable[_Union[ExplanationFlag, str]]] = ..., claims: _Optional[_Iterable[_Union[ClaimEvidence, _Mapping]]] = ...) -> None: ...

class TokenPosition(_message.Message):
    __slots__ = ("position", "token_id", "token", "norm", "layer_index")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    NORM_FIELD_NUMBER: _ClassVar[int]
    LAYER_INDEX_FIELD_NUMBER: _ClassVar[int]
    position: int
    token_id: int
    token: str
    norm: float
    layer_index: int
    def __init__(self, position: _Optional[int] = ..., token_id: _Optional[int] = ..., token: _Optional[str] = ..., norm: _Optional[float] = ..., layer_index: _Optional[int] = ...) -> None: ...

class Explanation(_message.Message):
    __slots__ = ("item_index", "sample_index", "error", "explanation", "raw_text", "token_ids", "logprob", "finish_reason", "evidence", "token_position", "lag_seconds")
    ITEM_INDEX_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_INDEX_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    RAW_TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_POSITION_FIELD_NUMBER: _ClassVar[int]
    LAG_SECONDS_FIELD_NUMBER: _ClassVar[int]
    item_index: int
    sample_index: int
    error: _status_pb2.Status
    explanation: str
    raw_text: str
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    logprob: float
    finish_reason: FinishReason
    evidence: Evidence
    token_position: TokenPosition
    lag_seconds: float
    def __init__(self, item_index: _Optional[int] = ..., sample_index: _Optional[int] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., explanation: _Optional[str] = ..., raw_text: _Optional[str] = ..., token_ids: _Optional[_Iterable[int]] = ..., logprob: _Optional[float] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ..., evidence: _Optional[_Union[Evidence, _Mapping]] = ..., token_position: _Optional[_Union[TokenPosition, _Mapping]] = ..., lag_seconds: _Optional[float] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("prefill_tokens", "prefix_tokens_reused", "generated_tokens")
    PREFILL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREFIX_TOKENS_REUSED_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    prefill_tokens: int
    prefix_tokens_reused: int
    generated_tokens: int
    def __init__(self, prefill_tokens: _Optional[int] = ..., prefix_tokens_reused: _Optional[int] = ..., generated_tokens: _Optional[int] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("queue_seconds", "first_token_seconds", "total_seconds")
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    queue_seconds: float
    first_token_seconds: float
    total_seconds: float
    def __init__(self, queue_seconds: _Optional[float] = ..., first_token_seconds: _Optional[float] = ..., total_seconds: _Optional[float] = ...) -> None: ...

class VerbalizeResponse(_message.Message):
    __slots__ = ("request_id", "fingerprint", "seed", "explanations", "usage", "timings")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    EXPLANATIONS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    fingerprint: str
    seed: int
    explanations: _containers.RepeatedCompositeFieldContainer[Explanation]
    usage: Usage
    timings: Timings
    def __init__(self, request_id: _Optional[str] = ..., fingerprint: _Optional[str] = ..., seed: _Optional[int] = ..., explanations: _Optional[_Iterable[_Union[Explanation, _Mapping]]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class StreamVerbalizeRequest(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: VerbalizeRequest
    def __init__(self, request: _Optional[_Union[VerbalizeRequest, _Mapping]] = ...) -> None: ...

class StreamStart(_message.Message):
    __slots__ = ("request_id", "fingerprint", "seed")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    fingerprint: str
    seed: int
    def __init__(self, request_id: _Optional[str] = ..., fingerprint: _Optional[str] = ..., seed: _Optional[int] = ...) -> None: ...

class TextDelta(_message.Message):
    __slots__ = ("item_index", "sample_index", "token_ids", "text")
    ITEM_INDEX_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_INDEX_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    item_index: int
    sample_index: int
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    text: str
    def __init__(self, item_index: _Optional[int] = ..., sample_index: _Optional[int] = ..., token_ids: _Optional[_Iterable[int]] = ..., text: _Optional[str] = ...) -> None: ...

class FinishCount(_message.Message):
    __slots__ = ("finish_reason", "count")
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    finish_reason: FinishReason
    count: int
    def __init__(self, finish_reason: _Optional[_Union[FinishReason, str]] = ..., count: _Optional[int] = ...) -> None: ...

class StreamEnd(_message.Message):
    __slots__ = ("finish_counts", "usage", "timings")
    FINISH_COUNTS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    finish_counts: _containers.RepeatedCompositeFieldContainer[FinishCount]
    usage: Usage
    timings: Timings
    def __init__(self, finish_counts: _Optional[_Iterable[_Union[FinishCount, _Mapping]]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class StreamVerbalizeResponse(_message.Message):
    __slots__ = ("start", "deltas", "explanations", "end")
    START_FIELD_NUMBER: _ClassVar[int]
    DELTAS_FIELD_NUMBER: _ClassVar[int]
    EXPLANATIONS_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    start: StreamStart
    deltas: _containers.RepeatedCompositeFieldContainer[TextDelta]
    explanations: _containers.RepeatedCompositeFieldContainer[Explanation]
    end: StreamEnd
    def __init__(self, start: _Optional[_Union[StreamStart, _Mapping]] = ..., deltas: _Optional[_Iterable[_Union[TextDelta, _Mapping]]] = ..., explanations: _Optional[_Iterable[_Union[Explanation, _Mapping]]] = ..., end: _Optional[_Union[StreamEnd, _Mapping]] = ...) -> None: ...

class Chat(_message.Message):
    __slots__ = ("messages",)
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[ChatMessage]
    def __init__(self, messages: _Optional[_Iterable[_Union[ChatMessage, _Mapping]]] = ...) -> None: ...

class ChatMessage(_message.Message):
    __slots__ = ("role", "content")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    role: str
    content: str
    def __init__(self, role: _Optional[str] = ..., content: _Optional[str] = ...) -> None: ...

class TokenIds(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class TextInput(_message.Message):
    __slots__ = ("text", "token_ids", "chat")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    CHAT_FIELD_NUMBER: _ClassVar[int]
    text: str
    token_ids: TokenIds
    chat: Chat
    def __init__(self, text: _Optional[str] = ..., token_ids: _Optional[_Union[TokenIds, _Mapping]] = ..., chat: _Optional[_Union[Chat, _Mapping]] = ...) -> None: ...

class PositionSlice(_message.Message):
    __slots__ = ("start", "stop", "step")
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    start: int
    stop: int
    step: int
    def __init__(self, start: _Optional[int] = ..., stop: _Optional[int] = ..., step: _Optional[int] = ...) -> None: ...

class PositionList(_message.Message):
    __slots__ = ("positions",)
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    positions: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, positions: _Optional[_Iterable[int]] = ...) -> None: ...

class PositionSelection(_message.Message):
    __slots__ = ("slice", "list")
    SLICE_FIELD_NUMBER: _ClassVar[int]
    LIST_FIELD_NUMBER: _ClassVar[int]
    slice: PositionSlice
    list: PositionList
    def __init__(self, slice: _Optional[_Union[PositionSlice, _Mapping]] = ..., list: _Optional[_Union[PositionList, _Mapping]] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("request_id", "model", "input", "positions", "options", "priority")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model: str
    input: TextInput
    positions: PositionSelection
    options: GenerationOptions
    priority: Priority
    def __init__(self, request_id: _Optional[str] = ..., model: _Optional[str] = ..., input: _Optional[_Union[TextInput, _Mapping]] = ..., positions: _Optional[_Union[PositionSelection, _Mapping]] = ..., options: _Optional[_Union[GenerationOptions, _Mapping]] = ..., priority: _Optional[_Union[Priority, str]] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("start", "input_ids", "deltas", "explanations", "end", "captured", "input_tokens")
    START_FIELD_NUMBER: _ClassVar[int]
    INPUT_IDS_FIELD_NUMBER: _ClassVar[int]
    DELTAS_FIELD_NUMBER: _ClassVar[int]
    EXPLANATIONS_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    CAPTURED_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    start: StreamStart
    input_ids: _containers.RepeatedScalarFieldContainer[int]
    deltas: _containers.RepeatedCompositeFieldContainer[TextDelta]
    explanations: _containers.RepeatedCompositeFieldContainer[Explanation]
    end: StreamEnd
    captured: _containers.RepeatedCompositeFieldContainer[TokenPosition]
    input_tokens: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, start: _Optional[_Union[StreamStart, _Mapping]] = ..., input_ids: _Optional[_Iterable[int]] = ..., deltas: _Optional[_Iterable[_Union[TextDelta, _Mapping]]] = ..., explanations: _Optional[_Iterable[_Union[Explanation, _Mapping]]] = ..., end: _Optional[_Union[StreamEnd, _Mapping]] = ..., captured: _Optional[_Iterable[_Union[TokenPosition, _Mapping]]] = ..., input_tokens: _Optional[_Iterable[str]] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("request_id", "model", "prompt", "target_options", "options", "every", "prompt_positions", "max_pending", "tokens_per_second", "num_generated")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    TARGET_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    EVERY_FIELD_NUMBER: _ClassVar[int]
    PROMPT_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_PENDING_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    NUM_GENERATED_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model: str
    prompt: TextInput
    target_options: GenerationOptions
    options: GenerationOptions
    every: int
    prompt_positions: PositionSelection
    max_pending: int
    tokens_per_second: float
    num_generated: int
    def __init__(self, request_id: _Optional[str] = ..., model: _Optional[str] = ..., prompt: _Optional[_Union[TextInput, _Mapping]] = ..., target_options: _Optional[_Union[GenerationOptions, _Mapping]] = ..., options: _Optional[_Union[GenerationOptions, _Mapping]] = ..., every: _Optional[int] = ..., prompt_positions: _Optional[_Union[PositionSelection, _Mapping]] = ..., max_pending: _Optional[int] = ..., tokens_per_second: _Optional[float] = ..., num_generated: _Optional[int] = ...) -> None: ...

class SkippedToken(_message.Message):
    __slots__ = ("position", "reason")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    position: int
    reason: SkipReason
    def __init__(self, position: _Optional[int] = ..., reason: _Optional[_Union[SkipReason, str]] = ...) -> None: ...

class SkipCount(_message.Message):
    __slots__ = ("reason", "count")
    REASON_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    reason: SkipReason
    count: int
    def __init__(self, reason: _Optional[_Union[SkipReason, str]] = ..., count: _Optional[int] = ...) -> None: ...

class TargetToken(_message.Message):
    __slots__ = ("position", "token_id", "text")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    position: int
    token_id: int
    text: str
    def __init__(self, position: _Optional[int] = ..., token_id: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("start", "prompt_ids", "target_tokens", "deltas", "explanations", "target_finish_reason", "end", "captured", "skipped", "skip_counts", "prompt_tokens")
    START_FIELD_NUMBER: _ClassVar[int]
    PROMPT_IDS_FIELD_NUMBER: _ClassVar[int]
    TARGET_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DELTAS_FIELD_NUMBER: _ClassVar[int]
    EXPLANATIONS_FIELD_NUMBER: _ClassVar[int]
    TARGET_FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    CAPTURED_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    SKIP_COUNTS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    start: StreamStart
    prompt_ids: _containers.RepeatedScalarFieldContainer[int]
    target_tokens: _containers.RepeatedCompositeFieldContainer[TargetToken]
    deltas: _containers.RepeatedCompositeFieldContainer[TextDelta]
    explanations: _containers.RepeatedCompositeFieldContainer[Explanation]
    target_finish_reason: FinishReason
    end: StreamEnd
    captured: _containers.RepeatedCompositeFieldContainer[TokenPosition]
    skipped: _containers.RepeatedCompositeFieldContainer[SkippedToken]
    skip_counts: _containers.RepeatedCompositeFieldContainer[SkipCount]
    prompt_tokens: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, start: _Optional[_Union[StreamStart, _Mapping]] = ..., prompt_ids: _Optional[_Iterable[int]] = ..., target_tokens: _Optional[_Iterable[_Union[TargetToken, _Mapping]]] = ..., deltas: _Optional[_Iterable[_Union[TextDelta, _Mapping]]] = ..., explanations: _Optional[_Iterable[_Union[Explanation, _Mapping]]] = ..., target_finish_reason: _Optional[_Union[FinishReason, str]] = ..., end: _Optional[_Union[StreamEnd, _Mapping]] = ..., captured: _Optional[_Iterable[_Union[TokenPosition, _Mapping]]] = ..., skipped: _Optional[_Iterable[_Union[SkippedToken, _Mapping]]] = ..., skip_counts: _Optional[_Iterable[_Union[SkipCount, _Mapping]]] = ..., prompt_tokens: _Optional[_Iterable[str]] = ...) -> None: ...

class CaptureInput(_message.Message):
    __slots__ = ("doc_id", "input")
    DOC_ID_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    doc_id: str
    input: TextInput
    def __init__(self, doc_id: _Optional[str] = ..., input: _Optional[_Union[TextInput, _Mapping]] = ...) -> None: ...

class CaptureRequest(_message.Message):
    __slots__ = ("model", "inputs", "positions", "layer_index", "dtype")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    LAYER_INDEX_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    model: str
    inputs: _containers.RepeatedCompositeFieldContainer[CaptureInput]
    positions: PositionSelection
    layer_index: int
    dtype: TensorDtype
    def __init__(self, model: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[CaptureInput, _Mapping]]] = ..., positions: _Optional[_Union[PositionSelection, _Mapping]] = ..., layer_index: _Optional[int] = ..., dtype: _Optional[_Union[TensorDtype, str]] = ...) -> None: ...

class CapturedActivation(_message.Message):
    __slots__ = ("input_index", "doc_id", "token_position", "is_special")
    INPUT_INDEX_FIELD_NUMBER: _ClassVar[int]
    DOC_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_POSITION_FIELD_NUMBER: _ClassVar[int]
    IS_SPECIAL_FIELD_NUMBER: _ClassVar[int]
    input_index: int
    doc_id: str
    token_position: TokenPosition
    is_special: bool
    def __init__(self, input_index: _Optional[int] = ..., doc_id: _Optional[str] = ..., token_position: _Optional[_Union[TokenPosition, _Mapping]] = ..., is_special: bool = ...) -> None: ...

class CaptureResponse(_message.Message):
    __slots__ = ("fingerprint", "activations", "rows", "failures")
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    fingerprint: str
    activations: Tensor
    rows: _containers.RepeatedCompositeFieldContainer[CapturedActivation]
    failures: _containers.RepeatedCompositeFieldContainer[ItemFailure]
    def __init__(self, fingerprint: _Optional[str] = ..., activations: _Optional[_Union[Tensor, _Mapping]] = ..., rows: _Optional[_Iterable[_Union[CapturedActivation, _Mapping]]] = ..., failures: _Optional[_Iterable[_Union[ItemFailure, _Mapping]]] = ...) -> None: ...

class ItemFailure(_message.Message):
    __slots__ = ("item_index", "error")
    ITEM_INDEX_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    item_index: int
    error: _status_pb2.Status
    def __init__(self, item_index: _Optional[int] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class ReconstructRequest(_message.Message):
    __slots__ = ("model", "texts", "dtype")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    model: str
    texts: _containers.RepeatedScalarFieldContainer[str]
    dtype: TensorDtype
    def __init__(self, model: _Optional[str] = ..., texts: _Optional[_Iterable[str]] = ..., dtype: _Optional[_Union[TensorDtype, str]] = ...) -> None: ...

class ReconstructResponse(_message.Message):
    __slots__ = ("fingerprint", "activations", "failures")
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    fingerprint: str
    activations: Tensor
    failures: _containers.RepeatedCompositeFieldContainer[ItemFailure]
    def __init__(self, fingerprint: _Optional[str] = ..., activations: _Optional[_Union[Tensor, _Mapping]] = ..., failures: _Optional[_Iterable[_Union[ItemFailure, _Mapping]]] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("model", "texts", "activations")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    texts: _containers.RepeatedScalarFieldContainer[str]
    activations: Tensor
    def __init__(self, model: _Optional[str] = ..., texts: _Optional[_Iterable[str]] = ..., activations: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class ScoreResult(_message.Message):
    __slots__ = ("error", "cosine", "mse", "fve")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    COSINE_FIELD_NUMBER: _ClassVar[int]
    MSE_FIELD_NUMBER: _ClassVar[int]
    FVE_FIELD_NUMBER: _ClassVar[int]
    error: _status_pb2.Status
    cosine: float
    mse: float
    fve: float
    def __init__(self, error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., cosine: _Optional[float] = ..., mse: _Optional[float] = ..., fve: _Optional[float] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("fingerprint", "results")
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    fingerprint: str
    results: _containers.RepeatedCompositeFieldContainer[ScoreResult]
    def __init__(self, fingerprint: _Optional[str] = ..., results: _Optional[_Iterable[_Union[ScoreResult, _Mapping]]] = ...) -> None: ...

class GetModelInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Checkpoint(_message.Message):
    __slots__ = ("architecture", "num_layers", "d_model", "vocab_size", "fingerprint", "template")
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    NUM_LAYERS_FIELD_NUMBER: _ClassVar[int]
    D_MODEL_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    architecture: str
    num_layers: int
    d_model: int
    vocab_size: int
    fingerprint: str
    template: str
    def __init__(self, architecture: _Optional[str] = ..., num_layers: _Optional[int] = ..., d_model: _Optional[int] = ..., vocab_size: _Optional[int] = ..., fingerprint: _Optional[str] = ..., template: _Optional[str] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_items", "max_samples", "max_new_tokens", "max_request_bytes", "max_reply_bytes", "max_queued_explanations", "max_queued_tokens", "default_deadline_seconds", "max_text_tokens", "max_watch_tokens", "watch_max_pending", "watch_deadline_seconds")
    MAX_ITEMS_FIELD_NUMBER: _ClassVar[int]
    MAX_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUEST_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_REPLY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUED_EXPLANATIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_DEADLINE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MAX_TEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_WATCH_TOKENS_FIELD_NUMBER: _ClassVar[int]
    WATCH_MAX_PENDING_FIELD_NUMBER: _ClassVar[int]
    WATCH_DEADLINE_SECONDS_FIELD_NUMBER: _ClassVar[int]
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
    def __init__(self, max_items: _Optional[int] = ..., max_samples: _Optional[int] = ..., max_new_tokens: _Optional[int] = ..., max_request_bytes: _Optional[int] = ..., max_reply_bytes: _Optional[int] = ..., max_queued_explanations: _Optional[int] = ..., max_queued_tokens: _Optional[int] = ..., default_deadline_seconds: _Optional[float] = ..., max_text_tokens: _Optional[int] = ..., max_watch_tokens: _Optional[int] = ..., watch_max_pending: _Optional[int] = ..., watch_deadline_seconds: _Optional[float] = ...) -> None: ...

class GetModelInfoResponse(_message.Message):
    __slots__ = ("model", "version", "fingerprint", "av", "ar", "target", "layer_index", "d_model", "injection_scale", "injection_mode", "mse_scale", "fve_baseline", "fve_baseline_source", "norm_median", "min_position", "prefix_tokens", "suffix_tokens", "device", "dtype", "limits", "kernels", "quantization", "batch_invariant", "target_generates")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    AV_FIELD_NUMBER: _ClassVar[int]
    AR_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    LAYER_INDEX_FIELD_NUMBER: _ClassVar[int]
    D_MODEL_FIELD_NUMBER: _ClassVar[int]
    INJECTION_SCALE_FIELD_NUMBER: _ClassVar[int]
    INJECTION_MODE_FIELD_NUMBER: _ClassVar[int]
    MSE_SCALE_FIELD_NUMBER: _ClassVar[int]
    FVE_BASELINE_FIELD_NUMBER: _ClassVar[int]
    FVE_BASELINE_SOURCE_FIELD_NUMBER: _ClassVar[int]
    NORM_MEDIAN_FIELD_NUMBER: _ClassVar[int]
    MIN_POSITION_FIELD_NUMBER: _ClassVar[int]
    PREFIX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SUFFIX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    KERNELS_FIELD_NUMBER: _ClassVar[int]
    QUANTIZATION_FIELD_NUMBER: _ClassVar[int]
    BATCH_INVARIANT_FIELD_NUMBER: _ClassVar[int]
    TARGET_GENERATES_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    fingerprint: str
    av: Checkpoint
    ar: Checkpoint
    target: Checkpoint
    layer_index: int
    d_model: int
    injection_scale: float
    injection_mode: str
    mse_scale: float
    fve_baseline: float
    fve_baseline_source: BaselineSource
    norm_median: float
    min_position: int
    prefix_tokens: int
    suffix_tokens: int
    device: str
    dtype: str
    limits: Limits
    kernels: str
    quantization: str
    batch_invariant: bool
    target_generates: bool
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., fingerprint: _Optional[str] = ..., av: _Optional[_Union[Checkpoint, _Mapping]] = ..., ar: _Optional[_Union[Checkpoint, _Mapping]] = ..., target: _Optional[_Union[Checkpoint, _Mapping]] = ..., layer_index: _Optional[int] = ..., d_model: _Optional[int] = ..., injection_scale: _Optional[float] = ..., injection_mode: _Optional[str] = ..., mse_scale: _Optional[float] = ..., fve_baseline: _Optional[float] = ..., fve_baseline_source: _Optional[_Union[BaselineSource, str]] = ..., norm_median: _Optional[float] = ..., min_position: _Optional[int] = ..., prefix_tokens: _Optional[int] = ..., suffix_tokens: _Optional[int] = ..., device: _Optional[str] = ..., dtype: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., kernels: _Optional[str] = ..., quantization: _Optional[str] = ..., batch_invariant: bool = ..., target_generates: bool = ...) -> None: ...

class GetStatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LatencyQuantiles(_message.Message):
    __slots__ = ("name", "count", "p50", "p90", "p95", "p99")
    NAME_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    P50_FIELD_NUMBER: _ClassVar[int]
    P90_FIELD_NUMBER: _ClassVar[int]
    P95_FIELD_NUMBER: _ClassVar[int]
    P99_FIELD_NUMBER: _ClassVar[int]
    name: str
    count: int
    p50: float
    p90: float
    p95: float
    p99: float
    def __init__(self, name: _Optional[str] = ..., count: _Optional[int] = ..., p50: _Optional[float] = ..., p90: _Optional[float] = ..., p95: _Optional[float] = ..., p99: _Optional[float] = ...) -> None: ...

class NamedCount(_message.Message):
    __slots__ = ("name", "count")
    NAME_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    name: str
    count: int
    def __init__(self, name: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class GetStatsResponse(_message.Message):
    __slots__ = ("state", "uptime_seconds", "calls_in_flight", "running", "waiting", "waiting_to_score", "num_slots", "kv_pages_used", "kv_pages_total", "tokens_per_second", "explanations_per_second", "latencies", "explanations", "item_errors", "rejections", "generated_tokens", "prefix_tokens_reused", "scored", "mean_mse", "engine_restarts", "reading", "watching", "target_tokens_read", "target_tokens_generated", "captured", "skipped", "waiting_batch", "engine_memory_bytes", "device_memory_reserved_bytes", "device_memory_bytes")
    STATE_FIELD_NUMBER: _ClassVar[int]
    UPTIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    CALLS_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    WAITING_TO_SCORE_FIELD_NUMBER: _ClassVar[int]
    NUM_SLOTS_FIELD_NUMBER: _ClassVar[int]
    KV_PAGES_USED_FIELD_NUMBER: _ClassVar[int]
    KV_PAGES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    EXPLANATIONS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    LATENCIES_FIELD_NUMBER: _ClassVar[int]
    EXPLANATIONS_FIELD_NUMBER: _ClassVar[int]
    ITEM_ERRORS_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREFIX_TOKENS_REUSED_FIELD_NUMBER: _ClassVar[int]
    SCORED_FIELD_NUMBER: _ClassVar[int]
    MEAN_MSE_FIELD_NUMBER: _ClassVar[int]
    ENGINE_RESTARTS_FIELD_NUMBER: _ClassVar[int]
    READING_FIELD_NUMBER: _ClassVar[int]
    WATCHING_FIELD_NUMBER: _ClassVar[int]
    TARGET_TOKENS_READ_FIELD_NUMBER: _ClassVar[int]
    TARGET_TOKENS_GENERATED_FIELD_NUMBER: _ClassVar[int]
    CAPTURED_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    WAITING_BATCH_FIELD_NUMBER: _ClassVar[int]
    ENGINE_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_MEMORY_RESERVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    state: ServingState
    uptime_seconds: float
    calls_in_flight: int
    running: int
    waiting: int
    waiting_to_score: int
    num_slots: int
    kv_pages_used: int
    kv_pages_total: int
    tokens_per_second: float
    explanations_per_second: float
    latencies: _containers.RepeatedCompositeFieldContainer[LatencyQuantiles]
    explanations: _containers.RepeatedCompositeFieldContainer[NamedCount]
    item_errors: _containers.RepeatedCompositeFieldContainer[NamedCount]
    rejections: _containers.RepeatedCompositeFieldContainer[NamedCount]
    generated_tokens: int
    prefix_tokens_reused: int
    scored: int
    mean_mse: float
    engine_restarts: int
    reading: int
    watching: int
    target_tokens_read: int
    target_tokens_generated: int
    captured: int
    skipped: _containers.RepeatedCompositeFieldContainer[NamedCount]
    waiting_batch: int
    engine_memory_bytes: int
    device_memory_reserved_bytes: int
    device_memory_bytes: int
    def __init__(self, state: _Optional[_Union[ServingState, str]] = ..., uptime_seconds: _Optional[float] = ..., calls_in_flight: _Optional[int] = ..., running: _Optional[int] = ..., waiting: _Optional[int] = ..., waiting_to_score: _Optional[int] = ..., num_slots: _Optional[int] = ..., kv_pages_used: _Optional[int] = ..., kv_pages_total: _Optional[int] = ..., tokens_per_second: _Optional[float] = ..., explanations_per_second: _Optional[float] = ..., latencies: _Optional[_Iterable[_Union[LatencyQuantiles, _Mapping]]] = ..., explanations: _Optional[_Iterable[_Union[NamedCount, _Mapping]]] = ..., item_errors: _Optional[_Iterable[_Union[NamedCount, _Mapping]]] = ..., rejections: _Optional[_Iterable[_Union[NamedCount, _Mapping]]] = ..., generated_tokens: _Optional[int] = ..., prefix_tokens_reused: _Optional[int] = ..., scored: _Optional[int] = ..., mean_mse: _Optional[float] = ..., engine_restarts: _Optional[int] = ..., reading: _Optional[int] = ..., watching: _Optional[int] = ..., target_tokens_read: _Optional[int] = ..., target_tokens_generated: _Optional[int] = ..., captured: _Optional[int] = ..., skipped: _Optional[_Iterable[_Union[NamedCount, _Mapping]]] = ..., waiting_batch: _Optional[int] = ..., engine_memory_bytes: _Optional[int] = ..., device_memory_reserved_bytes: _Optional[int] = ..., device_memory_bytes: _Optional[int] = ...) -> None: ...
