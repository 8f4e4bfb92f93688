from cellar.v1 import values_pb2 as _values_pb2
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
    PREDICTION_KIND_LABELS: _ClassVar[PredictionKind]
INPUT_KIND_UNSPECIFIED: InputKind
INPUT_KIND_TOKENS: InputKind
INPUT_KIND_VALUES: InputKind
PREDICTION_KIND_UNSPECIFIED: PredictionKind
PREDICTION_KIND_LOGITS: PredictionKind
PREDICTION_KIND_DISTRIBUTION: PredictionKind
PREDICTION_KIND_RAW: PredictionKind
PREDICTION_KIND_LABELS: PredictionKind

class Model(_message.Message):
    __slots__ = ("name", "version", "default_version", "task", "input", "width", "vocabulary", "features", "prediction", "prediction_width", "session_bytes", "fingerprint", "scores", "provenance_json", "labels", "streamable", "predicts_per_step", "rows_run_alone", "steps_run_alone", "largest_value", "unavailable_reason")
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
    LABELS_FIELD_NUMBER: _ClassVar[int]
    STREAMABLE_FIELD_NUMBER: _ClassVar[int]
    PREDICTS_PER_STEP_FIELD_NUMBER: _ClassVar[int]
    ROWS_RUN_ALONE_FIELD_NUMBER: _ClassVar[int]
    STEPS_RUN_ALONE_FIELD_NUMBER: _ClassVar[int]
    LARGEST_VALUE_FIELD_NUMBER: _ClassVar[int]
    UNAVAILABLE_REASON_FIELD_NUMBER: _ClassVar[int]
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
    labels: _containers.RepeatedScalarFieldContainer[str]
    streamable: bool
    predicts_per_step: bool
    rows_run_alone: bool
    steps_run_alone: bool
    largest_value: float
    unavailable_reason: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., default_version: bool = ..., task: _Optional[str] = ..., input: _Optional[_Union[InputKind, str]] = ..., width: _Optional[int] = ..., vocabulary: _Optional[_Iterable[str]] = ..., features: _Optional[_Iterable[str]] = ..., prediction: _Optional[_Union[PredictionKind, str]] = ..., prediction_width: _Optional[int] = ..., session_bytes: _Optional[int] = ..., fingerprint: _Optional[str] = ..., scores: _Optional[_Mapping[str, float]] = ..., provenance_json: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., streamable: bool = ..., predicts_per_step: bool = ..., rows_run_alone: bool = ..., steps_run_alone: bool = ..., largest_value: _Optional[float] = ..., unavailable_reason: _Optional[str] = ...) -> None: ...

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

class PredictRequest(_message.Message):
    __slots__ = ("model", "model_version", "inputs", "steps", "outputs")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    model: str
    model_version: int
    inputs: _values_pb2.Inputs
    steps: _containers.RepeatedScalarFieldContainer[int]
    outputs: _values_pb2.Outputs
    def __init__(self, model: _Optional[str] = ..., model_version: _Optional[int] = ..., inputs: _Optional[_Union[_values_pb2.Inputs, _Mapping]] = ..., steps: _Optional[_Iterable[int]] = ..., outputs: _Optional[_Union[_values_pb2.Outputs, _Mapping]] = ...) -> None: ...

class PredictResponse(_message.Message):
    __slots__ = ("model", "model_version", "counts", "predictions")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    model_version: int
    counts: _containers.RepeatedScalarFieldContainer[int]
    predictions: _values_pb2.Predictions
    def __init__(self, model: _Optional[str] = ..., model_version: _Optional[int] = ..., counts: _Optional[_Iterable[int]] = ..., predictions: _Optional[_Union[_values_pb2.Predictions, _Mapping]] = ...) -> None: ...
