"""Single steps on a device, in runs of fixed sizes that are recorded once and replayed.

Per size there is one place for indices, one for inputs and one for predictions, bound for good: a
replay reads and writes the addresses that were recorded.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.compile.serving import PREDICTION
from models.errors import ModelError
from models.manifest import Manifest, TokensInput
from service.engine.execution.cuda.arena import DeviceArena
from service.engine.execution.cuda.stream.exchange import Exchange, Flight, Region
from service.engine.execution.cuda.stream.layout import Field, Layout
from service.engine.execution.cuda.stream.transfers import Bytes
from service.engine.execution.runtime import (
    Bound,
    DeviceError,
    Place,
    Session,
    View,
    input_shapes,
    open_session,
)
from service.engine.work.columns import Floats, Inputs, Ints, Mask

_INDEX, _VALUES = "index", "values"
_READ, _WRITE, _TOKENS = range(3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What one run is given, in the host's memory.

    Attributes:
        index: the rows to read and to write, and tokens: (2 or 3, size) int64.
        values: (size, 1, width) float32; empty for tokens.
        heads: what heads that draw are given, by name, (size,). Of lanes that nobody asks about
            it is what others have left, which is valid: a draw beyond the last token would be none.
    """

    index: Ints
    values: Floats
    heads: Mapping[str, NDArray[Any]]

    def put(self, read: Ints, write: Ints, inputs: Inputs | None = None) -> None:
        """Fill in the rows to read and to write, (size,) each, and the inputs (size, ...)."""
        self.index[_READ], self.index[_WRITE] = read, write
        if inputs is None:
            return
        if self.values.size:
            self.values[:, 0] = inputs
        else:
            self.index[_TOKENS] = inputs


def lay_out(manifest: Manifest, size: int) -> Layout:
    """What a run of some size is given; heads add what they are given behind it."""
    layout = Layout()
    tokens = isinstance(manifest.input, TokensInput)
    layout.add(_INDEX, (3 if tokens else 2, size), np.int64)
    layout.add(_VALUES, (0,) if tokens else (size, 1, manifest.input.width), np.float32)
    return layout


@dataclass(slots=True, kw_only=True, eq=False)
class Bucket:
    """The memory of all runs of one size.

    Attributes:
        size: rows of a run.
        given: what runs are given, laid out as in ``layout``.
        found: what heads find.
        scores: predictions, (size, width).
    """

    size: int
    manifest: Manifest
    exchange: Exchange
    layout: Layout
    given: Region
    found: Region
    scores: Region
    step_bytes: int = 0
    """Of what is given to a step: what is given to heads lies behind."""
    tokens: int = 0
    """Of the vocabulary; 0 for a model that reads values."""
    _hosts: dict[int, Given] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.step_bytes = self.layout.fields[_VALUES].stop
        if isinstance(self.manifest.input, TokensInput):
            self.tokens = len(self.manifest.input.vocabulary)

    @property
    def predictions(self) -> View:
        """The predictions of the last run, (size, width)."""
        return self.prediction_field.view(self.scores.block)

    def lanes(self, lane: int, count: int) -> View:
        """The predictions of some lanes, (count, width)."""
        width = self.manifest.prediction.width
        return self.scores.block.part(4 * lane * width, (count, width), np.dtype(np.float32))

    @property
    def prediction_field(self) -> Field:
        """Where the predictions lie in ``scores``."""
        shape = (self.size, self.manifest.prediction.width)
        return Field(start=0, shape=shape, dtype=np.dtype(np.float32))

    @property
    def read(self) -> View:
        """The rows to read, (size,)."""
        return self._integers(_READ, (self.size,))

    @property
    def write(self) -> View:
        """The rows to write, (size, 1)."""
        return self._integers(_WRITE, (self.size, 1))

    def inputs(self) -> dict[str, View]:
        """What a graph of single steps reads: tokens (size,), or values (size, 1, width)."""
        name = self.manifest.input.name
        if isinstance(self.manifest.input, TokensInput):
            return {name: self._integers(_TOKENS, (self.size,))}
        return {name: self.layout.fields[_VALUES].view(self.given.block)}

    def at(self, flight: Flight) -> Given:
        """What a run is given, to be filled in."""
        found = self._hosts.get(flight.number)
        if found is None:
            found = self._hosts[flight.number] = self.arrays(self.given.host(flight))
        return found

    def arrays(self, memory: Bytes) -> Given:
        """The same in any memory; without what heads are given where that is too short."""
        fields = self.layout.fields
        heads = {
            name: own.array(memory)[:, 0]
            for name, own in fields.items()
            if own.shape == (self.size, 1) and own.stop <= len(memory)
        }
        return Given(
            index=fields[_INDEX].array(memory), values=fields[_VALUES].array(memory), heads=heads
        )

    def place_rows(self, read: Ints, write: Ints) -> None:
        """Say which rows the next run reads and writes, (size,) each."""
        self._place(read, write, None)

    def place_step(self, read: Ints, write: Ints, inputs: Inputs) -> None:
        """The same, and what each row reads: tokens (size,) or values (size, width)."""
        self._place(read, write, inputs)

    def copied(self) -> Floats:
        """The predictions of the last run on the host, (size, width)."""
        flight, own = self.exchange.take(), self.prediction_field
        memory = self.scores.host(flight)
        self.scores.download(flight, 0, own.stop)
        self.exchange.depart(flight)
        self.exchange.land(flight)
        found: Floats = own.array(memory).copy()
        return found

    def put_predictions(self, predictions: Floats) -> None:
        """Have predictions (rows, width) where a run would leave them."""
        flight, own = self.exchange.take(), self.prediction_field
        whole = own.array(self.scores.host(flight))
        whole[: len(predictions)] = predictions
        whole[len(predictions) :] = 0
        self.scores.upload(flight, 0, own.stop)
        self.exchange.depart(flight)

    def _place(self, read: Ints, write: Ints, inputs: Inputs | None) -> None:
        flight = self.exchange.take()
        self.at(flight).put(read, write, inputs)
        self.given.upload(flight, 0, self.step_bytes)
        self.exchange.depart(flight)

    def _integers(self, row: int, shape: tuple[int, ...]) -> View:
        field = self.layout.fields[_INDEX]
        start = field.start + row * self.size * field.dtype.itemsize
        return self.given.block.part(start, shape, field.dtype)


