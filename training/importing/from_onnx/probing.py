"""Finds out by running an external graph how its tensors lie: batch axis, time axis."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.manifest import State
from training.errors import DataError
from training.export.onnx_model import Opened
from training.export.operator import Floats
from training.importing.isolated.reasons import of_running
from training.importing.isolated.runtime import RefusedError

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
    lengths_of_axes: tuple[int | None, ...]
    """What the graph declares of the steps' axes."""
    states: tuple[DeclaredState, ...]

    @property
    def flat(self) -> bool:
        """Whether its steps have no time axis."""
        return self.rank == (1 if self.symbols is not None else 2)


class Cause(IntEnum):
    """Why a layout is not the right one; the later, the more it says of the graph itself."""

    STOPPED = 0
    NO_EFFECT = 1
    MIXED = 2
    PREDICTION = 3
    STATE = 4
    NOT_FINITE = 5
    NOT_REPEATED = 6


class MisfitError(DataError):
    """A graph does not give each row of a batch its own; the message does not name the file."""

    def __init__(self, cause: Cause, text: str) -> None:
        super().__init__(text)
        self.cause = cause


def find_layout(session: Opened, probe: Probe) -> Layout:
    """Try every layout; the right one gives each row its own prediction.

    Raises:
        MisfitError: the graph takes no batch of rows in any of them; the message says why.
        FatalError: running it does not come to an end.
    """
    misfits: list[MisfitError] = []
    for states in _state_layouts(probe.states):
        for time, batch_first in _time_layouts(probe):
            # A state may be one that is never negative: a variance, a count.
            for never_negative in (False, True):
                try:
                    return _tried(session, probe, states, time, batch_first, never_negative)
                except MisfitError as misfit:
                    misfits.append(misfit)
                if not states or misfits[-1].cause is not Cause.NOT_FINITE:
                    break
    if not misfits:
        state = next(state for state in probe.states if not _choices(state))
        declared = ", ".join("?" if dim is None else str(dim) for dim in state.dims)
        raise MisfitError(
            Cause.STATE,
            f"state '{state.input}' is declared as [{declared}]: its batch has to be an open axis "
            "or one of length 1, and the other axes need their lengths",
        )
    worst = max(misfits, key=lambda misfit: misfit.cause)
    if worst.cause is Cause.STOPPED:
        raise _if_declared(session, probe) or worst
    raise worst


