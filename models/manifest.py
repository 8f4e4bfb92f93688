"""What a servable recurrent model says of itself.

A manifest lives inside its ONNX file, under one metadata key, so that a model is one file.
It is the whole contract between whoever makes models and whoever serves them.

The portable graph it describes has a batch axis everywhere and, if ``lengths`` is set, a time
axis right after it::

    tokens (batch, time) int64 (or int32)  |  values (batch, time, width) float32
    lengths (batch,) int32 (or int64)          valid steps per row, each >= 1
    one tensor per state (batch, ...) float32
      ->  prediction (batch, time, prediction width) float32
          one tensor per state, after each row's last valid step

A model without states reads whole sequences, and may predict once for each: ``(batch, width)``.
"""

import hashlib
import math
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

import numpy as np
import onnx
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from models.errors import ModelError

METADATA_KEY = "cellar.manifest"

MOST_TEXT = 8 * 2**20
"""Bytes of a manifest."""
MOST_WIDTH = 2**18
"""Symbols of a vocabulary, features, labels or numbers of a prediction."""
MOST_STATES = 1024
MOST_SESSION_NUMBERS = 2**28
"""Numbers of a session's state: 1 GiB."""
_LARGEST = float(np.finfo(np.float32).max)
_Name = Annotated[str, Field(max_length=1024)]
_Width = Annotated[int, Field(ge=1, le=MOST_WIDTH)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TokensInput(_Part):
    """Token ids, one per step; token ``i`` stands for ``vocabulary[i]``."""

    kind: Literal["tokens"] = "tokens"
    name: _Name = "tokens"
    vocabulary: tuple[_Name, ...] = Field(min_length=1, max_length=MOST_WIDTH)
    unknown: int | None = Field(default=None, ge=0)
    """The token of every character that the vocabulary lacks; None: such characters are refused."""

    @property
    def width(self) -> int:
        """Numbers per step."""
        return 1

    @model_validator(mode="after")
    def _symbols_are_distinct(self) -> Self:
        if len(set(self.vocabulary)) != len(self.vocabulary):
            raise ValueError("vocabulary holds a symbol twice")
        return self

    @model_validator(mode="after")
    def _unknown_is_a_token(self) -> Self:
        if self.unknown is not None and self.unknown >= len(self.vocabulary):
            raise ValueError(
                f"unknown is token {self.unknown}, but the vocabulary has "
                f"{len(self.vocabulary)} symbols"
            )
        return self


class ValuesInput(_Part):
    """Rows of real values, one per step, in the user's own units."""

    kind: Literal["values"] = "values"
    name: _Name = "values"
    features: tuple[_Name, ...] = Field(min_length=1, max_length=MOST_WIDTH)
    positive: bool | tuple[_Name, ...] = False
    """Features whose values must be above zero (the graph takes logarithms); True is all."""

    @property
    def width(self) -> int:
        """Numbers per step."""
        return len(self.features)

    @property
    def are_positive(self) -> tuple[bool, ...]:
        """Which features must be above zero, (width,)."""
        named = self.positive
        if isinstance(named, bool):
            return (named,) * self.width
        return tuple(feature in named for feature in self.features)

    @model_validator(mode="after")
    def _positive_features_exist(self) -> Self:
        if isinstance(self.positive, tuple) and not set(self.positive) <= set(self.features):
            raise ValueError(f"positive names a feature that is not one of {self.features}")
        return self


class State(_Part):
    """One recurrent tensor: what the graph reads and what it hands back."""

    input: _Name
    output: _Name
    shape: tuple[PositiveInt, ...] = Field(min_length=1, max_length=16)
    """Shape for one session, without the batch axis."""
    batch_axis: int = Field(default=0, ge=0)
    initial: float | tuple[float, ...] = 0.0
    """Where a session starts: one number for all entries, or one for each in row-major order."""

    @model_validator(mode="after")
    def _batch_axis_is_one_of_its_axes(self) -> Self:
        if self.batch_axis > len(self.shape):
            raise ValueError(f"batch_axis {self.batch_axis} is outside the shape")
        return self

    @field_validator("initial")
    @classmethod
    def _can_be_held(cls, initial: float | tuple[float, ...]) -> float | tuple[float, ...]:
        numbers = initial if isinstance(initial, tuple) else (initial,)
        if not all(abs(number) <= _LARGEST for number in numbers):  # nan is not, either
            raise ValueError("a number in it is not finite in float32")
        return initial

    @model_validator(mode="after")
    def _initial_fits_the_shape(self) -> Self:
        if isinstance(self.initial, tuple) and len(self.initial) != math.prod(self.shape):
            raise ValueError(
                f"initial has {len(self.initial)} numbers, and shape {list(self.shape)} has "
                f"{math.prod(self.shape)} entries"
            )
        return self

    @property
    def start(self) -> NDArray[np.float32]:
        """What a session starts from, (*shape)."""
        return filled(self.initial, self.shape)

    def batched_start(self, rows: int) -> NDArray[np.float32]:
        """What so many sessions start from, with the batch on its axis."""
        return np.repeat(np.expand_dims(self.start, self.batch_axis), rows, self.batch_axis)


class PredictionKind(StrEnum):
    """How to read the prediction tensor."""

    LOGITS = "logits"
    """A score per token of the vocabulary, for the next token."""
    LABELS = "labels"
    """A score per label, for the sequence so far."""
    DISTRIBUTION = "distribution"
    RAW = "raw"


class Prediction(_Part):
    """The graph's answer: for every step, or one for the whole sequence."""

    output: _Name
    kind: PredictionKind
    width: _Width
    labels: tuple[_Name, ...] = Field(default=(), max_length=MOST_WIDTH)
    """What each column scores, where the kind is ``labels``."""
    per_step: bool = True
    """``output`` is ``(batch, time, width)``; otherwise ``(batch, width)``, of a whole sequence."""

    @model_validator(mode="after")
    def _labels_fit(self) -> Self:
        if (self.kind is PredictionKind.LABELS) != bool(self.labels):
            raise ValueError("labels go with the kind 'labels', and it with them")
        if self.labels and (len(self.labels) != self.width or len(set(self.labels)) != self.width):
            raise ValueError(f"{self.width} columns need as many different labels")
        return self


class Quantiles(_Part):
    """Quantiles of the next value, or of the first one of several that are read per step.

    It is a part of the graph that hangs on the prediction alone.

    It maps ``prediction (batch, time, width)`` and ``levels (batch, levels)`` in (0, 1) to
    ``output (batch, time, levels)``, in the user's units.
    """

    levels: _Name = "levels"
    output: _Name = "quantiles"


class Provenance(_Part):
    """How a model came to be."""

    command: str
    created: datetime
    data: str
    data_sha256: str
    seed: int
    steps: int
    seconds: float
    config: dict[str, Any]
    versions: dict[str, str]


class Manifest(_Part):
    """The contract of one model file."""

    format: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    task: Literal["char", "series", "classify", "foreign"] = "foreign"
    input: Annotated[TokensInput | ValuesInput, Field(discriminator="kind")]
    lengths: _Name | None = None
    """Input with the valid steps per row.

    Without it the graph takes one step at a time, or sequences of one length if it has no states.
    """
    states: tuple[State, ...] = Field(max_length=MOST_STATES)
    """Empty: the model reads whole sequences only (a bidirectional one, say)."""
    prediction: Prediction
    quantiles: Quantiles | None = None
    provenance: Provenance | None = None
    scores: dict[str, float] = Field(default_factory=dict)

    @field_validator("states")
    @classmethod
    def _can_be_kept(cls, states: tuple[State, ...]) -> tuple[State, ...]:
        numbers = sum(math.prod(state.shape) for state in states)
        if numbers > MOST_SESSION_NUMBERS:
            raise ValueError(
                f"one session's states have {numbers:,} numbers, and {MOST_SESSION_NUMBERS:,} are "
                "the most"
            )
        return states

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        kind = self.prediction.kind
        if not self.prediction.per_step and self.states:
            raise ValueError("a model with states predicts at every step: prediction.per_step")
        if not self.prediction.per_step and kind is PredictionKind.DISTRIBUTION:
            raise ValueError("a distribution is one of the next value, at every step")
        if kind is PredictionKind.LOGITS:
            if not isinstance(self.input, TokensInput):
                raise ValueError("logits need an input with a vocabulary")
            if self.prediction.width != len(self.input.vocabulary):
                raise ValueError(
                    f"prediction.width is {self.prediction.width} but the vocabulary has "
                    f"{len(self.input.vocabulary)} symbols"
                )
        if (kind is PredictionKind.DISTRIBUTION) != (self.quantiles is not None):
            raise ValueError("a distribution needs quantiles, and nothing else has them")
        if kind is PredictionKind.DISTRIBUTION and not isinstance(self.input, ValuesInput):
            raise ValueError("a distribution needs an input of values")
        return self

    @property
    def is_streamable(self) -> bool:
        """Whether it continues sequences step by step; otherwise it reads them whole."""
        return bool(self.states)

    @property
    def prediction_is_resident(self) -> bool:
        """Whether a session's last prediction is kept beside its state.

        A character model's is not: it is a linear head of the state, and computed again.
        """
        return self.task != "char"

    @property
    def session_bytes(self) -> int:
        """Bytes of device memory per session: its state, and its last prediction if resident.

        0 where there can be no session.
        """
        if not self.is_streamable:
            return 0
        numbers = self.prediction.width if self.prediction_is_resident else 0
        for state in self.states:
            size = 1
            for length in state.shape:
                size *= length
            numbers += size
        return 4 * numbers

    def embed(self, model: onnx.ModelProto) -> None:
        """Write this manifest into an ONNX model, replacing what it has."""
        kept = [entry for entry in model.metadata_props if entry.key != METADATA_KEY]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
        model.metadata_props.add(key=METADATA_KEY, value=self.model_dump_json())

    @classmethod
    def extract(cls, model: onnx.ModelProto) -> "Manifest | None":
        """Read the manifest of an ONNX model; ``None`` when it carries none.

        Raises:
            ModelError: it carries one that is broken.
        """
        for entry in model.metadata_props:
            if entry.key == METADATA_KEY:
                return cls.parse(entry.value, where=f"metadata '{METADATA_KEY}'")
        return None

    @classmethod
    def parse(cls, text: str, *, where: str) -> "Manifest":
        """Read a manifest from JSON; ``where`` names the source in the error.

        Raises:
            ModelError: the text is no manifest; the message names the first wrong field.
        """
        if len(text) > MOST_TEXT:
            raise ModelError(
                f"{where}: a manifest of {len(text):,} characters, and {MOST_TEXT:,} are the most"
            )
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "manifest"
            raise ModelError(f"{where}: {field}: {first['msg']}") from error


def filled(initial: float | Sequence[float], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """An initial value as a tensor of ``shape``: one number for all entries, or one for each."""
    if isinstance(initial, Sequence):
        return np.array(initial, np.float32).reshape(shape)
    return np.full(shape, initial, np.float32)


def fingerprint(model: onnx.ModelProto) -> str:
    """Hash what a model computes: graph, weights, local functions, versions of the operators.

    Metadata does not count.
    """
    digest = hashlib.sha256()
    for part in (model.graph, *model.functions, *model.opset_import):
        content = part.SerializeToString(deterministic=True)
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()
