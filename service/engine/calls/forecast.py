"""Forecasts by sampled paths, from copies of a session in spare slots.

The paths step through the same batches as everybody's steps (see `Feedback`), and leave the session
as it is. Where a model reads several values per step, each path reads what it has drawn beside the
future that the caller gives of the others. Knows nothing of gRPC.
"""

import asyncio
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.manifest import PredictionKind
from service.engine.directory.session import Session
from service.engine.engine import Engine
from service.engine.scheduler.feedback.call import FeedbackCall, FinishReason
from service.engine.served.outputs import DEFAULT_LEVELS, check_levels
from service.engine.work.columns import SAMPLE, Answers, Floats, Ints
from service.engine.work.flow import Flow
from service.engine.work.memory import Held
from service.engine.work.sampling import Draws, Sampling, path_seeds
from service.engine.work.work import Fork
from service.errors import BadInputError
from service.settings import EngineSettings

_OTHER_BYTES = 1024  # of a reply: levels, position

_COUNTED = 2**18  # bytes: less is not counted
_COPIES = 2  # of all values: as they are sampled, and to sort them


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastResult:
    """Quantiles and means over sampled paths, in the user's units."""

    position: int
    levels: tuple[float, ...]
    quantiles: Floats  # (horizon, levels)
    mean: Floats  # (horizon,)
    paths: Floats  # (paths, horizon)


class _Paths(FeedbackCall):
    """The paths of one forecast, (paths, horizon)."""

    def __init__(self, paths: int, horizon: int, beside: Floats | None) -> None:
        self.beside = beside
        self.values = np.empty((paths, horizon), np.float32)
        self.done = asyncio.Event()
        self._read = np.zeros(paths, np.int64)
        self._going_on = paths

    def put(
        self, rows: Ints, steps: NDArray[Any], position: int, reason: FinishReason | None
    ) -> None:
        """See `FeedbackCall.put`."""
        del position, reason  # where copies stand, and that they end, tells nobody anything
        start = self._read[rows]
        self._read[rows] = start + steps.shape[1]
        self.values[rows[:, None], start[:, None] + np.arange(steps.shape[1])] = steps

    def end(self, rows: Ints, draws: NDArray[Any]) -> None:
        """See `FeedbackCall.end`: the last draws need not be read."""
        self.values[rows, -1] = draws
        self._going_on -= len(rows)
        if not self._going_on or self.error is not None:
            self.done.set()


async def forecast(
    engine: Engine,
    session_id: str,
    *,
    horizon: int,
    paths: int = 0,
    levels: tuple[float, ...],
    seed: int = 0,
    include_paths: bool = False,
    branch: int = 0,
    future: Floats | None = None,
) -> ForecastResult:
    """Sample paths from copies of a session, and leave the session as it is.

    Args:
        engine: the engine.
        session_id: the session's id.
        horizon: steps ahead.
        paths: to sample; 0 takes the server's default.
        levels: of the quantiles, each strictly between 0 and 1.
        seed: the same one at the same position gives the same paths.
        include_paths: whether the paths will be sent, too: they have to fit into a message.
        branch: the branch that the session must be on; 0 is the present one.
        future: what is read beside the draws, flat, as `InputReader.future` takes it; ``None``:
            nothing was given.

    Raises:
        NotStartedError: the session has read nothing yet.
        CellarError: the forecast could not be made; nothing was changed either way.
    """
    session = engine.session(session_id)
    branch = session.shard.on_branch(session.slot, branch)
    settings, served = engine.settings, session.served
    paths = paths or settings.default_paths
    if not 0 < horizon <= settings.max_horizon:
        raise BadInputError("horizon", f"{horizon} is not in 1..{settings.max_horizon}")
    if not 1 < paths <= settings.max_paths:
        raise BadInputError("paths", f"{paths} is not in 2..{settings.max_paths}")
    levels = tuple(round(level, 6) for level in levels)  # free of float32's last digits
    if levels != DEFAULT_LEVELS:
        check_levels("quantiles", levels, at_most=settings.max_levels)
    numbers = horizon * (len(levels) + 1 + (paths if include_paths else 0))
    if 4 * numbers + _OTHER_BYTES > settings.max_message_bytes:
        raise _too_long(settings, 4 * numbers + _OTHER_BYTES, include_paths=include_paths)
    if served.manifest.prediction.kind is not PredictionKind.DISTRIBUTION:
        served.check_can_draw("forecast")
        raise BadInputError("session_id", "the session's model predicts tokens: use Generate")
    beside = None
    if future is not None or served.manifest.input.width > 1:
        beside = served.reader.future(future, horizon)
    position = session.shard.require_started(session.slot, "session_id")
    flow = engine.flows.current
    session.shard.check_room(paths, flow)

    draws = replace(Draws.repeated(Sampling(), paths), seed=path_seeds(seed, paths))
    fork = Fork(
        slots=np.array([session.slot], np.int64),
        expected=np.array([position], np.int64),
        branches=np.array([branch], np.uint64),
        row_cost=paths,
        outputs=SAMPLE,
        draws=draws,
        flow=flow,
    )
    held = _COPIES * 4 * paths * horizon + (0 if beside is None else beside.nbytes)
    with (
        flow.generating(),
        engine.memory.holding(Held.REQUEST, held) if held > _COUNTED else nullcontext(),
    ):
        flow.charge(paths * horizon, pending=paths)
        flow.take(paths)
        try:
            (forked,) = await session.shard.perform(fork)
            assert forked.answers is not None, "errors are raised"
            sampled = await _sampled(session, fork, forked.answers, horizon, beside, flow)
        finally:
            flow.answered(paths)
            session.shard.slots.return_spares(fork)
        # Off the loop: ten million numbers take long to sort.
        quantiles = await asyncio.to_thread(np.quantile, sampled, levels, axis=0)
    return ForecastResult(
        position=position,
        levels=levels,
        quantiles=quantiles.T.astype(np.float32),  # (horizon, levels)
        mean=sampled.mean(axis=0, dtype=np.float64).astype(np.float32),
        paths=sampled,
    )


def _too_long(settings: EngineSettings, size: int, *, include_paths: bool) -> BadInputError:
    field, less = ("include_paths", "steps or paths") if include_paths else ("horizon", "steps")
    return BadInputError(
        field,
        f"the forecast takes {size:,} bytes, a message holds {settings.max_message_bytes:,}: ask "
        f"for fewer {less}",
    )


async def _sampled(
    session: Session,
    fork: Fork,
    drawn: Answers,
    horizon: int,
    beside: Floats | None,
    flow: Flow,
) -> Floats:
    """Let the copies of a session read what they have drawn, and so on: (paths, horizon).

    They read ``beside (horizon - 1, columns)`` with it.
    """
    feedback, draws = session.shard.feedback, fork.draws
    assert draws is not None, "a path is drawn"
    first = feedback.within(drawn.columns[feedback.drawn])
    if horizon == 1:
        return first[:, None]
    call = _Paths(len(first), horizon, beside)
    call.allowance = flow.allowance
    rows = feedback.start(
        call,
        slots=fork.spares,
        position=int(fork.expected[0]),
        first=first,
        draws=draws,
        steps=horizon - 1,
    )
    try:
        await call.done.wait()
    finally:
        feedback.cancel(call, rows)
    if call.error is not None:
        raise call.error
    return call.values