def feed_of(
    probe: Probe,
    session: Opened,
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
    if probe.flat:
        yield Time.NONE, True
        return
    for time in (Time.MANY, Time.ONE):
        for batch_first in (True, False):
            yield time, batch_first


def _state_layouts(
    declared: Sequence[DeclaredState],
) -> Iterator[tuple[State, ...]]:
    """The states with the batch on an axis that is open, or of length 1."""
    yield from itertools.islice(itertools.product(*map(_choices, declared)), 64)


def _choices(state: DeclaredState) -> list[State]:
    """One state with the batch on each axis that it may be, the likeliest first."""
    dims = state.dims
    # An open axis before one of length 1, and the batch of ONNX's own operators before others.
    usual = len(dims) - 2
    likely = [usual, *(axis for axis in range(len(dims)) if axis != usual)]
    axes = [axis for axis in likely if axis >= 0 and dims[axis] is None]
    axes += [axis for axis in likely if axis >= 0 and dims[axis] == 1]
    shapes = {axis: [dim for place, dim in enumerate(dims) if place != axis] for axis in axes}
    return [
        State(
            input=state.input,
            output=state.output,
            shape=tuple(dim for dim in shape if dim is not None),
            batch_axis=axis,
        )
        for axis, shape in shapes.items()
        if shape and all(shape)
    ]


def _tried(
    session: Opened,
    probe: Probe,
    states: tuple[State, ...],
    time: Time,
    batch_first: bool,
    never_negative: bool,
) -> Layout:
    """The layout, if it is the right one."""
    rng = np.random.default_rng(0)
    before = {
        state.input: rng.normal(0, 0.3, _batched(state)).astype(np.float32) for state in states
    }
    if never_negative:
        before = {name: np.abs(array) for name, array in before.items()}
    shapes: list[tuple[int, ...]] = []
    layout = trial = Layout(
        time=time,
        batch_first=batch_first,
        form=Form.STEPS,
        prediction_batch_first=True,
        squeezed=False,
        width=1,
        states=states,
    )
    for steps in TIMES if time is Time.MANY else (1,):
        x = _random_steps(rng, probe, steps)
        first = _run(session, probe, trial, x, before)
        shapes.append(first[0].shape)
        found = _form(trial, first[0].shape, steps, shapes)
        if found is None:
            raise MisfitError(
                Cause.PREDICTION,
                f"prediction '{probe.prediction}' comes out as {list(first[0].shape)} for a batch "
                f"of {BATCH} sequences of {steps}: each needs a row of its own: let nothing in the "
                "graph reduce or choose over the batch, or name another output with --output",
            )
        layout = found
        again = _run(session, probe, trial, x, before)[0]
        if not np.array_equal(first[0], again, equal_nan=True):
            raise MisfitError(
                Cause.NOT_REPEATED,
                "the same steps give other numbers in every run: something in the graph is drawn "
                "at random: export the network for evaluation (model.eval()), and let its states "
                "start from zeros or from what was learned",
            )
        _check_states(states, first[1:], before)
        others = list(_runs_of(session, probe, trial, _with_another_row(x, probe), before))
        for second in others:
            _check_rows(probe, layout, first, second, steps)
        rows = [layout.rows(found[0], BATCH, steps)[0] for found in (first, *others)]
        if all(np.array_equal(rows[0], row) for row in rows):
            raise MisfitError(
                Cause.NO_EFFECT,
                f"prediction '{probe.prediction}' does not change with the steps "
                f"'{probe.steps}': name the right ones with --input and --output",
            )
    return layout


def _check_states(
    states: Sequence[State], found: Sequence[Floats], before: Mapping[str, Floats]
) -> None:
    for state, after in zip(states, found, strict=True):
        if after.shape != before[state.input].shape:
            raise MisfitError(
                Cause.STATE,
                f"state '{state.input}' is {list(before[state.input].shape)} for a batch of "
                f"{BATCH}, and what follows it, '{state.output}', is {list(after.shape)}: name the "
                f"right output with --state {state.input}=OUTPUT",
            )


def _check_rows(
    probe: Probe, layout: Layout, first: Sequence[Floats], second: Sequence[Floats], steps: int
) -> None:
    """Whether a change of the first row leaves the others alone."""
    names = [probe.prediction, *(state.output for state in layout.states)]
    for name, one in zip(names, first, strict=True):
        if not np.isfinite(one).all():
            raise MisfitError(
                Cause.NOT_FINITE,
                f"'{name}' is not finite (NaN or infinite) for ordinary numbers",
            )
    pairs = [tuple(layout.rows(found[0], BATCH, steps) for found in (first, second))]
    for number, state in enumerate(layout.states, 1):
        pairs.append(
            tuple(np.moveaxis(found[number], state.batch_axis, 0) for found in (first, second))
        )
    for name, (one, two) in zip(names, pairs, strict=True):
        if not np.allclose(one[1:], two[1:], rtol=1e-4, atol=1e-6):
            raise MisfitError(
                Cause.MIXED,
                f"what one sequence of a batch reads changes '{name}' of another: something in the "
                "graph goes over the whole batch, and sessions that are served together would "
                "change each other",
            )


def _with_another_row(x: NDArray[Any], probe: Probe) -> Iterator[NDArray[Any]]:
    """The same steps with others in the first row: close ones, and such as outweigh the rest."""
    if probe.symbols is not None:
        rows = [(x[0] + more) % probe.symbols for more in (1, 2)]
    else:
        rows = [x[0] + 1, 10 * np.abs(x[0]), -10 * np.abs(x[0])]
    for row in rows:
        other = x.copy()
        other[0] = row
        yield other


def _if_declared(session: Opened, probe: Probe) -> MisfitError | None:
    """Whether the graph runs with the lengths that it declares, and only with these."""
    first, second = (None, None) if probe.flat else probe.lengths_of_axes[:2]
    for rows, fixed_rows in ((BATCH, False), (1, True)):
        for batch_first, steps in ((True, second), (False, first), (True, None), (False, None)):
            if steps is None and not fixed_rows:
                continue
            if not _runs(session, probe, rows, steps or TIMES[0], batch_first):
                continue
            parts = []
            if fixed_rows:
                parts.append(
                    "it takes a batch of 1 sequence alone: its batch is fixed inside: export it "
                    "with an open one (torch.onnx.export(…, dynamic_axes=…))"
                )
            if steps is not None and (not fixed_rows or steps > 1):
                parts.append(
                    f"input '{probe.steps}' takes exactly {steps} steps, for its time axis is "
                    "fixed inside, and a session reads one at a time: export the network with an "
                    "open time axis, or with one step (torch.onnx.export(…, dynamic_axes=…))"
                )
            return MisfitError(Cause.STOPPED, "; ".join(parts))
    return None


def _runs_of(
    session: Opened,
    probe: Probe,
    layout: Layout,
    others: Iterator[NDArray[Any]],
    states: Mapping[str, NDArray[Any]],
) -> Iterator[list[Floats]]:
    """The first has to run; that the graph stops at such as are out of the ordinary is its own."""
    yield _run(session, probe, layout, next(others), states)
    for other in others:
        with suppress(MisfitError):
            yield _run(session, probe, layout, other, states)


def _runs(session: Opened, probe: Probe, rows: int, steps: int, batch_first: bool) -> bool:
    for time in (Time.NONE,) if probe.flat else (Time.MANY,):
        for states in _state_layouts(probe.states):
            trial = Layout(
                time=time,
                batch_first=batch_first,
                form=Form.STEPS,
                prediction_batch_first=True,
                squeezed=False,
                width=1,
                states=states,
            )
            rng = np.random.default_rng(0)
            before = {state.input: np.zeros(_batched(state, rows), np.float32) for state in states}
            try:
                _run(session, probe, trial, _random_steps(rng, probe, steps)[:rows], before)
            except MisfitError:
                continue
            return True
    return False


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
    session: Opened,
    probe: Probe,
    layout: Layout,
    x: NDArray[Any],
    states: Mapping[str, NDArray[Any]],
) -> list[Floats]:
    lengths = np.full(len(x), x.shape[1], np.int64)
    outputs = [probe.prediction, *(state.output for state in layout.states)]
    try:
        return session.run(outputs, feed_of(probe, session, layout.laid(x), lengths, states))
    except RefusedError as error:
        raise MisfitError(Cause.STOPPED, of_running(str(error))) from error


def _random_steps(rng: np.random.Generator, probe: Probe, steps: int) -> NDArray[Any]:
    if probe.symbols is not None:
        return rng.integers(0, probe.symbols, (BATCH, steps))
    return rng.normal(size=(BATCH, steps, probe.width)).astype(np.float32)


def _batched(state: State, rows: int = BATCH) -> tuple[int, ...]:
    axes = list(state.shape)
    axes.insert(state.batch_axis, rows)
    return tuple(axes)
