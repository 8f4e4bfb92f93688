"""Generation on the server: each draw is fed back as the session's next step.

The steps go through the same queue as everybody's, so that sessions that generate share batches
with sessions that step. Knows nothing of gRPC.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from models.manifest import TokensInput
from service.engine.batch import (
    Answers,
    Draws,
    Outputs,
    Peek,
    Sampling,
)
from service.engine.catalog import ServedModel
from service.engine.engine import Engine
from service.engine.inputs import CheckedSteps
from service.engine.outputs import check_can_draw, check_sampling
from service.engine.screening import lost_error
from service.errors import BadInputError, NotStartedError, PositionMismatchError

_SAMPLE = Outputs(sample=True)


class FinishReason(Enum):
    """Why a generation ended."""

    LENGTH = "length"
    STOP = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One generated step, which the session has read already."""

    token: int | None  # models with a vocabulary
    value: float | None  # series models
    text: str
    position: int
    finish_reason: FinishReason | None


async def generate(
    engine: Engine,
    session_id: str,
    *,
    prompt: CheckedSteps | None,
    max_steps: int,
    sampling: Sampling,
    stop: Sequence[str] = (),
    position: int | None = None,
) -> AsyncIterator[Piece]:
    """Read the prompt, then draw steps and read each of them.

    Raises:
        NotStartedError: no prompt, and the session has read nothing yet.
        CellarError: the steps behind the pieces that came are applied, nothing else.
    """
    engine.check_ready()
    served = engine.find(session_id).served
    limit = engine.settings.max_generate_steps
    if not 0 < max_steps <= limit:
        raise BadInputError("max_steps", f"{max_steps} is not in 1..{limit}")
    check_can_draw(served.manifest, "generated")
    check_sampling("sampling", sampling)
    if not all(stop):
        raise BadInputError("stop", "an empty stop string would stop at once: leave it out")
    if stop and not isinstance(served.manifest.input, TokensInput):
        raise BadInputError("stop", "the model generates values, not text")

    if prompt is not None and len(prompt):
        result = await engine.advance(
            session_id, prompt, outputs=_SAMPLE, sampling=sampling, position=position
        )
        drawn, at = result.answers, result.position
    else:
        drawn, at = await _draw_again(engine, session_id, sampling, position)

    text = ""
    longest = max(map(len, stop), default=0)
    for count in range(1, max_steps + 1):
        step, token, value, piece = _drawn_step(served, drawn)
        text = (text + piece)[-(longest + len(piece)) :] if longest else ""
        finish: FinishReason | None = None
        if any(word in text for word in stop):
            finish = FinishReason.STOP
        elif count == max_steps:
            finish = FinishReason.LENGTH
        result = await engine.advance(
            session_id,
            step,
            outputs=_SAMPLE,
            sampling=sampling,
            position=at,
        )
        drawn, at = result.answers, result.position
        engine.metrics.generated_tokens.inc()
        yield Piece(token=token, value=value, text=piece, position=at, finish_reason=finish)
        if finish is not None:
            return


async def _draw_again(
    engine: Engine, session_id: str, sampling: Sampling, position: int | None
) -> tuple[Answers, int]:
    """Draw from the prediction that the session stands at."""
    session = engine.find(session_id)
    session.shard.gather()
    table = session.shard.table
    if table.lost[session.slot]:
        raise lost_error(int(table.position[session.slot]))
    current = int(table.accepted[session.slot])  # where what is queued will have led
    if position is not None and position != current:
        raise PositionMismatchError(position, current)
    if current == 0:
        raise NotStartedError("prompt: the session has read nothing yet: give a prompt")
    peek = Peek(
        slots=np.array([session.slot], np.int64),
        expected=np.array([current], np.int64),
        outputs=_SAMPLE,
        draws=Draws.repeated(sampling, 1),
    )
    (delivery,) = await session.shard.perform(peek)
    assert delivery.answers is not None, "errors are raised"
    return delivery.answers, current


def _drawn_step(
    served: ServedModel, answers: Answers
) -> tuple[CheckedSteps, int | None, float | None, str]:
    """What was drawn: as a step, as a token or value, and as text."""
    if answers.sampled_tokens is not None:
        token = int(answers.sampled_tokens[0])
        step = served.reader.tokens(answers.sampled_tokens[:1].astype(np.int64))
        return step, token, None, served.reader.symbol(token)
    assert answers.sampled_values is not None, "a draw was asked for"
    return (
        served.reader.values(answers.sampled_values[:1]),
        None,
        float(answers.sampled_values[0]),
        "",
    )
