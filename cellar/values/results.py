"""What comes back besides predictions: pieces, forecasts, whole sequences, replies to frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from cellar.errors import CellarError, ProtocolError
from cellar.v1 import model_pb2, session_pb2
from cellar.values.predictions import Floats, Ints, Positions, Predictions, column, decode, table


class FinishReason(StrEnum):
    """Why a generation ended."""

    LENGTH = "length"
    STOP = "stop"


_FINISH = {
    session_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    session_pb2.FINISH_REASON_STOP: FinishReason.STOP,
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Piece:
    """A piece of what was generated; the session has read it.

    Attributes:
        text: the piece as text (models with a vocabulary).
        tokens: the piece as token ids (steps,).
        values: the piece as values (steps,) (series models).
        position: the session's position after this piece.
        finish_reason: set on the last piece.
    """

    text: str
    tokens: Ints
    values: Floats
    position: int
    finish_reason: FinishReason | None

    def __repr__(self) -> str:
        """What was generated, and why it ended if it has."""
        numbers = self.values if len(self.values) else self.tokens
        what = repr(self.text) if self.text else repr(numbers.tolist())
        end = f", the last: {self.finish_reason}" if self.finish_reason else ""
        return f"<piece {what} up to {self.position}{end}>"

    @classmethod
    def decode(cls, message: session_pb2.GenerateResponse) -> Piece:
        """From the wire."""
        return cls(
            text=message.text,
            tokens=np.array(message.tokens, np.int32),
            values=np.array(message.values, np.float32),
            position=message.position,
            finish_reason=_FINISH.get(message.finish_reason),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Forecast:
    """A forecast, from sampled paths, in the user's units.

    Attributes:
        position: the session's position, which the forecast left alone.
        levels: the quantile levels.
        quantiles: quantiles over the paths (horizon, levels).
        mean: means over the paths (horizon,).
        paths: the paths (paths, horizon), when asked for.
    """

    position: int
    levels: tuple[float, ...]
    quantiles: Floats
    mean: Floats
    paths: Floats | None

    def __repr__(self) -> str:
        """How far it reaches, from where, and what there is of it."""
        levels = ", ".join(f"{level:g}" for level in self.levels)
        paths = "" if self.paths is None else f", {len(self.paths)} paths"
        return (
            f"<forecast of {len(self.mean)} steps from {self.position}: mean, quantiles at {levels}"
            f"{paths}>"
        )

    def quantile(self, level: float) -> Floats:
        """The quantile at one of the levels (horizon,).

        Raises:
            KeyError: it was not asked for.
        """
        for index, each in enumerate(self.levels):
            if abs(each - level) < 1e-6:
                return self.quantiles[:, index]
        raise KeyError(level)

    @classmethod
    def decode(cls, message: session_pb2.ForecastResponse, horizon: int) -> Forecast:
        """From the wire.

        Raises:
            ProtocolError: the columns do not fit the horizon.
        """
        quantiles = table(message.quantiles, horizon, np.float32, "quantiles")
        mean = column(message.mean, horizon, np.float32, "mean")
        levels = tuple(round(level, 6) for level in message.levels)
        if quantiles is None or mean is None or quantiles.shape[1] != len(levels):
            raise ProtocolError(f"not a forecast of {horizon} steps at {len(levels)} levels")
        if len(message.paths) % horizon:
            raise ProtocolError(f"{len(message.paths)} numbers in paths of {horizon} steps")
        paths = np.array(message.paths, np.float32).reshape(-1, horizon)
        return cls(
            position=message.position,
            levels=levels,
            quantiles=quantiles,
            mean=mean,
            paths=paths if len(paths) else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class SequencePredictions(Sequence[Predictions]):
    """Predictions for whole sequences; indexing and iterating give those of each sequence.

    Attributes:
        model: the model's name.
        version: its version.
        counts: predictions of each sequence (sequences,); one each, unless for every step.
        predictions: the predictions of all sequences, concatenated. Their ``positions`` are the
            steps read of the sequence.
    """

    model: str
    version: int
    counts: Positions
    predictions: Predictions

    def __repr__(self) -> str:
        """Of how many sequences, by which model."""
        return (
            f"<predictions for {len(self)} sequences by {self.model} {self.version}: "
            f"{self.predictions!r}>"
        )

    def __len__(self) -> int:
        """The number of sequences."""
        return len(self.counts)

    def __getitem__(self, index: Any) -> Any:
        """The predictions of one sequence; or a tuple of them, for a slice."""
        if isinstance(index, slice):
            return tuple(self[row] for row in range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"sequence {index} of {len(self)}")
        stop = int(self.counts[: index % len(self) + 1].sum())
        return self.predictions[stop - int(self.counts[index]) : stop]

    @property
    def last(self) -> Predictions:
        """The prediction after each sequence's last step, (sequences,)."""
        return self.predictions.take(np.cumsum(self.counts) - 1)

    @property
    def labels(self) -> tuple[str, ...]:
        """The most likely label of each sequence, for models that label."""
        return self.last.labels

    @classmethod
    def decode(
        cls,
        message: model_pb2.PredictResponse,
        *,
        steps: Positions,
        vocabulary: tuple[str, ...],
        levels: tuple[float, ...],
    ) -> SequencePredictions:
        """From the wire; ``steps`` (sequences,) is what was sent of each.

        Raises:
            ProtocolError: the columns do not fit what was sent.
        """
        counts = np.array(message.counts, np.int64)
        if not len(counts):
            counts, positions = np.ones_like(steps), steps
        elif np.array_equal(counts, steps):
            positions = np.concatenate([np.arange(1, each + 1) for each in steps.tolist()])
        else:
            raise ProtocolError(f"{int(counts.sum())} predictions for {int(steps.sum())} steps")
        return cls(
            model=message.model,
            version=message.model_version,
            counts=counts,
            predictions=decode(
                message.predictions,
                positions=positions,
                replayed=np.zeros(len(positions), np.bool_),
                vocabulary=vocabulary,
                levels=levels,
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFailure:
    """Why one row of a frame or of an attach was refused."""

    channel: int
    session_id: str
    error: CellarError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class StreamReply:
    """The answer to one frame: its rows that went through, in the order asked.

    Attributes:
        frame: the frame's number, as ``send`` returned it.
        channels: the channels answered (rows,).
        positions: the position of each after its steps (rows,).
        counts: predictions per channel (rows,); one each, unless for every step.
        predictions: the predictions of all rows, concatenated.
        failures: the rows that were refused; they are in no column above.
    """

    frame: int
    channels: Positions
    positions: Positions
    counts: Positions
    predictions: Predictions
    failures: tuple[RowFailure, ...] = ()

    def __repr__(self) -> str:
        """How many rows went through, and how many did not."""
        refused = f", {len(self.failures)} refused" if self.failures else ""
        return (
            f"<reply to frame {self.frame}: {len(self.channels)} rows{refused}; "
            f"{self.predictions!r}>"
        )

    def check(self) -> StreamReply:
        """Returns itself.

        Raises:
            RowsRefusedError: some rows were refused.
        """
        if self.failures:
            raise RowsRefusedError(self.failures, self)
        return self


class RowsRefusedError(CellarError):
    """Some rows were refused; the others went through.

    Attributes:
        failures: the refused rows, each with its own typed error.
        reply: the reply with the rows that went through; None for an attach.
    """

    def __init__(self, failures: Sequence[RowFailure], reply: StreamReply | None = None) -> None:
        """Builds the message from the first failure."""
        first = failures[0]
        super().__init__(
            f"{len(failures)} row(s) refused, the first on channel {first.channel}: {first.error}",
            reason=first.error.reason,
            code=first.error.code,
            position=first.error.position,
        )
        self.failures = tuple(failures)
        self.reply = reply
