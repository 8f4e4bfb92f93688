"""Finds out by running an external graph how its tensors lie: batch axis, time axis."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from models.manifest import State
from training.export.onnx_model import session_of
from training.export.operator import Floats

BATCH = 2
TIMES = (3, 5)


class Time(Enum):
    """How many steps the graph takes at a time."""

    MANY = "many"
    ONE = "one"
    """One, on a time axis of its own."""
    NONE = "none"
    """One, without a time axis."""


class Form(Enum):
    """How predictions lie."""

    STEPS = "steps"
    """(batch, time, width), or time first."""
    FLAT = "flat"
    """(batch times time, width)."""
    WHOLE = "whole"
    """(batch, width): one for all steps that were given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the steps, the predictions and the states of a graph lie."""

    time: Time
    batch_first: bool
    form: Form
    prediction_batch_first: bool
    squeezed: bool
    """The prediction lacks its axis of width 1."""
    width: int
    states: tuple[State, ...]

    def laid(self, x: NDArray[Any]) -> NDArray[Any]:
        """Steps (batch, time, …) as the graph takes them."""
        if self.time is Time.NONE:
            return np.ascontiguousarray(x[:, 0])
        return np.ascontiguousarray(x if self.batch_first else x.swapaxes(0, 1))

    def rows(self, found: Floats, batch: int, time: int) -> Floats:
        """A prediction as (batch, time, width), or (batch, width) of the whole."""
        if self.squeezed:
            found = found[..., None]
        if self.form is Form.WHOLE:
            return found if self.time is Time.MANY else found[:, None]
        if self.form is Form.FLAT:
            axes = (batch, time) if self.prediction_batch_first else (time, batch)
            found = found.reshape(*axes, -1)
        return found if self.prediction_batch_first else found.swapaxes(0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredState:
    """A state before its layout is known; ``dims`` are ``None`` where they are left open."""

    input: str
    output: str
    dims: tuple[int | None, ...]
    initial: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What is known of a graph before it is run."""

    steps: str
    prediction: str
    lengths: str | None
    symbols: int | None
    """How many symbols it reads; ``None`` where it reads values."""
    width: int
    """Numbers per step."""
    rank: int
    """Axes of the steps."""
    states: tuple[DeclaredState, ...]


def find_layout(proto: onnx.ModelProto, probe: Probe) -> Layout | None:
    """Try every layout; the right one gives each row its own prediction.

    ``None`` where the graph takes no batch of rows in any of them.
    """
    session = session_of(proto.SerializeToString(), log_level=4)
    for states in _state_layouts(probe.states):
        for time, batch_first in _time_layouts(probe):
            layout = _tried(session, probe, states, time, batch_first)
            if layout is not None:
                return layout
    return None


def feed_of(
    probe: Probe,
    session: ort.InferenceSession,
    laid: NDArray[Any],
    lengths: NDArray[np.int64],
    states: Mapping[str, NDArray[Any]],
) -> dict[str, NDArray[Any]]:
    """What a run is given, in the types that the graph declares."""
    feed: dict[str, NDArray[Any]] = {probe.steps: laid, **states}
    if probe.lengths is not None:
        feed[probe.lengths] = lengths
    for value in session.get_inputs():
        if value.name in feed and value.type in ("tensor(int32)", "tensor(int64)"):
            kind = np.int32 if value.type == "tensor(int32)" else np.int64
            feed[value.name] = feed[value.name].astype(kind)
    return {value.name: feed[value.name] for value in session.get_inputs() if value.name in feed}


def _time_layouts(probe: Probe) -> Iterator[tuple[Time, bool]]:
    if probe.rank == (1 if probe.symbols is not None else 2):
        yield Time.NONE, True
        return
    for time in (Time.MANY, Time.ONE):
        for batch_first in (True, False):
            yield time, batch_first


