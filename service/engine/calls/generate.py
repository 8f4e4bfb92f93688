"""Generation on the server: each draw is fed back as the session's next step.

The steps go through the same queue as everybody's, so that sessions that generate share batches
with sessions that step. Knows nothing of gRPC.
"""

from collections.abc import AsyncGenerator, Sequence

import numpy as np

from models.manifest import TokensInput
from service.engine.engine import Engine
from service.engine.scheduler.screening import lost_error
from service.engine.served.decoder import SAMPLE, Piece
from service.engine.served.inputs import CheckedSteps
from service.engine.served.outputs import check_can_draw, check_sampling
from service.engine.work.work import (
    Answers,
    Draws,
    Peek,
    Sampling,
)
from service.errors import BadInputError, NotStartedError, PositionMismatchError


async def generate(
    engine: Engine,
    session_id: str,
    *,
    prompt: CheckedSteps | None,
    max_steps: int,
    sampling: Sampling,
    stop: Sequence[str] = (),
    position: int | None = None,
) -> AsyncGenerator[Piece, None]:
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
    most = engine.settings.max_stop_strings
    if len(stop) > most or any(len(word) > engine.settings.max_stop_length for word in stop):
        raise BadInputError(
            "stop",
            f"use at most {most} strings of {engine.settings.max_stop_length} characters",
        )
    if not all(stop):
        raise BadInputError("stop", "an empty stop string would stop at once: leave it out")
    if stop and not isinstance(served.manifest.input, TokensInput):
        raise BadInputError("stop", "the model generates values, not text")

    if prompt is not None and len(prompt):
        result = await engine.advance(
            session_id, prompt, outputs=SAMPLE, sampling=sampling, position=position
        )
        drawn, at = result.answers, result.position
    else:
        drawn, at = await _draw_again(engine, session_id, sampling, position)

    session = engine.find(session_id)
    drawn_step = drawn.sampled_tokens if drawn.sampled_tokens is not None else drawn.sampled_values
    assert drawn_step is not None, "a draw was asked for"
    generations = served.generations_of(session.shard)
    call = generations.start(
        session.slot, at, drawn_step, steps=max_steps, sampling=sampling, stop=stop
    )
    try:
        while True:
            await call.news.wait()
            piece = generations.take(call)
            if piece is not None:
                yield piece
            if call.ended and not call.pieces:
                break
    finally:
        generations.cancel(call)
    if call.error is not None:
        raise call.error


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
        outputs=SAMPLE,
        draws=Draws.repeated(sampling, 1),
    )
    (delivery,) = await session.shard.perform(peek)
    assert delivery.answers is not None, "errors are raised"
    return delivery.answers, current
