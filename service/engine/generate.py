"""Loops that run on the server: generation, and forecasts by sampled paths.

Both feed draws back as the next steps, through the same queue as everybody's steps, so that
sessions that generate share batches with sessions that step. Knows nothing of gRPC.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial

import numpy as np

from models.manifest import PredictionKind, TokensInput
from service.engine.batch import (
    Answers,
    Delivery,
    Draws,
    Floats,
    Fork,
    Outputs,
    Peek,
    Sampling,
    Work,
)
from service.engine.batch import Steps as StepsWork
from service.engine.engine import Engine, ServedModel
from service.engine.inputs import Steps
from service.engine.outputs import check_levels, check_sampling
from service.engine.sampling import path_seeds
from service.engine.shard import Shard, lost_error
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastResult:
    """Quantiles and means over sampled paths, in the user's units."""

    position: int
    levels: tuple[float, ...]
    quantiles: Floats  # (horizon, levels)
    mean: Floats  # (horizon,)
    paths: Floats  # (paths, horizon)


async def generate(
    engine: Engine,
    session_id: str,
    *,
    prompt: Steps | None,
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
    session, served = engine.find(session_id)
    limit = engine.settings.max_generate_steps
    if not 0 < max_steps <= limit:
        raise BadInputError("max_steps", f"{max_steps} is not in 1..{limit}")
    _check_can_draw(served, "generated")
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
        drawn, at = await _draw_again(served, session.slot, sampling, position)

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


async def forecast(
    engine: Engine,
    session_id: str,
    *,
    horizon: int,
    paths: int = 0,
    levels: tuple[float, ...],
    seed: int = 0,
) -> ForecastResult:
    """Sample paths from copies of a session, and leave the session as it is.

    Raises:
        NotStartedError: the session has read nothing yet.
        CellarError: the forecast could not be made; nothing was changed either way.
    """
    engine.check_ready()
    settings = engine.settings
    session, served = engine.find(session_id)
    paths = paths or settings.default_paths
    if not 0 < horizon <= settings.max_horizon:
        raise BadInputError("horizon", f"{horizon} is not in 1..{settings.max_horizon}")
    if not 1 < paths <= settings.max_paths:
        raise BadInputError("paths", f"{paths} is not in 2..{settings.max_paths}")
    check_levels("quantiles", levels)
    if served.manifest.prediction.kind is not PredictionKind.DISTRIBUTION:
        raise BadInputError("session_id", "the session's model predicts tokens: use Generate")
    _check_can_draw(served, "forecast")
    shard, slot = served.shard, session.slot
    await shard.settled(slot)
    position = _require_started(shard, slot)

    fork = await _fork(shard, slot, position, paths)
    spares = fork.spares
    draws = replace(Draws.repeated(Sampling(), paths), seed=path_seeds(seed, paths))
    sampled = np.empty((paths, horizon), np.float32)
    try:
        at = np.full(paths, position, np.int64)
        peek = Peek(slots=spares, expected=at, outputs=_SAMPLE, draws=draws)
        sampled[:, 0] = await _sampled_values(shard, peek)
        for ahead in range(1, horizon):
            values = sampled[:, ahead - 1 : ahead]
            _check_finite(values)
            step = StepsWork(
                slots=spares,
                expected=at + ahead - 1,
                outputs=_SAMPLE,
                draws=draws,
                inputs=np.ascontiguousarray(values),
                contents=np.zeros(paths, np.int64),
            )
            sampled[:, ahead] = await _sampled_values(shard, step)
        _check_finite(sampled[:, -1:])
    finally:
        shard.return_spares(fork)
    quantiles = np.quantile(sampled, levels, axis=0).T  # (horizon, levels)
    return ForecastResult(
        position=position,
        levels=levels,
        quantiles=quantiles.astype(np.float32),
        mean=sampled.mean(axis=0),
        paths=sampled,
    )


def _check_can_draw(served: ServedModel, what: str) -> None:
    if served.manifest.prediction.kind is PredictionKind.RAW:
        raise BadInputError("session_id", f"the session's model gives nothing to be {what} from")
    if served.reader.width != 1:
        raise BadInputError(
            "session_id",
            f"the session's model reads {served.reader.width} values per step but predicts one",
        )


def _check_finite(values: Floats) -> None:
    if not np.isfinite(values).all():
        raise BadInputError("horizon", "the paths leave the range of float32: forecast fewer steps")


def _require_started(shard: Shard, slot: int) -> int:
    position = int(shard.table.position[slot])
    if shard.table.lost[slot]:
        raise lost_error(position)
    if position == 0:
        raise NotStartedError("session_id: the session has read nothing yet: send steps first")
    return position


async def _draw_again(
    served: ServedModel, slot: int, sampling: Sampling, position: int | None
) -> tuple[Answers, int]:
    """Draw from the prediction that the session stands at."""
    shard = served.shard
    await shard.settled(slot)
    current = int(shard.table.position[slot])
    if position is not None and position != current:
        raise PositionMismatchError(position, current)
    if current == 0:
        raise NotStartedError("prompt: the session has read nothing yet: give a prompt")
    peek = Peek(
        slots=np.array([slot], np.int64),
        expected=np.array([current], np.int64),
        outputs=_SAMPLE,
        draws=Draws.repeated(sampling, 1),
    )
    (delivery,) = await _deliveries(shard, peek)
    assert delivery.answers is not None, "errors are raised"
    return delivery.answers, current


def _drawn_step(
    served: ServedModel, answers: Answers
) -> tuple[Steps, int | None, float | None, str]:
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


async def _fork(shard: Shard, slot: int, position: int, copies: int) -> Fork:
    """Copy a session to spare slots, which the caller must return."""
    fork = Fork(
        slots=np.array([slot], np.int64), expected=np.array([position], np.int64), copies=copies
    )
    try:
        await _deliveries(shard, fork)
    except asyncio.CancelledError:
        # It may be running: whatever it borrowed goes back once it has run.
        shard.when_idle(slot, partial(shard.return_spares, fork))
        raise
    return fork


async def _sampled_values(shard: Shard, work: Work) -> Floats:
    """Run work over spare slots and gather what was drawn, (rows,)."""
    values = np.empty(len(work.slots), np.float32)
    for delivery in await _deliveries(shard, work):
        assert delivery.answers is not None, "errors are raised"
        assert delivery.answers.sampled_values is not None, "a draw was asked for"
        values[delivery.rows] = delivery.answers.sampled_values
    return values


async def _deliveries(shard: Shard, work: Work) -> list[Delivery]:
    """Queue work and wait until each of its rows is delivered.

    Raises:
        CellarError: a row failed.
    """
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    deliveries: list[Delivery] = []
    missing = len(work.slots)

    def deliver(delivery: Delivery) -> None:
        nonlocal missing
        deliveries.append(delivery)
        missing -= len(delivery.rows)
        if missing == 0 and not done.done():
            done.set_result(None)

    work.deliver = deliver
    shard.submit_work(work)
    try:
        await done
    except asyncio.CancelledError:
        work.cancelled = True
        raise
    for delivery in deliveries:
        if delivery.error is not None:
            raise delivery.error
    return deliveries
