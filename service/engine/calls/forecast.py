"""Forecasts by sampled paths, from copies of a session in spare slots.

The paths step through the same queue as everybody's steps, and leave the session as it is.
Knows nothing of gRPC.
"""

import asyncio
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from models.manifest import PredictionKind, ValuesInput
from service.engine.engine import Engine
from service.engine.scheduler.screening import lost_error
from service.engine.served.outputs import check_can_draw, check_levels
from service.engine.shard.shard import Shard
from service.engine.work.sampling import path_seeds
from service.engine.work.work import Draws, Floats, Fork, Outputs, Peek, Sampling, Steps, Work
from service.errors import BadInputError, NotStartedError

_SAMPLE = Outputs(sample=True)
_LARGEST = np.float32(1e37)
_SMALLEST = np.float32(1e-37)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastResult:
    """Quantiles and means over sampled paths, in the user's units."""

    position: int
    levels: tuple[float, ...]
    quantiles: Floats  # (horizon, levels)
    mean: Floats  # (horizon,)
    paths: Floats  # (paths, horizon)


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
    served = engine.find(session_id).served
    paths = paths or settings.default_paths
    if not 0 < horizon <= settings.max_horizon:
        raise BadInputError("horizon", f"{horizon} is not in 1..{settings.max_horizon}")
    if not 1 < paths <= settings.max_paths:
        raise BadInputError("paths", f"{paths} is not in 2..{settings.max_paths}")
    check_levels("quantiles", levels, at_most=settings.max_levels)
    check_can_draw(served.manifest, "forecast")
    if served.manifest.prediction.kind is not PredictionKind.DISTRIBUTION:
        raise BadInputError("session_id", "the session's model predicts tokens: use Generate")
    session = engine.find(session_id)
    shard = session.shard
    position = _require_started(shard, session.slot)
    # A path may run away; kept within what float32 and the model take, it is still an extreme one.
    values = served.manifest.input
    positive = isinstance(values, ValuesInput) and values.are_positive[0]
    within = partial(np.clip, a_min=_SMALLEST if positive else -_LARGEST, a_max=_LARGEST)

    fork = await _fork(shard, session.slot, position, paths)
    spares = fork.spares
    draws = replace(Draws.repeated(Sampling(), paths), seed=path_seeds(seed, paths))
    sampled = np.empty((paths, horizon), np.float32)
    try:
        at = np.full(paths, position, np.int64)
        peek = Peek(slots=spares, expected=at, outputs=_SAMPLE, draws=draws)
        sampled[:, 0] = within(await _sampled_values(shard, peek))
        for ahead in range(1, horizon):
            step = Steps(
                slots=spares,
                expected=at + ahead - 1,
                outputs=_SAMPLE,
                draws=draws,
                inputs=sampled[:, ahead - 1 : ahead].copy(),
                contents=np.zeros(paths, np.int64),
            )
            sampled[:, ahead] = within(await _sampled_values(shard, step))
    finally:
        shard.residents.return_spares(fork)
    # Off the loop: ten million numbers take long to sort.
    quantiles = await asyncio.to_thread(np.quantile, sampled, levels, axis=0)
    return ForecastResult(
        position=position,
        levels=levels,
        quantiles=quantiles.T.astype(np.float32),  # (horizon, levels)
        mean=sampled.mean(axis=0, dtype=np.float64).astype(np.float32),
        paths=sampled,
    )


def _require_started(shard: Shard, slot: int) -> int:
    shard.gather()
    if shard.table.lost[slot]:
        raise lost_error(int(shard.table.position[slot]))
    position = int(shard.table.accepted[slot])  # where what is queued will have led
    if position == 0:
        raise NotStartedError("session_id: the session has read nothing yet: send steps first")
    return position


async def _fork(shard: Shard, slot: int, position: int, copies: int) -> Fork:
    """Copy a session to spare slots, which the caller must return."""
    fork = Fork(
        slots=np.array([slot], np.int64), expected=np.array([position], np.int64), copies=copies
    )
    await shard.perform(fork)
    return fork


async def _sampled_values(shard: Shard, work: Work) -> Floats:
    """Run work over spare slots and gather what was drawn, (rows,)."""
    values = np.empty(len(work.slots), np.float32)
    for delivery in await shard.perform(work):
        assert delivery.answers is not None, "errors are raised"
        assert delivery.answers.sampled_values is not None, "a draw was asked for"
        values[delivery.rows] = delivery.answers.sampled_values
    return values
