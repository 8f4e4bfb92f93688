"""Runs a graph of somebody else's on a device: as it is, without recording it.

Such a graph may have control flow, recurrent operators or shapes that are computed, none of which
can be recorded, and operators that only the CPU has. Its sizes are fixed all the same, and what it
finds is written once it has run.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.compile.serving import PREDICTION, PREDICTIONS
from models.manifest import Manifest, TokensInput
from service.engine.execution.cuda import graphs
from service.engine.execution.cuda.arena import DeviceArena
from service.engine.execution.cuda.steps import Bucket
from service.engine.execution.runner import UnwrittenError
from service.engine.execution.runtime import (
    Block,
    Bound,
    Place,
    View,
    complaint,
    input_shapes,
    open_session,
    run_to_host,
)
from service.engine.work.columns import Floats, Inputs, Ints


class ExternalGraph:
    """A graph that takes any number of steps, or one.

    Args:
        buckets: the memory of the runs of each size.
        one: that of a row that runs alone.
        rows_run_alone: each row has a run of its own.
    """

    def __init__(
        self,
        graph: bytes,
        manifest: Manifest,
        arena: DeviceArena,
        buckets: Mapping[int, Bucket],
        one: Bucket,
        place: Place,
        *,
        rows_run_alone: bool = False,
        tf32: bool = False,
        stream: int | None = None,
    ) -> None:
        self.rows_run_alone = rows_run_alone
        self._session = open_session(graph, place, tf32=tf32, stream=stream)
        self._shapes = input_shapes(self._session)
        self._manifest = manifest
        self._arena = arena
        self._one = one
        self._states = arena.tensors[:-1]  # the last one is the prediction
        # The new rows of a run's lanes; one memory for all sizes, as runs do not overlap.
        self._new = [Block(place, (max(buckets), *s.shape), np.float32) for s in self._states]
        self._writes = self._bind_writes(buckets, place, stream)

    def run(
        self,
        bucket: Bucket,
        *,
        rows: int,
        read: Ints,
        write: Ints,
        inputs: Inputs,
        lengths: Ints,
        every_step: bool,
    ) -> Floats | None:
        """Run all lanes of a size; returns all predictions (size, time, width) if wanted.

        Otherwise the last ones are in ``bucket.predictions``. Lanes behind the first ``rows`` are
        idle.

        Raises:
            UnwrittenError: it failed; the arena is as it was.
        """
        every: Floats | None = None
        try:
            if self.rows_run_alone:
                if every_step:
                    width = self._manifest.prediction.width
                    every = np.zeros((bucket.size, inputs.shape[1], width), np.float32)
                for lane in range(rows):
                    one, steps = slice(lane, lane + 1), int(lengths[lane])
                    self._one.place_rows(read[one], write[one])
                    found = self._find(
                        self._one, bucket, lane, inputs[one, :steps], lengths[one],
                        every_step=every_step,
                    )  # fmt: skip
                    if every is not None and found is not None:
                        every[lane, :steps] = found[0]
                bucket.place_rows(read, write)
            else:
                bucket.place_rows(read, write)
                every = self._find(bucket, bucket, 0, inputs, lengths, every_step=every_step)
        except Exception as fault:  # whatever the runtime throws
            raise UnwrittenError(complaint(fault)) from fault
        self._writes[bucket.size].run()
        return every

    def _find(
        self,
        placed: Bucket,
        bucket: Bucket,
        lane: int,
        inputs: Inputs,
        lengths: Ints,
        *,
        every_step: bool,
    ) -> Floats | None:
        """Run the rows that are in ``placed``; what they come to is that of lanes from ``lane``."""
        wanted = list(self._shapes)
        resident, _ = self._arena.bindings(wanted, placed.read, placed.write)
        name = self._manifest.input.name
        width = () if isinstance(self._manifest.input, TokensInput) else inputs.shape[2:]
        has_time = len(self._shapes[name]) == 2 + len(width)
        shape = (*inputs.shape[: 1 + has_time], *width)
        feeds: dict[str, View | NDArray[Any]] = {
            **resident,
            name: inputs.reshape(shape),
        }
        if self._manifest.lengths is not None and self._manifest.lengths in self._shapes:
            feeds[self._manifest.lengths] = lengths.astype(np.int32)
        outputs = {
            state.output: _lanes(block, lane, len(inputs))
            for state, block in zip(self._states, self._new, strict=True)
        }
        outputs[PREDICTION] = bucket.lanes(lane, len(inputs))
        fetched = [PREDICTIONS] if every_step else []
        found = run_to_host(self._session, feeds, outputs, fetched=fetched)
        return found.get(PREDICTIONS)

    def _bind_writes(
        self, buckets: Mapping[int, Bucket], place: Place, stream: int | None
    ) -> dict[int, Bound]:
        """By size: from new rows to the arena."""
        sources = [*graphs.given(len(self._states)), PREDICTION]
        graph = graphs.scatter(self._arena.tensors, sources)
        session = open_session(graph, place, gpu_only=True, stream=stream)
        wanted = list(input_shapes(session))
        found = {}
        for size, bucket in buckets.items():
            new = {
                source: _lanes(block, 0, size)
                for source, block in zip(sources, self._new, strict=False)
            }
            new[PREDICTION] = bucket.predictions
            resident, after = self._arena.bindings(wanted, bucket.read, bucket.write)
            found[size] = Bound(session, {**resident, **new}, after)
        return found


def _lanes(block: Block, lane: int, count: int) -> View:
    """The rows of some lanes in a block."""
    shape = block.shape[1:]
    return block.view(lane * math.prod(shape), (count, *shape))
