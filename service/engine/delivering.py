"""Hands answers to whoever asked for them; one receiver's fault disturbs nobody else."""

import numpy as np
import structlog

from service.engine.batch import Answers, Caller, Delivery, Ints, Part
from service.engine.lones import Tags
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
    if tags is not None:
        whole = len(part.rows) == len(part.work.slots)
        answer_lones(tags if whole else tags.only(part.rows), positions, answers)
        return
    error = answers if isinstance(answers, CellarError) else None
    found = None if isinstance(answers, CellarError) else answers
    if len(callers) == 1:
        delivery = Delivery(
            rows=part.origin,
            positions=positions,
            answers=found,
            error=error,
            replayed=replayed and error is None,
        )
        deliver(callers[0], delivery)
        return
    for index, row in enumerate(part.rows.tolist()):
        delivery = Delivery(
            rows=_FIRST,
            positions=positions[index : index + 1],
            answers=None if found is None else found.rows(index, index + 1),
            error=error,
        )
        deliver(callers[row], delivery)


def answer_lones(tags: Tags, positions: Ints, answers: Answers | CellarError) -> None:
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