def open_steps(
    graph: bytes,
    place: Place,
    *,
    tf32: bool = False,
    stream: int | None = None,
    profile_prefix: str | None = None,
) -> Session:
    """Load a graph of single steps, to be recorded.

    Raises:
        ModelError: the device cannot run it by itself.
    """
    try:
        return open_session(
            graph,
            place,
            captured=True,
            gpu_only=True,
            tf32=tf32,
            stream=stream,
            profile_prefix=profile_prefix,
        )
    except DeviceError:
        raise
    except Exception as error:  # whatever the runtime throws
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(
            f"{place} cannot run its steps by itself ({reason}): serve it with --device cpu"
        ) from error


def bind_steps(
    session: Session, arena: DeviceArena, buckets: Mapping[int, Bucket]
) -> dict[int, Bound]:
    """Bind a graph of single steps to the memory of each size."""
    wanted = list(input_shapes(session))
    found = {}
    for number, (size, bucket) in enumerate(buckets.items(), start=1):
        resident, after = arena.bindings(wanted, bucket.read, bucket.write)
        inputs: dict[str, View | NDArray[Any]] = {**resident, **bucket.inputs()}
        outputs = {**after, PREDICTION: bucket.predictions}
        found[size] = Bound(session, inputs, outputs, number=number, waits=False)
    return found


def record(bound: Mapping[int, Bound], arena: DeviceArena, buckets: Mapping[int, Bucket]) -> None:
    """Run each size once, which records it: from the initial row to the scratch row.

    ONNX Runtime runs a graph three times before the recording is done, so this must not touch a
    row that anybody reads. It must be done by the thread that will replay it.
    """
    for size, run in bound.items():
        nobody = np.full(size, arena.initial), np.full(size, arena.scratch)
        buckets[size].place_step(*nobody, blank(buckets[size].manifest, size))
        run.run()


def fill(
    bucket: Bucket,
    flight: Flight,
    arena: DeviceArena,
    read: Ints,
    write: Ints,
    fresh: Mask,
    inputs: Inputs,
) -> None:
    """Fill in one step of some rows, (rows,) each, and idle lanes behind them.

    Idle lanes start from the initial state and write the scratch row, so that they touch nobody's
    state; they repeat the first row's input, which is a valid one.

    Raises:
        ValueError: a slot or a token that there is not. A GPU would read zeros, or write to another
            row.
    """
    given = bucket.at(flight)
    rows, index, tokens = len(write), given.index, bucket.tokens
    start, end = index[_READ], index[_WRITE]
    start[:rows], end[:rows] = read, write
    some_fresh = np.count_nonzero(fresh)
    if some_fresh:
        start[:rows][fresh] = arena.scratch
    # Unsigned, a number below 0 is a large one.
    if np.maximum.reduce(index[:_TOKENS, :rows].view(np.uint64), axis=None) >= arena.slots:
        arena.check(read[~fresh], write)
    if some_fresh:
        start[:rows][fresh] = arena.initial
    if tokens:
        own = index[_TOKENS]
        own[:rows] = inputs
        if np.maximum.reduce(own[:rows].view(np.uint64)) >= tokens:
            check_tokens(bucket.manifest, inputs)
    else:
        given.values[:rows, 0] = inputs
    if rows < bucket.size:
        start[rows:], end[rows:] = arena.initial, arena.scratch
        if tokens:
            own[rows:] = own[0]
        else:
            given.values[rows:] = given.values[:1]


def check_tokens(manifest: Manifest, inputs: Inputs) -> None:
    """Check that a model has the tokens that it is given; of one that reads values all may pass.

    Raises:
        ValueError: it lacks one.
    """
    if isinstance(manifest.input, TokensInput):
        tokens = len(manifest.input.vocabulary)
        if inputs.min() < 0 or inputs.max() >= tokens:
            raise ValueError(f"a token is not in 0..{tokens - 1}")


def blank(manifest: Manifest, rows: int) -> Inputs:
    """One valid step for each of several rows: tokens (rows,) or values (rows, width)."""
    if isinstance(manifest.input, TokensInput):
        return np.zeros(rows, np.int64)
    return np.ones((rows, manifest.input.width), np.float32)
