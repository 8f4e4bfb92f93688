"""A frame of a stream: its columns, and what becomes of its rows."""

from dataclasses import dataclass, field

import numpy as np

from service.engine.batch import Answers, Ints
from service.engine.inputs import CheckedSteps
from service.engine.request import Submission
from service.errors import BadInputError, CellarError
from service.settings import EngineSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One row that was refused, with the session's position where it is known."""

    channel: int
    error: CellarError
    position: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Rows of one frame that ran together, or were refused."""

    frame: int
    channels: Ints  # (rows,)
    positions: Ints  # (rows,)
    counts: Ints | None  # (rows,) predictions per row; None: one each
    answers: Answers | None
    replayed: bool
    refusals: tuple[Refusal, ...] = ()


@dataclass(slots=True, eq=False, kw_only=True)
class Frame:
    """A frame that is not answered in full."""

    number: int
    channels: Ints  # (rows,)
    steps: Ints  # (rows,)
    unanswered: int  # rows
    submissions: list[Submission] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)  # not sent yet
    refused_steps: int = 0  # of those


def check_columns(
    limits: EngineSettings,
    channels: Ints,
    steps: Ints | None,
    positions: Ints | None,
    inputs: CheckedSteps,
) -> Ints:
    """Check that a frame's columns fit each other and the limits; returns the steps per row.

    Raises:
        BadInputError: they do not.
    """
    rows = len(channels)
    if not rows:
        raise BadInputError("frame.channels", "no channel in it: send at least one")
    if steps is None:
        steps = np.ones(rows, np.int64)
    if len(steps) != rows:
        raise BadInputError("frame.steps", f"{len(steps)} counts for {rows} channels")
    if positions is not None and len(positions) != rows:
        raise BadInputError("frame.positions", f"{len(positions)} for {rows} channels")
    if (steps < 1).any():
        raise BadInputError(
            "frame.steps", "every channel needs at least one step", row=int(steps.argmin())
        )
    if (steps > limits.max_request_steps).any():
        raise BadInputError(
            "frame.steps",
            f"more than {limits.max_request_steps} steps for one channel",
            row=int(steps.argmax()),
        )
    total = int(steps.sum())
    if total > limits.max_frame_steps:
        raise BadInputError(
            "frame", f"{total} steps exceed the limit of {limits.max_frame_steps} per frame"
        )
    if len(inputs) != total:
        raise BadInputError("frame.inputs", f"{len(inputs)} steps, the channels want {total}")
    return steps


def same_refusal(channels: Ints, positions: Ints, error: CellarError) -> list[Refusal]:
    """The same refusal for several rows."""
    return [
        Refusal(channel=channel, error=error, position=position)
        for channel, position in zip(channels.tolist(), positions.tolist(), strict=True)
    ]
