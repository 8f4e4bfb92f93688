from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class InputKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INPUT_KIND_UNSPECIFIED: _ClassVar[InputKind]
    INPUT_KIND_TOKENS: _ClassVar[InputKind]
    INPUT_KIND_VALUES: _ClassVar[InputKind]

class PredictionKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PREDICTION_KIND_UNSPECIFIED: _ClassVar[PredictionKind]
    PREDICTION_KIND_LOGITS: _ClassVar[PredictionKind]
    PREDICTION_KIND_DISTRIBUTION: _ClassVar[PredictionKind]
    PREDICTION_KIND_RAW: _ClassVar[PredictionKind]
INPUT_KIND_UNSPECIFIED: InputKind
INPUT_KIND_TOKENS: InputKind
INPUT_KIND_VALUES: InputKind
PREDICTION_KIND_UNSPECIFIED: PredictionKind
PREDICTION_KIND_LOGITS: PredictionKind
PREDICTION_KIND_DISTRIBUTION: PredictionKind
PREDICTION_KIND_RAW: PredictionKind

class Model(_message.Message):
    __slots__ = ("name", "version", "default_version", "task", "input", "width", "vocabulary", "features", "prediction", "prediction_width", "session_bytes", "fingerprint", "scores", "provenance_json")
    class ScoresEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_VERSION_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_WIDTH_FIELD_NUMBER: _ClassVar[int]
    SESSION_BYTES_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_JSON_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    default_version: bool
    task: str
    input: InputKind
    width: int
    vocabulary: _containers.RepeatedScalarFieldContainer[str]
    features: _containers.RepeatedScalarFieldContainer[str]
    prediction: PredictionKind
    prediction_width: int
    session_bytes: int
    fingerprint: str
    scores: _containers.ScalarMap[str, float]
    provenance_json: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., default_version: _Optional[bool] = ..., task: _Optional[str] = ..., input: _Optional[_Union[InputKind, str]] = ..., width: _Optional[int] = ..., vocabulary: _Optional[_Iterable[str]] = ..., features: _Optional[_Iterable[str]] = ..., prediction: _Optional[_Union[PredictionKind, str]] = ..., prediction_width: _Optional[int] = ..., session_bytes: _Optional[int] = ..., fingerprint: _Optional[str] = ..., scores: _Optional[_Mapping[str, float]] = ..., provenance_json: _Optional[str] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...
