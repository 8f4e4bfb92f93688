"""Predictions for whole sequences, of which nothing is kept.

A model with states reads them like sessions, from the initial state, in spare slots of its arena:
through the same queue, with the bits that a session would have had. Knows nothing of gRPC.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.engine.shard.shard import Shard
from service.engine.work.columns import Answers, Inputs, Ints, Outputs
from service.engine.work.flow import Flow
from service.engine.work.request import Request
from service.engine.work.sampling import Draws, Sampling
from service.metrics import Metrics
from service.settings import EngineSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """The steps of whole sequences, one sequence after the other."""

    inputs: Inputs  # (steps,) or (steps, width)
    counts: Ints  # (sequences,) steps of each, at least 1

    def __len__(self) -> int:
        return len(self.counts)

    def split(self) -> list[Inputs]:
        """Each sequence's own steps."""
        # Views: `np.split` forgets of which kind they are.
        stops = np.cumsum(self.counts).tolist()
        return [self.inputs[stop - n : stop] for n, stop in zip(self.counts, stops, strict=True)]


class Predictor(ABC):
    """Predicts for whole sequences of one model."""

    def __init__(self, name: str, *, metrics: Metrics, settings: EngineSettings) -> None:
        self.pending_steps = 0  # that no shard knows of
        self._settings = settings
        self._count_steps = metrics.steps.labels(name)
        self._quiet = asyncio.Event()
        self._quiet.set()

    async def predict(
        self, sequences: Sequences, outputs: Outputs, sampling: Sampling | None, flow: Flow
    ) -> Answers:
        """Answer every sequence, in order: with ``every_step`` a row per step, else one each.

        Raises:
            OverloadedError: too much is queued.
            QuotaExceededError: of the caller's.
            InternalError: the model could not be run.
        """
        steps = len(sequences.inputs)
        self._check_room(steps, flow)
        flow.charge(steps)
        promised = Promised(self, steps)
        flow.take(steps)
        try:
            answers = await self._predict(sequences, outputs, sampling, promised, flow)
        finally:
            promised.keep(promised.steps)
            flow.answered(steps)
        self._count_steps.inc(steps)
        return answers

    async def drained(self) -> None:
        """Wait until nothing is queued or running."""
        await self._quiet.wait()

    def stop(self) -> None:
        """End the threads, if there are any; call ``drained`` first."""
        return

    def count_pending(self, steps: int) -> None:
        """So many steps have come, or are done if they are below 0."""
        self.pending_steps += steps
        if self.pending_steps:
            self._quiet.clear()
        else:
            self._quiet.set()

    @abstractmethod
    def _check_room(self, steps: int, flow: Flow) -> None:
        """Check that so many steps of a flow may be queued.

        Raises:
            OverloadedError: not now.
        """

    @abstractmethod
    async def _predict(
        self,
        sequences: Sequences,
        outputs: Outputs,
        sampling: Sampling | None,
        promised: "Promised",
        flow: Flow,
    ) -> Answers:
        """Do what ``predict`` does."""


class Promised:
    """Steps of one call that are counted as pending until they run, or are queued elsewhere."""

    def __init__(self, predictor: Predictor, steps: int) -> None:
        self.steps = steps
        self._predictor = predictor
        predictor.count_pending(steps)

    def keep(self, steps: int) -> None:
        """Count these no longer."""
        self.steps -= steps
        self._predictor.count_pending(-steps)


class StatefulPredictor(Predictor):
    """Predicts with a model that has states.

    Args:
        shards: what serves its sessions.
    """

    def __init__(
        self, name: str, shards: Sequence[Shard], *, metrics: Metrics, settings: EngineSettings
    ) -> None:
        super().__init__(name, metrics=metrics, settings=settings)
        self._shards = shards
        # A request of many sequences takes turns with others, and with forecasts, for spare slots.
        self._at_once = min(settings.max_batch, (settings.spare_slots + 1) // 2)

    def _check_room(self, steps: int, flow: Flow) -> None:
        shard = min(self._shards, key=lambda shard: shard.pending_steps)
        pending_steps = self.pending_steps + shard.pending_steps
        if pending_steps + steps > shard.limit.roomy_steps:
            shard.limit.check(pending_steps, steps, flow)

    async def _predict(
        self,
        sequences: Sequences,
        outputs: Outputs,
        sampling: Sampling | None,
        promised: Promised,
        flow: Flow,
    ) -> Answers:
        parts = sequences.split()
        found: list[Answers | None] = [None] * len(parts)
        waves = iter(range(0, len(parts), self._at_once))

        async def serve(shard: Shard, waves: Iterator[int]) -> None:
            for first in waves:
                rows = range(first, min(first + self._at_once, len(parts)))
                await self._wave(shard, rows, parts, outputs, sampling, promised, flow, found)

        # The shards take the waves between them, the one with the shortest queue first.
        shards = sorted(self._shards, key=lambda shard: shard.pending_steps)
        if len(parts) <= self._at_once:
            await serve(shards[0], waves)
        else:
            await _all([serve(shard, waves) for shard in shards])
        return Answers.joined([answers for answers in found if answers is not None])

    async def _wave(
        self,
        shard: Shard,
        rows: range,
        parts: Sequence[Inputs],
        outputs: Outputs,
        sampling: Sampling | None,
        promised: Promised,
        flow: Flow,
        found: list[Answers | None],
    ) -> None:
        """Answer some of the sequences by dry runs from the initial state."""
        borrowed = await shard.borrow(len(rows), flow)
        try:
            counts = np.array([len(parts[row]) for row in rows])
            request = Request(
                slots=borrowed.spares,
                rows=np.array(rows),
                steps=counts,
                inputs=np.concatenate([parts[row] for row in rows]),
                outputs=outputs,
                draws=None if sampling is None else Draws.repeated(sampling, len(rows)),
                commit=False,
                borrowed=True,
                flow=flow,
            )
            promised.keep(int(counts.sum()))  # the shard counts them now
            for delivery in await shard.perform(request):
                answers, done = delivery.answers, delivery.rows.tolist()
                assert answers is not None, "errors are raised"
                if len(done) == 1:
                    found[done[0]] = answers  # with every step, a row for each
                    continue
                for index, row in enumerate(done):
                    found[row] = answers.rows(index, index + 1)
        finally:
            shard.slots.return_spares(borrowed)


async def _all(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of it; if one fails, or the caller goes away, the others end before it is said."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
