"""Hands answers to whoever asked for them; one receiver's fault disturbs nobody else."""

from collections.abc import Sequence

import numpy as np
import structlog

from service.engine.work.lones import Tags
from service.engine.work.work import Answers, Caller, Delivery, Ints, Part
from service.errors import CellarError, InternalError

_FIRST = np.zeros(1, np.int64)  # the only row of a caller with one step
_log = structlog.get_logger(__name__)


def deliver(caller: Caller, delivery: Delivery) -> None:
    """Hand one delivery over."""
    try:
        caller.deliver(delivery)
    except Exception:  # whatever a receiver does must not keep the others waiting
        _log.exception("reply could not be handed over")


def hand_over(
    part: Part, positions: Ints, answers: Answers | CellarError, *, replayed: bool = False
) -> None:
    """Answer the callers of a part's rows, which stand at ``positions`` (rows,) now."""
    callers, tags = part.work.callers, part.work.tags
    if len(part.rows) < len(part.work.slots):
        if tags is not None:
            tags = tags.only(part.rows)
        elif len(callers) > 1:
            callers = [callers[row] for row in part.rows.tolist()]
    answer(callers, tags, part.origin, positions, answers, replayed=replayed)


def answer(
    callers: Sequence[Caller],
    tags: Tags | None,
    origin: Ints,
    positions: Ints,
    answers: Answers | CellarError,
    *,
    replayed: bool = False,
) -> None:
    """Answer rows, (rows,) each, to one caller, to one caller per row, or as their tags say."""
    if tags is not None:
        _answer_lones(tags, positions, answers)
        return
    error = answers if isinstance(answers, CellarError) else None
    found = None if isinstance(answers, CellarError) else answers
    if len(callers) == 1:
        delivery = Delivery(
            rows=origin,
            positions=positions,
            answers=found,
            error=error,
            replayed=replayed and error is None,
        )
        deliver(callers[0], delivery)
        return
    for row, caller in enumerate(callers):
        delivery = Delivery(
            rows=_FIRST,
            positions=positions[row : row + 1],
            answers=None if found is None else found.rows(row, row + 1),
            error=error,
        )
        deliver(caller, delivery)


def _answer_lones(tags: Tags, positions: Ints, answers: Answers | CellarError) -> None:
    """Answer lone steps; where their replies cannot be made, say so to each."""
    if not isinstance(answers, CellarError):
        try:
            replies = tags.replies(positions, answers)
        except Exception:
            _log.exception("replies could not be made")
            answers = InternalError(
                "the step was applied, but its reply could not be made; the server's log tells why"
            )
        else:
            for sender, reply in zip(tags.senders, replies, strict=True):
                try:
                    sender.put(reply)
                except Exception:
                    _log.exception("reply could not be handed over")
            return
    for row in range(len(positions)):
        delivery = Delivery(rows=_FIRST, positions=positions[row : row + 1], error=answers)
        deliver(tags.caller(row), delivery)
