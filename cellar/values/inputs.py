"""From what a caller has (text, ids, numbers, arrays) to ``Inputs`` on the wire.

Checks forms and shapes only: the server judges the values, and names the row it refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cellar.errors import BadInputError
from cellar.v1 import session_pb2, values_pb2
from cellar.values import arguments
from cellar.values.model_info import InputKind, ModelInfo

StepInputs = (
    str
    | int
    | float
    | Sequence[int]
    | Sequence[float]
    | Sequence[Sequence[float]]
    | npt.NDArray[Any]
)
"""Steps of one session. For a model that reads tokens: text (a step per character), a token
id, or ids (steps,). For one that reads values: a number (width 1), numbers (steps,) at width 1
or (width,) otherwise, or rows (steps, width)."""

FrameInputs = StepInputs | Sequence[StepInputs]
"""Steps of many sessions. An array or a flat list with a row per channel: ids (channels,) or
(channels, steps); values (channels,) or (channels, steps) at width 1, (channels, width) or
(channels, steps, width) otherwise. Text with a character per channel. Or a list with the
``StepInputs`` of each channel, of any lengths."""


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """The steps of one or more sessions, one session after the other.

    Attributes:
        data: text; or ids (steps,) int32; or values (steps, width) float32.
        counts: steps of each session (rows,) int64.
    """

    data: str | npt.NDArray[np.int32] | npt.NDArray[np.float32]
    counts: npt.NDArray[np.int64]

    def message(self) -> values_pb2.Inputs:
        """The wire form."""
        if isinstance(self.data, str):
            return values_pb2.Inputs(text=self.data)
        if self.data.ndim == 1:
            return values_pb2.Inputs(tokens=values_pb2.Tokens(ids=self.data.tolist()))
        return values_pb2.Inputs(values=values_pb2.Values(data=self.data.ravel().tolist()))

    def take(self, rows: npt.NDArray[np.int64]) -> Steps:
        """The steps of some of the sessions, in the order of ``rows`` (rows,)."""
        ends = np.cumsum(self.counts)  # (rows,)
        spans = [(int(ends[row] - self.counts[row]), int(ends[row])) for row in rows]
        if isinstance(self.data, str):
            text = "".join(self.data[start:end] for start, end in spans)
            return Steps(text, self.counts[rows])
        chosen: list[npt.NDArray[Any]] = [self.data[start:end] for start, end in spans]
        return Steps(np.concatenate(chosen), self.counts[rows])


def encode(inputs: StepInputs, model: ModelInfo) -> Steps:
    """The steps of one session.

    Raises:
        BadInputError: the form or the shape does not suit the model.
    """
    steps = _encode_values(inputs, model) if _reads_values(model) else _encode_tokens(inputs)
    if not steps.counts[0]:
        raise BadInputError("no steps: the input is empty")
    return steps


def encode_frame(inputs: FrameInputs, channels: int, model: ModelInfo) -> Steps:
    """The steps of many sessions, in the order of their channels.

    Raises:
        BadInputError: the form or the shape does not suit the model, or not every channel
            has exactly one row.
    """
    if isinstance(inputs, str):
        _expect_rows(len(inputs), channels)
        return Steps(inputs, np.ones(channels, np.int64))
    rows = inputs if isinstance(inputs, np.ndarray) else _array_if_flat(inputs)
    if rows is None:
        assert isinstance(inputs, Sequence)
        _expect_rows(len(inputs), channels)
        return _join([encode(row, model) for row in inputs])
    _expect_rows(len(rows) if rows.ndim else 1, channels)
    if _reads_values(model):
        wide = rows.ndim >= 2 and model.width > 1
        per_channel = rows.reshape(channels, -1, model.width) if _fits(rows, wide, model) else None
        if per_channel is None:
            raise _bad_width(rows.shape, model)
        data = _floats(per_channel).reshape(-1, model.width)
        return Steps(data, np.full(channels, per_channel.shape[1], np.int64))
    if rows.ndim > 2:
        raise BadInputError(f"token ids are (channels,) or (channels, steps), not {rows.shape}")
    ids = _ids(rows.reshape(channels, -1))
    return Steps(ids.ravel(), np.full(channels, ids.shape[1], np.int64))


def encode_sequences(sequences: Sequence[StepInputs], model: ModelInfo) -> Steps:
    """The steps of whole sequences, in their order.

    Raises:
        BadInputError: there is none, or the form or the shape of one does not suit the model; the
            message says which.
    """
    if isinstance(sequences, str):
        raise BadInputError("predict takes a list of sequences: put the text into a list")
    if not isinstance(sequences, Iterable):
        raise arguments.refused("sequences", "a list of sequences", sequences)
    encoded = []
    for row, steps in enumerate(sequences):
        try:
            encoded.append(encode(steps, model))
        except BadInputError as error:
            raise BadInputError(
                f"sequence {row}: {error.message}", metadata={"row": str(row)}
            ) from error
    if not encoded:
        raise BadInputError("no sequence: send at least one")
    return _join(encoded)


def encode_states(
    name: str, states: Mapping[str, npt.ArrayLike] | None
) -> session_pb2.SessionState | None:
    """A session's state, by the names of the model's state inputs; ``name`` is the argument's.

    Raises:
        BadInputError: it is no such mapping, or one holds other things than numbers.
    """
    if states is None:
        return None
    if not isinstance(states, Mapping) or not all(isinstance(key, str) for key in states):
        raise arguments.refused(name, "a dict of arrays by the names of states, or None", states)
    message = session_pb2.SessionState()
    for key, values in states.items():
        own = f"{name}[{key!r}]"
        try:
            array = np.asarray(values)
        except ValueError:
            raise arguments.refused(own, "an array of numbers", values) from None
        if array.dtype.kind not in "iuf":
            raise arguments.refused(own, "an array of numbers", values)
        with np.errstate(over="ignore"):
            flat = array.astype(np.float32).ravel()
        if not np.isfinite(flat).all():
            raise arguments.refused(own, "numbers that are finite in float32", values)
        message.tensors.add(name=key, values=flat.tolist())
    return message


def _reads_values(model: ModelInfo) -> bool:
    return model.input is InputKind.VALUES


def _encode_tokens(inputs: StepInputs) -> Steps:
    if isinstance(inputs, str):
        return Steps(inputs, np.array([len(inputs)]))
    ids = np.atleast_1d(_array(inputs))
    if ids.ndim != 1:
        raise BadInputError(f"token ids are (steps,), not {ids.shape}")
    return Steps(_ids(ids), np.array([len(ids)]))


def _encode_values(inputs: StepInputs, model: ModelInfo) -> Steps:
    if isinstance(inputs, str):
        raise BadInputError(f"model {model.name!r} reads numbers, not text")
    rows = np.atleast_1d(_floats(_array(inputs)))
    if rows.ndim == 1:
        if model.width > 1 and len(rows) != model.width:
            raise _bad_width(rows.shape, model)
        rows = rows.reshape(-1, model.width)
    if rows.ndim != 2 or rows.shape[1] != model.width:
        raise _bad_width(rows.shape, model)
    return Steps(rows, np.array([len(rows)]))


def _fits(rows: npt.NDArray[Any], wide: bool, model: ModelInfo) -> bool:
    if rows.size == 0 or rows.ndim > 3 or (rows.ndim == 3 and rows.shape[2] != model.width):
        return False
    return rows.shape[-1] == model.width if wide else model.width == 1


def _join(steps: list[Steps]) -> Steps:
    counts = np.concatenate([each.counts for each in steps])
    texts = [each.data for each in steps if isinstance(each.data, str)]
    if len(texts) == len(steps):
        return Steps("".join(texts), counts)
    if texts:
        raise BadInputError("a request carries text or token ids, not both")
    arrays: list[npt.NDArray[Any]] = [each.data for each in steps]  # type: ignore[misc]
    return Steps(np.concatenate(arrays), counts)


def _array(inputs: object) -> npt.NDArray[Any]:
    try:
        return np.asarray(inputs)
    except ValueError as error:
        raise BadInputError(f"the rows of the input differ in length: {error}") from error


def _array_if_flat(inputs: object) -> npt.NDArray[Any] | None:
    """The input as an array, or None when it is a list of text or of rows."""
    if isinstance(inputs, Sequence) and any(
        (isinstance(row, str | Sequence | np.ndarray) and np.ndim(row) != 0) or isinstance(row, str)
        for row in inputs
    ):
        return None
    return _array(inputs)


def _ids(array: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    if array.size and array.dtype.kind not in "iu":
        raise _no_number(array, "text or token ids (whole numbers)")
    limits = np.iinfo(np.int32)
    if array.size and (array.min() < limits.min or array.max() > limits.max):
        raise BadInputError("a token id does not fit 32 bits")
    return array.astype(np.int32)


def _floats(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if array.size and array.dtype.kind not in "iuf":
        raise _no_number(array, "numbers")
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _no_number(array: npt.NDArray[Any], wanted: str) -> BadInputError:
    found = str(array.dtype)
    if array.dtype.kind == "O":
        others = (each for each in array.flat if not isinstance(each, int | float))
        found = next(
            (repr(each) if each is None else type(each).__name__ for each in others), found
        )
    return BadInputError(f"inputs: {wanted} are wanted, not {found}", metadata={"field": "inputs"})


def _expect_rows(rows: int, channels: int) -> None:
    if rows != channels:
        raise BadInputError(f"{channels} channels but {rows} rows of input")


def _bad_width(shape: tuple[int, ...], model: ModelInfo) -> BadInputError:
    names = f" ({', '.join(model.features)}, in this order)" if model.features else ""
    form = "(steps,)" if model.width == 1 else f"({model.width},) or (steps, {model.width})"
    return BadInputError(
        f"model {model.name!r} reads {model.width} value(s) per step{names}: give {form}, not "
        f"{shape}",
        metadata={"field": "inputs"},
    )
