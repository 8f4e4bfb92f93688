from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Inputs(_message.Message):
    __slots__ = ("text", "tokens", "values")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    text: str
    tokens: Tokens
    values: Values
    def __init__(self, text: _Optional[str] = ..., tokens: _Optional[_Union[Tokens, _Mapping]] = ..., values: _Optional[_Union[Values, _Mapping]] = ...) -> None: ...

class Tokens(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Values(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, data: _Optional[_Iterable[float]] = ...) -> None: ...

class Outputs(_message.Message):
    __slots__ = ("argmax", "top_k", "probabilities", "sample", "quantiles", "raw", "every_step")
    ARGMAX_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    QUANTILES_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    EVERY_STEP_FIELD_NUMBER: _ClassVar[int]
    argmax: bool
    top_k: int
    probabilities: bool
    sample: Sampling
    quantiles: _containers.RepeatedScalarFieldContainer[float]
    raw: bool
    every_step: bool
    def __init__(self, argmax: bool = ..., top_k: _Optional[int] = ..., probabilities: bool = ..., sample: _Optional[_Union[Sampling, _Mapping]] = ..., quantiles: _Optional[_Iterable[float]] = ..., raw: bool = ..., every_step: bool = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "seed")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    seed: int
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., seed: _Optional[int] = ...) -> None: ...

class Predictions(_message.Message):
    __slots__ = ("argmax", "top_tokens", "top_probabilities", "probabilities", "sampled_tokens", "sampled_values", "quantiles", "raw", "argmax_symbols", "top_symbols", "sampled_symbols", "count", "levels")
    ARGMAX_FIELD_NUMBER: _ClassVar[int]
    TOP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOP_PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_VALUES_FIELD_NUMBER: _ClassVar[int]
    QUANTILES_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    ARGMAX_SYMBOLS_FIELD_NUMBER: _ClassVar[int]
    TOP_SYMBOLS_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_SYMBOLS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    LEVELS_FIELD_NUMBER: _ClassVar[int]
    argmax: _containers.RepeatedScalarFieldContainer[int]
    top_tokens: _containers.RepeatedScalarFieldContainer[int]
    top_probabilities: _containers.RepeatedScalarFieldContainer[float]
    probabilities: _containers.RepeatedScalarFieldContainer[float]
    sampled_tokens: _containers.RepeatedScalarFieldContainer[int]
    sampled_values: _containers.RepeatedScalarFieldContainer[float]
    quantiles: _containers.RepeatedScalarFieldContainer[float]
    raw: _containers.RepeatedScalarFieldContainer[float]
    argmax_symbols: _containers.RepeatedScalarFieldContainer[str]
    top_symbols: _containers.RepeatedScalarFieldContainer[str]
    sampled_symbols: _containers.RepeatedScalarFieldContainer[str]
    count: int
    levels: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, argmax: _Optional[_Iterable[int]] = ..., top_tokens: _Optional[_Iterable[int]] = ..., top_probabilities: _Optional[_Iterable[float]] = ..., probabilities: _Optional[_Iterable[float]] = ..., sampled_tokens: _Optional[_Iterable[int]] = ..., sampled_values: _Optional[_Iterable[float]] = ..., quantiles: _Optional[_Iterable[float]] = ..., raw: _Optional[_Iterable[float]] = ..., argmax_symbols: _Optional[_Iterable[str]] = ..., top_symbols: _Optional[_Iterable[str]] = ..., sampled_symbols: _Optional[_Iterable[str]] = ..., count: _Optional[int] = ..., levels: _Optional[_Iterable[float]] = ...) -> None: ...
