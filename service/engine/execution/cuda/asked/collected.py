"""What is asked of the rows of one run, collected: each head runs once, and few copies do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from service.engine.execution.ahead.runner import Ask
from service.engine.execution.cuda.asked.keys import RAW, Key
from service.engine.execution.cuda.steps import Bucket
from service.engine.execution.cuda.stream.exchange import Flight, Region
from service.engine.execution.cuda.stream.layout import Field
from service.engine.execution.heads import DrawMode, Rows
from service.engine.execution.runtime import Bound
from service.engine.work.columns import Floats

_GAP_BYTES = 2**18  # what is copied for nothing, rather than with a copy of its own


class Head:
    """A head bound to the predictions of one size.

    Args:
        given: what it is given lies there.
        feeds: where, by name.
        found: what it finds lies there.
        outputs: where, by name.
    """

    def __init__(
        self,
        bound: Bound,
        given: Region,
        feeds: Mapping[str, Field],
        found: Region,
        outputs: Mapping[str, Field],
        *,
        is_recorded: bool,
    ) -> None:
        self.given = given
        self.feeds = feeds
        self.given_stop = max((own.stop for own in feeds.values()), default=0)
        self.run = bound.run if is_recorded else bound.run_eagerly
        self.found = found
        self.ranges = _ranges([(found, own.start, own.stop) for own in outputs.values()])
        self._outputs = outputs
        self._columns: dict[int, dict[str, NDArray[Any]]] = {}

    def columns(self, flight: Flight) -> dict[str, NDArray[Any]]:
        """What it finds in a run, of all lanes, as views; there once the run has ended."""
        columns = self._columns.get(flight.number)
        if columns is None:
            memory = self.found.host(flight)
            columns = {name: own.array(memory) for name, own in self._outputs.items()}
            self._columns[flight.number] = columns
        return columns


@dataclass(slots=True, kw_only=True)
class Collected:
    """What the rows of one run are asked, as heads to run.

    Attributes:
        raw: somebody wants the predictions themselves.
        refused: by the number of an ask, why it cannot be collected: that is its own affair.
        failed: why a head has not run, or the predictions cannot come: that of who wants them.
    """

    bucket: Bucket
    flight: Flight
    asks: Sequence[Ask]
    heads: dict[Key, Head] = field(default_factory=dict)
    modes: dict[int, list[tuple[DrawMode, Rows]]] = field(default_factory=dict)
    refused: dict[int, Exception] = field(default_factory=dict)
    failed: dict[Key, Exception] = field(default_factory=dict)
    raw: bool = False

    given_stop: int = 0
    """The byte behind what is given with the step."""

    def want(self, key: Key, head: Head) -> None:
        """Have a head run."""
        self.heads[key] = head
        if head.given is self.bucket.given:
            self.given_stop = max(self.given_stop, head.given_stop)

    def run(self) -> None:
        """Queue the heads, and the copies of what they find.

        What one head lacks, or what it fails by, is no fault of the others.

        Raises:
            CudaError: a copy cannot be queued.
        """
        flight, given = self.flight, self.bucket.given
        ranges: list[tuple[Region, int, int]] = []
        for key, head in self.heads.items():
            try:
                head.found.host(flight)
                if head.given is not given and head.given_stop:  # it has memory of its own
                    head.given.upload(flight, 0, head.given_stop)
                head.run()
            except Exception as fault:
                self.failed[key] = fault
            else:
                ranges += head.ranges
        if self.raw:
            try:
                self.bucket.scores.host(flight)
            except Exception as fault:
                self.failed[RAW] = fault
            else:
                ranges.append((self.bucket.scores, 0, self.bucket.prediction_field.stop))
        for region, start, stop in ranges if len(ranges) == 1 else _ranges(ranges):
            region.download(flight, start, stop)

    def column(self, key: Key, output: str) -> NDArray[Any]:
        """What a head has found, for all lanes, once the run has ended; as a view.

        Raises:
            Exception: why it has found nothing.
        """
        if key in self.failed:
            raise self.failed[key]
        return self.heads[key].columns(self.flight)[output]

    def predictions(self) -> Floats:
        """The predictions of all lanes, (size, width), once the run has ended; as a view.

        Raises:
            Exception: why they have not come.
        """
        if RAW in self.failed:
            raise self.failed[RAW]
        found: Floats = self.bucket.prediction_field.array(self.bucket.scores.host(self.flight))
        return found


def _ranges(found: Sequence[tuple[Region, int, int]]) -> list[tuple[Region, int, int]]:
    """The fewest copies: those of one region that lie near each other are one."""
    merged: list[tuple[Region, int, int]] = []
    for region, start, stop in sorted(found, key=lambda own: (id(own[0]), own[1])):
        if merged and merged[-1][0] is region and start - merged[-1][2] <= _GAP_BYTES:
            start, stop = merged[-1][1], max(stop, merged[-1][2])
            merged.pop()
        merged.append((region, start, stop))
    return merged
