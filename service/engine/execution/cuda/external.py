"""Runs a graph of somebody else's on a device: as it is, without recording it.

Such a graph may have control flow, recurrent operators or shapes that are computed, none of which
can be recorded, and operators that only the CPU has. Its sizes are fixed all the same.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.compile.serving import PREDICTION, PREDICTIONS
from models.manifest import Manifest, TokensInput
from service.engine.execution.cuda.arena import DeviceArena
from service.engine.execution.cuda.steps import Bucket
from service.engine.execution.runtime import Place, View, input_shapes, open_session, run_to_host
from service.engine.work.columns import Floats, Inputs, Ints


class ExternalGraph:
    """A graph that takes any number of steps, or one."""

    def __init__(
        self,
        graph: bytes,
        manifest: Manifest,
        arena: DeviceArena,
        place: Place,
        *,
        tf32: bool = False,
    ) -> None:
        self._session = open_session(graph, place, tf32=tf32)
        self._shapes = input_shapes(self._session)
        self._manifest = manifest
        self._arena = arena

    def run(
        self,
        bucket: Bucket,
        *,
        read: Ints,
        write: Ints,
        inputs: Inputs,
        lengths: Ints,
        every_step: bool,
    ) -> Floats | None:
        """Run all lanes of a size; returns all predictions (size, time, width) if wanted.

        Otherwise the last ones are in ``bucket.predictions``.
        """
        bucket.place_rows(read, write)
        wanted = list(self._shapes)
        resident, outputs = self._arena.views(wanted)
        name = self._manifest.input.name
        width = () if isinstance(self._manifest.input, TokensInput) else inputs.shape[2:]
        has_time = len(self._shapes[name]) == 2 + len(width)
        shape = (*inputs.shape[: 1 + has_time], *width)
        feeds: dict[str, View | NDArray[Any]] = {
            **resident,
            **self._arena.index(wanted, bucket.read, bucket.write),
            name: inputs.reshape(shape),
        }
        if self._manifest.lengths is not None and self._manifest.lengths in self._shapes:
            feeds[self._manifest.lengths] = lengths.astype(np.int32)
        if not every_step:
            outputs[PREDICTION] = bucket.predictions.view()
            run_to_host(self._session, feeds, outputs)
            return None
        return run_to_host(self._session, feeds, outputs, fetched=[PREDICTIONS])[PREDICTIONS]
