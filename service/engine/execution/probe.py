"""Finds out at load how the steps of a model may run, by running some.

A graph of somebody else's promises nothing: its rows may see each other, its numbers may hang on
where a request is cut, or on chance. The model's own runner says, with the graphs that will serve
it, whether a row comes to the same numbers alone and beside others, at once and step by step.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import ModelError
from models.manifest import Manifest, TokensInput, ValuesInput
from service.engine.execution.runner import Runner, UnwrittenError
from service.engine.work.columns import Floats, Inputs, Ints

_STEPS = 4
_SCALES = (1.0, 1.0, 0.1, 10.0, 1.0)  # of ordinary rows: one that is large may drown the others
_LARGEST, _TINIEST = 3.4e38, 1e-45
_TIMES = 8  # all rows so often are one batch that is not small
_MOST_FEATURES = 16  # that are made extreme one by one


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """How the steps of a model may run.

    Attributes:
        rows_run_alone: beside others a row comes to other numbers, or cannot run.
        steps_run_alone: several steps at once come to other numbers than one by one.
        largest: what a value may be, whatever its sign, so that it leaves the state finite;
            ``None``: anything finite.
    """

    rows_run_alone: bool = False
    steps_run_alone: bool = False
    largest: float | None = None


SHARED = Findings()
"""Rows and steps share runs, and any value may come."""


def probe(
    runner: Runner,
    manifest: Manifest,
    *,
    slots: Ints,
    max_batch: int,
    chunk_steps: int,
    tolerance: float = 0.0,
) -> Findings:
    """Run steps of several rows in many ways, and compare.

    Where rows must run alone the runner is told so.

    Args:
        runner: of the model; nobody else uses it meanwhile.
        manifest: what the model reads.
        slots: rows of the arena that nobody reads, at least one.
        max_batch: the most rows of a run, and the most time steps in all.
        chunk_steps: the most time steps of one row of a run.
        tolerance: how far apart numbers may be, as a share of them, where the device's bits depend
            on the size of a run; 0 wants them bit for bit.

    Raises:
        ModelError: it cannot be run, or not on all its tokens, or its numbers hang on chance.
    """
    found = _Probe(runner, manifest, slots, max_batch, chunk_steps, tolerance)
    return found.findings()


def check_tokens(vocabulary: int, why_not: Callable[[int], str | None]) -> None:
    """Have a model read the last token of its vocabulary.

    Args:
        vocabulary: its symbols.
        why_not: reads a token; why that could not be done, or ``None``.

    Raises:
        ModelError: it cannot; the message says how many it can.
    """
    why = why_not(vocabulary - 1)
    if why is None or why_not(0) is not None:
        return  # nor the first one: the vocabulary is not to blame
    good, bad = 0, vocabulary - 1
    while bad - good > 1:
        middle = (good + bad) // 2
        if why_not(middle) is None:
            good = middle
        else:
            bad = middle
    raise ModelError(
        f"its vocabulary has {vocabulary} symbols, but it can read {bad} of them, the tokens 0 to "
        f"{good} ({why})"
    )


def is_same(one: Floats, other: Floats, *, tolerance: float) -> bool:
    """Whether predictions of one shape are the same, bit for bit or as far as is tolerated."""
    if tolerance:
        return bool(np.isclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True).all())
    bits = one.view(np.int32) == other.view(np.int32)
    return bool((bits | (np.isnan(one) & np.isnan(other))).all())


CHANCE = (
    "its numbers hang on chance: alone and twice the same, a row came to two results; export it "
    "for inference, without dropout and random operators"
)


class _CannotRunError(Exception):
    """A run failed; the message says why."""


class _Probe:
    def __init__(
        self,
        runner: Runner,
        manifest: Manifest,
        slots: Ints,
        max_batch: int,
        chunk_steps: int,
        tolerance: float,
    ) -> None:
        self._runner = runner
        self._manifest = manifest
        self._slots = slots
        self._max_rows = min(max_batch, len(slots))
        self._max_batch = max_batch
        self._chunk_steps = chunk_steps
        self._tolerance = tolerance
        self._rows: list[Inputs] = []  # (steps,) or (steps, width) each
        self._ordinary = 0  # of the rows: the others begin with something extreme
        self._alone: list[Floats] = []  # of each row, (steps, width)

    def findings(self) -> Findings:
        """See `probe`."""
        if isinstance(self._manifest.input, TokensInput):
            check_tokens(len(self._manifest.input.vocabulary), self._why_not_token)
        self._choose_rows()
        self._check_chance(self._rows[:1])
        rows_run_alone = self._is_changed_by_others()
        if rows_run_alone:
            self._runner.rows_run_alone = True
            self._check_chance(self._rows)
        steps_run_alone = self._is_changed_by_cuts()
        return Findings(
            rows_run_alone=rows_run_alone,
            steps_run_alone=steps_run_alone,
            largest=self._largest(),
        )

    # -- what is read ---------------------------------------------------------------------

    def _choose_rows(self) -> None:
        """Rows that the model can read by themselves, and what they come to.

        Raises:
            ModelError: it cannot read the simplest one.
        """
        for scale in _SCALES:
            self._add_row(_any_steps(self._manifest, _STEPS, scale, seed=len(self._rows)))
        if not self._rows:
            row: Inputs = np.repeat(self._runner.blank(1)[0], _STEPS, axis=0)
            try:
                self._alone += self._by_steps([row])
            except _CannotRunError as fault:
                raise ModelError(f"cannot be run: {fault}") from fault
            self._rows.append(row)
        self._ordinary = len(self._rows)
        for first in _extremes(self._manifest):
            row = self._rows[0].copy()
            row[0] = first
            self._add_row(row)

    def _add_row(self, row: Inputs) -> None:
        try:
            (found,) = self._by_steps([row])
        except _CannotRunError:  # a caller who sends this is refused, and nobody else
            return
        self._rows.append(row)
        self._alone.append(found)

    def _why_not_token(self, token: int) -> str | None:
        try:
            self._by_steps([np.array([token])])
        except _CannotRunError as fault:
            return str(fault)
        return None

    # -- what is compared -----------------------------------------------------------------

    def _check_chance(self, rows: Sequence[Inputs]) -> None:
        for row, before in zip(rows, self._alone, strict=False):
            for _ in range(2):
                (again,) = self._by_steps([row])
                if not self._same(again, before):
                    raise ModelError(CHANCE)

    def _is_changed_by_others(self) -> bool:
        """Run single steps of some rows together."""
        everyone = list(range(len(self._rows)))
        for members in (everyone[:2], everyone, everyone * _TIMES):
            some = members[: self._max_rows]
            if len(some) < 2:  # nobody will ever run beside others
                continue
            try:
                found = self._by_steps([self._rows[row] for row in some])
            except _CannotRunError:  # each by itself could
                return True
            if not all(map(self._is_as_alone, some, found)):
                return True
        return False

    def _is_changed_by_cuts(self) -> bool:
        """Run several steps at once, of one row and of rows that pad each other."""
        longest = min(self._chunk_steps, self._max_batch)
        if self._manifest.lengths is None or longest < 2:
            return False
        own = range(len(self._rows))
        most = min(_STEPS, longest)
        try:
            for row in own:
                if not self._is_as_alone(row, self._at_once([self._rows[row]], [most])[0]):
                    return True
            for counts in ([most for _ in own], [1 + row % most for row in own]):
                together = self._at_once(self._rows, counts)
                if not all(map(self._is_as_alone, own, together)):
                    return True
            long: Inputs = np.concatenate([self._rows[0]] * (1 + longest // _STEPS))[:longest]
            return not self._same(self._at_once([long], [longest])[0], self._by_steps([long])[0])
        except _CannotRunError:  # step by step it could
            return True

    def _is_as_alone(self, row: int, found: Floats) -> bool:
        if self._tolerance and row >= self._ordinary:
            return True  # what overflows has no share of anything
        return self._same(found, self._alone[row])

    def _same(self, one: Floats, other: Floats) -> bool:
        return is_same(one, other, tolerance=self._tolerance)

    # -- what values may be ---------------------------------------------------------------

    def _largest(self) -> float | None:
        """The power of ten that values may have, if the largest ones leave a state for good."""
        values = self._manifest.input
        if not isinstance(values, ValuesInput) or not np.isfinite(self._alone[0]).all():
            return None
        if not self._is_ruined(values, _LARGEST):
            return None
        good, bad = 0, 38
        if self._is_ruined(values, 1.0):
            return None  # not by its size
        while bad - good > 1:
            middle = (good + bad) // 2
            if self._is_ruined(values, 10.0**middle):
                bad = middle
            else:
                good = middle
        return float(10.0**good)

    def _is_ruined(self, values: ValuesInput, size: float) -> bool:
        """Whether values of a size, of any sign, leave a session without numbers."""
        ordinary = self._rows[0]
        rows = []
        features: list[Any] = [slice(None), *range(min(values.width, _MOST_FEATURES))]
        for sign in (1.0, -1.0):
            allowed = np.array([sign > 0 or not positive for positive in values.are_positive])
            for feature in features[: 1 if values.width == 1 else None]:
                row = ordinary.copy()
                chosen = np.zeros(values.width, np.bool_)
                chosen[feature] = True
                row[0, chosen & allowed] = sign * size
                rows.append(row)
        found = []
        for batch in _batches(rows, self._max_rows):
            try:
                found += self._by_steps(batch)
            except _CannotRunError:  # what it cannot read ruins nobody
                for row in batch:
                    with suppress(_CannotRunError):
                        found += self._by_steps([row])
        return not all(np.isfinite(own[-1]).all() for own in found)

    # -- runs -----------------------------------------------------------------------------

    def _by_steps(self, rows: Sequence[Inputs]) -> list[Floats]:
        """Run rows of one length together, step by step: (steps, width) each.

        Raises:
            _CannotRunError: a run fails.
        """
        inputs: Any = np.stack(rows)
        steps = [
            self._run(inputs[:, now : now + 1], is_first=now == 0)[:, 0]
            for now in range(len(rows[0]))
        ]
        return list(np.stack(steps, axis=1))

    def _at_once(self, rows: Sequence[Inputs], counts: Sequence[int]) -> list[Floats]:
        """The same with so many steps of each row at once, and the others one by one.

        Raises:
            _CannotRunError: a run fails, or says another last prediction than that of all steps.
        """
        found: list[Floats] = []
        whole = len(rows[0])
        for batch in _batches(
            range(len(rows)), min(self._max_rows, self._max_batch // max(counts))
        ):
            own = np.array([counts[row] for row in batch])
            padded: Any = np.stack([rows[row][: own.max()] for row in batch])
            for row, count in enumerate(own.tolist()):
                padded[row, count:] = padded[row, count - 1]  # as what runs is padded
            last = self._run(padded, lengths=own, is_first=True, every_step=False)
            every = self._run(padded, lengths=own, is_first=True)
            at = np.arange(len(batch))
            if not self._same(every[at, own - 1], last):
                raise _CannotRunError("its last prediction is another one than that of all steps")
            parts = [[every[row, :count]] for row, count in enumerate(own.tolist())]
            for now in range(whole):
                going_on = np.flatnonzero(own <= now).tolist()
                if going_on:
                    steps: Any = np.stack([rows[batch[row]][now : now + 1] for row in going_on])
                    after = self._run(steps, slots=self._slots[going_on])
                    for row, one in zip(going_on, after, strict=True):
                        parts[row].append(one)
            found += [np.concatenate(own_parts) for own_parts in parts]
        return found

    def _run(
        self,
        inputs: Inputs,
        *,
        slots: Ints | None = None,
        lengths: Ints | None = None,
        is_first: bool = False,
        every_step: bool = True,
    ) -> Floats:
        rows = len(inputs)
        slots = self._slots[:rows] if slots is None else slots
        try:
            found = self._runner.step(
                read=slots,
                write=slots,
                fresh=np.full(rows, is_first),
                inputs=inputs,
                lengths=np.ones(rows, np.int64) if lengths is None else lengths,
                every_step=every_step,
            )
        except UnwrittenError as fault:
            raise _CannotRunError(str(fault)) from fault
        copied: NDArray[np.float32] = np.array(found)  # it is valid until the next run
        return copied


def _any_steps(manifest: Manifest, count: int, scale: float, *, seed: int) -> Inputs:
    """Steps that the model should be able to read."""
    generator = np.random.default_rng(seed)
    match manifest.input:
        case TokensInput(vocabulary=vocabulary):
            return generator.integers(len(vocabulary), size=count)
        case ValuesInput(are_positive=positive, width=width):
            values = scale * generator.normal(size=(count, width))
            return np.where(positive, np.exp(np.clip(values, -8, 8)), values).astype(np.float32)


def _extremes(manifest: Manifest) -> Iterator[Any]:
    """Steps at the edges of what a caller may send."""
    match manifest.input:
        case TokensInput(vocabulary=vocabulary):
            yield from (0, len(vocabulary) - 1)
        case ValuesInput(are_positive=positive):
            for value in (_LARGEST, -_LARGEST, _TINIEST, 0.0):
                if value > 0 or not any(positive):
                    yield value


def _batches(rows: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
