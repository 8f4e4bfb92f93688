"""From messages to the engine's words."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from cellar.v1 import session_pb2, values_pb2
from models.compile.serving import arena_rows
from models.manifest import Manifest
from service.engine.served.inputs import CheckedSteps, InputReader
from service.engine.work.columns import Floats, Ints, Outputs
from service.engine.work.sampling import Sampling
from service.errors import BadInputError, unapplied
from service.settings import EngineSettings

# Positions are 64-bit and unsigned on the wire, signed in the columns: none is ever so large.
LARGEST = 2**63 - 1


_MOST_STEPS = 2**18
"""Of a message, unless the limits allow more: to look at so many takes some 20 ms, and a message
that was packed may hold millions in some kilobytes."""
_MOST_LEVELS = 2**14  # and so with quantiles
_SHOWN_STATES = 8  # of a model, in an error
_KEPT_BYTES = 1024  # of what is remembered of a message


def inputs(message: values_pb2.Inputs, reader: InputReader, limits: EngineSettings) -> CheckedSteps:
    """Steps as the model takes them.

    Raises:
        BadInputError: no form is set, the model does not take this one, or they are far too many.
        OverloadedError: there is no memory for them.
    """
    kind = message.WhichOneof("kind")
    count = len(message.text) + len(message.tokens.ids) + len(message.values.data) // reader.width
    most = max(limits.max_request_steps, limits.max_frame_steps)
    if count > max(most, _MOST_STEPS):
        raise BadInputError("inputs", f"{count} steps exceed the limit of {most} per request")
    try:
        if kind == "text":
            return reader.text(message.text)
        if kind == "tokens":
            return reader.tokens(np.array(message.tokens.ids, np.int64))
        if kind == "values":
            return reader.values(np.array(message.values.data, np.float32))
    except MemoryError as fault:
        raise unapplied(fault) from fault
    raise BadInputError("inputs", "nothing is set: send text, tokens or values")


def future(data: Sequence[float]) -> Floats:
    """What a forecast reads beside its draws, flat.

    Raises:
        OverloadedError: there is no memory for it.
    """
    try:
        return np.array(data, np.float32)
    except MemoryError as fault:
        raise unapplied(fault) from fault


def one_step(message: values_pb2.Inputs, reader: InputReader) -> int | Floats | None:
    """A single good step, token id or values (1, width); ``None`` where ``inputs`` must look."""
    kind = message.WhichOneof("kind")
    if kind == "text":
        return reader.single_tokens.get(message.text)
    if kind == "tokens" and len(message.tokens.ids) == 1:
        token: int = message.tokens.ids[0]
        return token if 0 <= token < len(reader.symbols) else None
    if kind == "values" and len(message.values.data) == reader.width:
        return reader.one_row(np.array(message.values.data, np.float32))
    return None


def outputs(message: values_pb2.Outputs) -> tuple[Outputs, Sampling | None]:
    """What the caller wants, and how it draws.

    Raises:
        BadInputError: it wants far too many quantiles.
    """
    if message.HasField("sample"):  # seeds differ: nothing to remember
        return _outputs(message)
    # .5 us to serialise and look up; to read the fields and make what they say takes 2.5.
    data = message.SerializeToString()
    return _known_outputs(data) if len(data) <= _KEPT_BYTES else _outputs(message)


@lru_cache(maxsize=256)
def _known_outputs(message: bytes) -> tuple[Outputs, Sampling | None]:
    return _outputs(values_pb2.Outputs.FromString(message))


def _outputs(message: values_pb2.Outputs) -> tuple[Outputs, Sampling | None]:
    drawn = sampling(message.sample) if message.HasField("sample") else None
    wanted = Outputs(
        argmax=message.argmax,
        top_k=message.top_k,
        probabilities=message.probabilities,
        sample=drawn is not None,
        quantiles=levels("outputs.quantiles", message.quantiles),
        raw=message.raw,
        every_step=message.every_step,
    )
    return wanted, drawn


def levels(field: str, given: Sequence[float]) -> tuple[float, ...]:
    """Quantile levels, free of the last digits of float32.

    Raises:
        BadInputError: they are far too many; the engine judges the others.
    """
    if len(given) > _MOST_LEVELS:
        raise BadInputError(field, f"{len(given)} levels are more than anybody may ask for")
    return tuple(round(level, 6) for level in given)


def sampling(message: values_pb2.Sampling) -> Sampling:
    """How the caller draws."""
    return Sampling(
        temperature=message.temperature if message.HasField("temperature") else 1.0,
        top_k=message.top_k,
        top_p=message.top_p if message.HasField("top_p") else 1.0,
        seed=message.seed,
    )


def position(
    message: session_pb2.StepRequest | session_pb2.GenerateRequest | session_pb2.ForkSessionRequest,
) -> int | None:
    """The position a request claims, if it claims one."""
    return min(message.position, LARGEST) if message.HasField("position") else None


def optional(message: Message, field: str) -> Any:
    """A text or a number; ``None`` if it is not set."""
    return getattr(message, field) if message.HasField(field) else None


def initial_state(
    message: session_pb2.OpenSessionRequest, manifest: Manifest
) -> tuple[Floats, ...] | None:
    """What a session is to start from, as rows of the arena's tensors; ``None`` if unset.

    Raises:
        BadInputError: it is not the model's, or not finite.
        OverloadedError: there is no memory for it.
    """
    if not message.HasField("initial_state"):
        return None
    tensors, field = message.initial_state.tensors, "initial_state.tensors"
    states = {state.input: state for state in manifest.states}
    some = list(states.values())[:_SHOWN_STATES]
    known = ", ".join(f"'{state.input[:100]}' {list(state.shape)}" for state in some)
    known += ", ..." if len(some) < len(states) else ""
    found: dict[str, Floats] = {}
    for number, tensor in enumerate(tensors):
        own, state = f"{field}[{number}]", states.get(tensor.name)
        if state is None:
            raise BadInputError(
                f"{own}.name", f"'{tensor.name[:100]}' is no state of the model, which has {known}"
            )
        if tensor.name in found:
            raise BadInputError(f"{own}.name", f"'{tensor.name}' is there twice: send it once")
        size = math.prod(state.shape)
        if len(tensor.values) != size:
            raise BadInputError(
                f"{own}.values",
                f"'{tensor.name[:100]}' has {len(tensor.values):,} numbers, and its shape "
                f"{list(state.shape)} wants {size:,}",
            )
        try:
            values = np.array(tensor.values, np.float32)
        except MemoryError as fault:
            raise unapplied(fault) from fault
        if not np.isfinite(values).all():
            at = int(np.flatnonzero(~np.isfinite(values))[0])
            raise BadInputError(
                f"{own}.values", f"number {at} of '{tensor.name}' is {values[at]}: send finite ones"
            )
        found[tensor.name] = values
    missing = [name for name in states if name not in found]
    if missing:
        raise BadInputError(
            field,
            f"'{missing[0]}' is missing: the model has {known}, and each of its states is sent",
        )
    return arena_rows(manifest, found)


def seconds(message: Message, field: str) -> float | None:
    """A duration, if it is set."""
    if not message.HasField(field):
        return None
    duration: Duration = getattr(message, field)
    return duration.seconds + duration.nanos * 1e-9


def column(values: Sequence[int]) -> Ints | None:
    """An optional column of a frame; an empty one was left out."""
    return integers(values) if values else None


def integers(values: Sequence[int]) -> Ints:
    """A column of unsigned numbers."""
    found = np.array(values, np.uint64).view(np.int64)
    if (found < 0).any():
        found[found < 0] = LARGEST
    return found
