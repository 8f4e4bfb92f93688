"""What is done with sessions that do not step: their predictions are found again, rows are copied.

Nobody does either often, so that these runs are not recorded, and are waited for.
"""

from collections.abc import Callable, Mapping

import numpy as np

from models.compile.serving import PREDICTION, ServingGraph
from service.engine.execution.cuda import graphs
from service.engine.execution.cuda.arena import DeviceArena
from service.engine.execution.cuda.steps import Bucket
from service.engine.execution.cuda.stream.exchange import Exchange
from service.engine.execution.runtime import Bound, Session, View, input_shapes, open_session
from service.engine.work.columns import Ints


class AtRest:
    """The rows of one arena; all rows that it is given are there."""

    def __init__(
        self,
        graph: ServingGraph,
        arena: DeviceArena,
        exchange: Exchange,
        buckets: Mapping[int, Bucket],
        *,
        tf32: bool,
    ) -> None:
        self._arena = arena
        self._exchange = exchange
        self._buckets = buckets
        self._recalls = self._bind_recalls(graph, tf32=tf32)
        self._moves = self._bind_moves(graph)

    def recall(self, bucket: Bucket, slots: Ints) -> None:
        """Have the last predictions of some rows where those of a run are."""
        read = np.full(bucket.size, self._arena.initial)
        read[: len(slots)] = slots
        bucket.place_rows(read, np.full(bucket.size, self._arena.scratch))
        self._recalls[bucket.size].run()

    def copy(self, bucket: Bucket, read: int, write: Ints) -> None:
        """Copy one row to others."""
        target = np.full(bucket.size, self._arena.scratch)
        target[: len(write)] = write
        bucket.place_rows(np.full(bucket.size, read), target)
        self._moves[bucket.size].run()

    def _bind_recalls(self, graph: ServingGraph, *, tf32: bool) -> dict[int, Bound]:
        """By size: from the rows that are read to their predictions."""
        if graph.recall is None:
            model, output = graphs.fetch(graph.arena[-1]), graphs.FOUND
        else:
            model, output = graph.recall, PREDICTION
        session = open_session(
            model, self._exchange.place, gpu_only=True, tf32=tf32, stream=self._exchange.stream
        )
        return self._bind(session, lambda bucket, _: {output: bucket.predictions})

    def _bind_moves(self, graph: ServingGraph) -> dict[int, Bound]:
        """By size: from the rows that are read to those that are written."""
        session = open_session(
            graphs.move(graph.arena),
            self._exchange.place,
            gpu_only=True,
            stream=self._exchange.stream,
        )
        return self._bind(session, lambda _, after: after)

    def _bind(
        self, session: Session, outputs: Callable[[Bucket, dict[str, View]], dict[str, View]]
    ) -> dict[int, Bound]:
        """By size; ``outputs`` are made of a size's memory and of the arena's own."""
        wanted = list(input_shapes(session))
        found = {}
        for size, bucket in self._buckets.items():
            inputs, after = self._arena.bindings(wanted, bucket.read, bucket.write)
            found[size] = Bound(session, {**inputs}, outputs(bucket, after))
        return found