def _state_layouts(
    declared: Sequence[DeclaredState],
) -> Iterator[tuple[State, ...]]:
    """The states with the batch on an axis that is open, or of length 1."""
    choices = []
    for state in declared:
        dims = state.dims
        # An open axis before one of length 1, and the batch of ONNX's own operators before others.
        usual = len(dims) - 2
        likely = [usual, *(axis for axis in range(len(dims)) if axis != usual)]
        axes = [axis for axis in likely if axis >= 0 and dims[axis] is None]
        axes += [axis for axis in likely if axis >= 0 and dims[axis] == 1]
        shapes = {axis: [dim for place, dim in enumerate(dims) if place != axis] for axis in axes}
        choices.append(
            [
                State(
                    input=state.input,
                    output=state.output,
                    shape=tuple(dim for dim in shape if dim is not None),
                    batch_axis=axis,
                    initial=state.initial,
                )
                for axis, shape in shapes.items()
                if shape and all(shape)
            ]
        )
    yield from itertools.islice(itertools.product(*choices), 64)


def _tried(
    session: ort.InferenceSession,
    probe: Probe,
    states: tuple[State, ...],
    time: Time,
    batch_first: bool,
) -> Layout | None:
    rng = np.random.default_rng(0)
    before = {
        state.input: rng.normal(0, 0.3, _batched(state)).astype(np.float32) for state in states
    }
    shapes = []
    layout: Layout | None = None
    for steps in TIMES if time is Time.MANY else (1,):
        x = _random_steps(rng, probe, steps)
        other = x.copy()
        other[0] = (x[0] + 1) % probe.symbols if probe.symbols is not None else x[0] + 1.0
        trial = Layout(
            time=time,
            batch_first=batch_first,
            form=Form.STEPS,
            prediction_batch_first=True,
            squeezed=False,
            width=1,
            states=states,
        )
        first = _run(session, probe, trial, x, before)
        second = _run(session, probe, trial, other, before)
        if first is None or second is None:
            return None
        shapes.append(first[0].shape)
        layout = _form(trial, shapes[-1], steps, shapes)
        if layout is None:
            return None
        for state, found in zip(states, first[1:], strict=True):
            if found.shape != before[state.input].shape:
                return None
        one, two = (layout.rows(found[0], BATCH, steps) for found in (first, second))
        alone = np.allclose(one[1:], two[1:], rtol=1e-4, atol=1e-6)
        if not alone or np.array_equal(one[0], two[0]):
            return None
    return layout


def _form(
    trial: Layout, shape: tuple[int, ...], steps: int, seen: list[tuple[int, ...]]
) -> Layout | None:
    """How a prediction of this shape lies, for a batch of so many steps."""
    form, batch_first, squeezed = Form.STEPS, True, False
    grows = len(seen) > 1 and len(shape) == 2 and seen[0][1:] == TIMES[:1] and shape[1] == steps
    if len(shape) == 3 and shape[:2] == (BATCH, steps):
        pass
    elif len(shape) == 3 and shape[:2] == (steps, BATCH):
        batch_first = False
    elif grows and shape[0] == BATCH:
        squeezed = True
    elif len(shape) == 2 and shape[0] == BATCH * steps and steps > 1:
        form, batch_first = Form.FLAT, trial.batch_first
    elif len(shape) == 2 and shape[0] == BATCH:
        form = Form.WHOLE
    elif len(shape) == 1 and shape[0] == BATCH:
        form, squeezed = Form.WHOLE, True
    else:
        return None
    return Layout(
        time=trial.time,
        batch_first=trial.batch_first,
        form=form,
        prediction_batch_first=batch_first,
        squeezed=squeezed,
        width=1 if squeezed else shape[-1],
        states=trial.states,
    )


def _run(
    session: ort.InferenceSession,
    probe: Probe,
    layout: Layout,
    x: NDArray[Any],
    states: Mapping[str, NDArray[Any]],
) -> list[Floats] | None:
    lengths = np.full(BATCH, x.shape[1], np.int64)
    outputs = [probe.prediction, *(state.output for state in layout.states)]
    try:
        found: list[Floats] = session.run(
            outputs, feed_of(probe, session, layout.laid(x), lengths, states)
        )
    except Exception:  # the runtime has kinds of its own, and each only means: not so
        return None
    return found


def _random_steps(rng: np.random.Generator, probe: Probe, steps: int) -> NDArray[Any]:
    if probe.symbols is not None:
        return rng.integers(0, probe.symbols, (BATCH, steps))
    return rng.normal(size=(BATCH, steps, probe.width)).astype(np.float32)


def _batched(state: State) -> tuple[int, ...]:
    axes = list(state.shape)
    axes.insert(state.batch_axis, BATCH)
    return tuple(axes)
