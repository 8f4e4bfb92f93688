import datetime

from cellar.v1 import values_pb2 as _values_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SessionStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SESSION_STATUS_UNSPECIFIED: _ClassVar[SessionStatus]
    SESSION_STATUS_OPEN: _ClassVar[SessionStatus]
    SESSION_STATUS_LOST: _ClassVar[SessionStatus]
    SESSION_STATUS_MODEL_CHANGED: _ClassVar[SessionStatus]
    SESSION_STATUS_MOVING: _ClassVar[SessionStatus]

class SessionTier(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SESSION_TIER_UNSPECIFIED: _ClassVar[SessionTier]
    SESSION_TIER_DEVICE: _ClassVar[SessionTier]
    SESSION_TIER_STORE: _ClassVar[SessionTier]
    SESSION_TIER_HOST: _ClassVar[SessionTier]

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
SESSION_STATUS_UNSPECIFIED: SessionStatus
SESSION_STATUS_OPEN: SessionStatus
SESSION_STATUS_LOST: SessionStatus
SESSION_STATUS_MODEL_CHANGED: SessionStatus
SESSION_STATUS_MOVING: SessionStatus
SESSION_TIER_UNSPECIFIED: SessionTier
SESSION_TIER_DEVICE: SessionTier
SESSION_TIER_STORE: SessionTier
SESSION_TIER_HOST: SessionTier
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_LENGTH: FinishReason
FINISH_REASON_STOP: FinishReason

class Session(_message.Message):
    __slots__ = ("id", "model", "model_version", "status", "position", "open_time", "last_used_time", "idle_timeout", "branch", "ephemeral", "owner", "tier", "history_position")
    ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    OPEN_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_USED_TIME_FIELD_NUMBER: _ClassVar[int]
    IDLE_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    EPHEMERAL_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    HISTORY_POSITION_FIELD_NUMBER: _ClassVar[int]
    id: str
    model: str
    model_version: int
    status: SessionStatus
    position: int
    open_time: _timestamp_pb2.Timestamp
    last_used_time: _timestamp_pb2.Timestamp
    idle_timeout: _duration_pb2.Duration
    branch: int
    ephemeral: bool
    owner: str
    tier: SessionTier
    history_position: int
    def __init__(self, id: _Optional[str] = ..., model: _Optional[str] = ..., model_version: _Optional[int] = ..., status: _Optional[_Union[SessionStatus, str]] = ..., position: _Optional[int] = ..., open_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_used_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., idle_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., branch: _Optional[int] = ..., ephemeral: bool = ..., owner: _Optional[str] = ..., tier: _Optional[_Union[SessionTier, str]] = ..., history_position: _Optional[int] = ...) -> None: ...

class SessionState(_message.Message):
    __slots__ = ("tensors",)
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    tensors: _containers.RepeatedCompositeFieldContainer[StateTensor]
    def __init__(self, tensors: _Optional[_Iterable[_Union[StateTensor, _Mapping]]] = ...) -> None: ...

class StateTensor(_message.Message):
    __slots__ = ("name", "values")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    name: str
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, name: _Optional[str] = ..., values: _Optional[_Iterable[float]] = ...) -> None: ...

class OpenSessionRequest(_message.Message):
    __slots__ = ("model", "model_version", "session_id", "idle_timeout", "ephemeral", "history_steps", "initial_state")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    IDLE_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    EPHEMERAL_FIELD_NUMBER: _ClassVar[int]
    HISTORY_STEPS_FIELD_NUMBER: _ClassVar[int]
    INITIAL_STATE_FIELD_NUMBER: _ClassVar[int]
    model: str
    model_version: int
    session_id: str
    idle_timeout: _duration_pb2.Duration
    ephemeral: bool
    history_steps: int
    initial_state: SessionState
    def __init__(self, model: _Optional[str] = ..., model_version: _Optional[int] = ..., session_id: _Optional[str] = ..., idle_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., ephemeral: bool = ..., history_steps: _Optional[int] = ..., initial_state: _Optional[_Union[SessionState, _Mapping]] = ...) -> None: ...

class OpenSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class GetSessionRequest(_message.Message):
    __slots__ = ("session_id", "settle", "branch", "owner")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SETTLE_FIELD_NUMBER: _ClassVar[int]
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    settle: bool
    branch: int
    owner: str
    def __init__(self, session_id: _Optional[str] = ..., settle: bool = ..., branch: _Optional[int] = ..., owner: _Optional[str] = ...) -> None: ...

class GetSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class ListSessionsRequest(_message.Message):
    __slots__ = ("model", "model_version", "page_size", "page_token", "idle_for", "owner")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    IDLE_FOR_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    model: str
    model_version: int
    page_size: int
    page_token: str
    idle_for: _duration_pb2.Duration
    owner: str
    def __init__(self, model: _Optional[str] = ..., model_version: _Optional[int] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., idle_for: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., owner: _Optional[str] = ...) -> None: ...

class ListSessionsResponse(_message.Message):
    __slots__ = ("sessions", "next_page_token")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[Session]
    next_page_token: str
    def __init__(self, sessions: _Optional[_Iterable[_Union[Session, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CloseSessionRequest(_message.Message):
    __slots__ = ("session_id", "branch", "owner")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    branch: int
    owner: str
    def __init__(self, session_id: _Optional[str] = ..., branch: _Optional[int] = ..., owner: _Optional[str] = ...) -> None: ...

class CloseSessionResponse(_message.Message):
    __slots__ = ("position",)
    POSITION_FIELD_NUMBER: _ClassVar[int]
    position: int
    def __init__(self, position: _Optional[int] = ...) -> None: ...

class ResetSessionRequest(_message.Message):
    __slots__ = ("session_id", "branch")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    branch: int
    def __init__(self, session_id: _Optional[str] = ..., branch: _Optional[int] = ...) -> None: ...

class ResetSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class StepRequest(_message.Message):
    __slots__ = ("session_id", "inputs", "position", "commit", "outputs", "branch")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    inputs: _values_pb2.Inputs
    position: int
    commit: bool
    outputs: _values_pb2.Outputs
    branch: int
    def __init__(self, session_id: _Optional[str] = ..., inputs: _Optional[_Union[_values_pb2.Inputs, _Mapping]] = ..., position: _Optional[int] = ..., commit: bool = ..., outputs: _Optional[_Union[_values_pb2.Outputs, _Mapping]] = ..., branch: _Optional[int] = ...) -> None: ...

class StepResponse(_message.Message):
    __slots__ = ("position", "predictions", "replayed", "branch", "durable_position")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    DURABLE_POSITION_FIELD_NUMBER: _ClassVar[int]
    position: int
    predictions: _values_pb2.Predictions
    replayed: bool
    branch: int
    durable_position: int
    def __init__(self, position: _Optional[int] = ..., predictions: _Optional[_Union[_values_pb2.Predictions, _Mapping]] = ..., replayed: bool = ..., branch: _Optional[int] = ..., durable_position: _Optional[int] = ...) -> None: ...

class StreamRequest(_message.Message):
    __slots__ = ("start", "attach", "frame", "detach", "reset")
    START_FIELD_NUMBER: _ClassVar[int]
    ATTACH_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    DETACH_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    start: StreamStart
    attach: StreamAttach
    frame: StreamFrame
    detach: StreamDetach
    reset: StreamReset
    def __init__(self, start: _Optional[_Union[StreamStart, _Mapping]] = ..., attach: _Optional[_Union[StreamAttach, _Mapping]] = ..., frame: _Optional[_Union[StreamFrame, _Mapping]] = ..., detach: _Optional[_Union[StreamDetach, _Mapping]] = ..., reset: _Optional[_Union[StreamReset, _Mapping]] = ...) -> None: ...

class StreamStart(_message.Message):
    __slots__ = ("model", "model_version", "outputs", "tell_durable")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    TELL_DURABLE_FIELD_NUMBER: _ClassVar[int]
    model: str
    model_version: int
    outputs: _values_pb2.Outputs
    tell_durable: bool
    def __init__(self, model: _Optional[str] = ..., model_version: _Optional[int] = ..., outputs: _Optional[_Union[_values_pb2.Outputs, _Mapping]] = ..., tell_durable: bool = ...) -> None: ...

class StreamAttach(_message.Message):
    __slots__ = ("session_ids", "channels", "open", "branches", "idle_timeout", "ephemeral")
    SESSION_IDS_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    BRANCHES_FIELD_NUMBER: _ClassVar[int]
    IDLE_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    EPHEMERAL_FIELD_NUMBER: _ClassVar[int]
    session_ids: _containers.RepeatedScalarFieldContainer[str]
    channels: _containers.RepeatedScalarFieldContainer[int]
    open: bool
    branches: _containers.RepeatedScalarFieldContainer[int]
    idle_timeout: _duration_pb2.Duration
    ephemeral: bool
    def __init__(self, session_ids: _Optional[_Iterable[str]] = ..., channels: _Optional[_Iterable[int]] = ..., open: bool = ..., branches: _Optional[_Iterable[int]] = ..., idle_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., ephemeral: bool = ...) -> None: ...

class StreamFrame(_message.Message):
    __slots__ = ("channels", "steps", "positions", "inputs", "number")
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    channels: _containers.RepeatedScalarFieldContainer[int]
    steps: _containers.RepeatedScalarFieldContainer[int]
    positions: _containers.RepeatedScalarFieldContainer[int]
    inputs: _values_pb2.Inputs
    number: int
    def __init__(self, channels: _Optional[_Iterable[int]] = ..., steps: _Optional[_Iterable[int]] = ..., positions: _Optional[_Iterable[int]] = ..., inputs: _Optional[_Union[_values_pb2.Inputs, _Mapping]] = ..., number: _Optional[int] = ...) -> None: ...

class StreamDetach(_message.Message):
    __slots__ = ("channels", "close")
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    channels: _containers.RepeatedScalarFieldContainer[int]
    close: bool
    def __init__(self, channels: _Optional[_Iterable[int]] = ..., close: bool = ...) -> None: ...

class StreamReset(_message.Message):
    __slots__ = ("channels",)
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    channels: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, channels: _Optional[_Iterable[int]] = ...) -> None: ...

class StreamResponse(_message.Message):
    __slots__ = ("started", "attached", "reply", "detached", "durable", "reset")
    STARTED_FIELD_NUMBER: _ClassVar[int]
    ATTACHED_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    DETACHED_FIELD_NUMBER: _ClassVar[int]
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    started: StreamStarted
    attached: StreamAttached
    reply: StreamReply
    detached: StreamDetached
    durable: StreamDurable
    reset: StreamResetReply
    def __init__(self, started: _Optional[_Union[StreamStarted, _Mapping]] = ..., attached: _Optional[_Union[StreamAttached, _Mapping]] = ..., reply: _Optional[_Union[StreamReply, _Mapping]] = ..., detached: _Optional[_Union[StreamDetached, _Mapping]] = ..., durable: _Optional[_Union[StreamDurable, _Mapping]] = ..., reset: _Optional[_Union[StreamResetReply, _Mapping]] = ...) -> None: ...

class StreamStarted(_message.Message):
    __slots__ = ("model", "model_version", "outputs")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    model: str
    model_version: int
    outputs: _values_pb2.Outputs
    def __init__(self, model: _Optional[str] = ..., model_version: _Optional[int] = ..., outputs: _Optional[_Union[_values_pb2.Outputs, _Mapping]] = ...) -> None: ...

class StreamAttached(_message.Message):
    __slots__ = ("channels", "positions", "errors", "branches")
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    BRANCHES_FIELD_NUMBER: _ClassVar[int]
    channels: _containers.RepeatedScalarFieldContainer[int]
    positions: _containers.RepeatedScalarFieldContainer[int]
    errors: _containers.RepeatedCompositeFieldContainer[RowError]
    branches: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, channels: _Optional[_Iterable[int]] = ..., positions: _Optional[_Iterable[int]] = ..., errors: _Optional[_Iterable[_Union[RowError, _Mapping]]] = ..., branches: _Optional[_Iterable[int]] = ...) -> None: ...

class StreamReply(_message.Message):
    __slots__ = ("channels", "positions", "counts", "predictions", "replayed", "errors", "frame", "group", "durable_group")
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    DURABLE_GROUP_FIELD_NUMBER: _ClassVar[int]
    channels: _containers.RepeatedScalarFieldContainer[int]
    positions: _containers.RepeatedScalarFieldContainer[int]
    counts: _containers.RepeatedScalarFieldContainer[int]
    predictions: _values_pb2.Predictions
    replayed: _containers.RepeatedScalarFieldContainer[int]
    errors: _containers.RepeatedCompositeFieldContainer[RowError]
    frame: int
    group: int
    durable_group: int
    def __init__(self, channels: _Optional[_Iterable[int]] = ..., positions: _Optional[_Iterable[int]] = ..., counts: _Optional[_Iterable[int]] = ..., predictions: _Optional[_Union[_values_pb2.Predictions, _Mapping]] = ..., replayed: _Optional[_Iterable[int]] = ..., errors: _Optional[_Iterable[_Union[RowError, _Mapping]]] = ..., frame: _Optional[int] = ..., group: _Optional[int] = ..., durable_group: _Optional[int] = ...) -> None: ...

class StreamDurable(_message.Message):
    __slots__ = ("group",)
    GROUP_FIELD_NUMBER: _ClassVar[int]
    group: int
    def __init__(self, group: _Optional[int] = ...) -> None: ...

class RowError(_message.Message):
    __slots__ = ("channel", "code", "reason", "message", "position", "retry_delay", "branch", "kept_position")
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    RETRY_DELAY_FIELD_NUMBER: _ClassVar[int]
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    KEPT_POSITION_FIELD_NUMBER: _ClassVar[int]
    channel: int
    code: int
    reason: str
    message: str
    position: int
    retry_delay: _duration_pb2.Duration
    branch: int
    kept_position: int
    def __init__(self, channel: _Optional[int] = ..., code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., position: _Optional[int] = ..., retry_delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., branch: _Optional[int] = ..., kept_position: _Optional[int] = ...) -> None: ...

class StreamDetached(_message.Message):
    __slots__ = ("channels",)
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    channels: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, channels: _Optional[_Iterable[int]] = ...) -> None: ...

class StreamResetReply(_message.Message):
    __slots__ = ("channels", "branches", "errors")
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    BRANCHES_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    channels: _containers.RepeatedScalarFieldContainer[int]
    branches: _containers.RepeatedScalarFieldContainer[int]
    errors: _containers.RepeatedCompositeFieldContainer[RowError]
    def __init__(self, channels: _Optional[_Iterable[int]] = ..., branches: _Optional[_Iterable[int]] = ..., errors: _Optional[_Iterable[_Union[RowError, _Mapping]]] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("session_id", "prompt", "max_steps", "sampling", "stop", "position", "branch")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    prompt: _values_pb2.Inputs
    max_steps: int
    sampling: _values_pb2.Sampling
    stop: _containers.RepeatedScalarFieldContainer[str]
    position: int
    branch: int
    def __init__(self, session_id: _Optional[str] = ..., prompt: _Optional[_Union[_values_pb2.Inputs, _Mapping]] = ..., max_steps: _Optional[int] = ..., sampling: _Optional[_Union[_values_pb2.Sampling, _Mapping]] = ..., stop: _Optional[_Iterable[str]] = ..., position: _Optional[int] = ..., branch: _Optional[int] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("text", "tokens", "values", "position", "finish_reason", "durable_position")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    DURABLE_POSITION_FIELD_NUMBER: _ClassVar[int]
    text: str
    tokens: _containers.RepeatedScalarFieldContainer[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    position: int
    finish_reason: FinishReason
    durable_position: int
    def __init__(self, text: _Optional[str] = ..., tokens: _Optional[_Iterable[int]] = ..., values: _Optional[_Iterable[float]] = ..., position: _Optional[int] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ..., durable_position: _Optional[int] = ...) -> None: ...

class ForecastRequest(_message.Message):
    __slots__ = ("session_id", "horizon", "paths", "quantiles", "seed", "include_paths", "branch", "future")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    HORIZON_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    QUANTILES_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_PATHS_FIELD_NUMBER: _ClassVar[int]
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    FUTURE_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    horizon: int
    paths: int
    quantiles: _containers.RepeatedScalarFieldContainer[float]
    seed: int
    include_paths: bool
    branch: int
    future: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, session_id: _Optional[str] = ..., horizon: _Optional[int] = ..., paths: _Optional[int] = ..., quantiles: _Optional[_Iterable[float]] = ..., seed: _Optional[int] = ..., include_paths: bool = ..., branch: _Optional[int] = ..., future: _Optional[_Iterable[float]] = ...) -> None: ...

class ForecastResponse(_message.Message):
    __slots__ = ("position", "levels", "quantiles", "mean", "paths")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    LEVELS_FIELD_NUMBER: _ClassVar[int]
    QUANTILES_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    position: int
    levels: _containers.RepeatedScalarFieldContainer[float]
    quantiles: _containers.RepeatedScalarFieldContainer[float]
    mean: _containers.RepeatedScalarFieldContainer[float]
    paths: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, position: _Optional[int] = ..., levels: _Optional[_Iterable[float]] = ..., quantiles: _Optional[_Iterable[float]] = ..., mean: _Optional[_Iterable[float]] = ..., paths: _Optional[_Iterable[float]] = ...) -> None: ...

class ExportSessionRequest(_message.Message):
    __slots__ = ("session_id", "branch", "move_to")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    MOVE_TO_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    branch: int
    move_to: str
    def __init__(self, session_id: _Optional[str] = ..., branch: _Optional[int] = ..., move_to: _Optional[str] = ...) -> None: ...

class ExportSessionResponse(_message.Message):
    __slots__ = ("snapshot", "session", "receipt")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    snapshot: bytes
    session: Session
    receipt: bytes
    def __init__(self, snapshot: _Optional[bytes] = ..., session: _Optional[_Union[Session, _Mapping]] = ..., receipt: _Optional[bytes] = ...) -> None: ...

class ImportSessionRequest(_message.Message):
    __slots__ = ("snapshot", "session_id", "idle_timeout", "receipt")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    IDLE_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    snapshot: bytes
    session_id: str
    idle_timeout: _duration_pb2.Duration
    receipt: bytes
    def __init__(self, snapshot: _Optional[bytes] = ..., session_id: _Optional[str] = ..., idle_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., receipt: _Optional[bytes] = ...) -> None: ...

class ImportSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class ForkSessionRequest(_message.Message):
    __slots__ = ("session_id", "branch", "new_session_id", "position", "model", "model_version", "idle_timeout", "ephemeral", "history_steps")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    NEW_SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    IDLE_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    EPHEMERAL_FIELD_NUMBER: _ClassVar[int]
    HISTORY_STEPS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    branch: int
    new_session_id: str
    position: int
    model: str
    model_version: int
    idle_timeout: _duration_pb2.Duration
    ephemeral: bool
    history_steps: int
    def __init__(self, session_id: _Optional[str] = ..., branch: _Optional[int] = ..., new_session_id: _Optional[str] = ..., position: _Optional[int] = ..., model: _Optional[str] = ..., model_version: _Optional[int] = ..., idle_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., ephemeral: bool = ..., history_steps: _Optional[int] = ...) -> None: ...

class ForkSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class RewindSessionRequest(_message.Message):
    __slots__ = ("session_id", "position", "branch", "generated")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    GENERATED_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    position: int
    branch: int
    generated: bool
    def __init__(self, session_id: _Optional[str] = ..., position: _Optional[int] = ..., branch: _Optional[int] = ..., generated: bool = ...) -> None: ...

class RewindSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class UpgradeSessionRequest(_message.Message):
    __slots__ = ("session_id", "model_version", "branch")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    model_version: int
    branch: int
    def __init__(self, session_id: _Optional[str] = ..., model_version: _Optional[int] = ..., branch: _Optional[int] = ...) -> None: ...

class UpgradeSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class ReleaseSessionRequest(_message.Message):
    __slots__ = ("session_id", "cancel")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    cancel: bool
    def __init__(self, session_id: _Optional[str] = ..., cancel: bool = ...) -> None: ...

class ReleaseSessionResponse(_message.Message):
    __slots__ = ("receipt",)
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    receipt: bytes
    def __init__(self, receipt: _Optional[bytes] = ...) -> None: ...
