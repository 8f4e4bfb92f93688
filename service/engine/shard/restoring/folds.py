"""How sessions are put where they stood: a seed into a slot, and what was read behind it again.

The latter is a fold, in the runs of the first time. Knows nothing of slots' tickets or files.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from service.engine.log.groups.entries import DRAWN, EVERY_STEP, PARTIAL, Steps
from service.engine.log.seeds import Seed
from service.engine.work.columns import NOTHING, Inputs, Outputs
from service.engine.work.request import Request
from service.engine.work.work import Chunk, Load, Piece, Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """What one session has to read again.

    Attributes:
        slot: where its state is.
        position: where that stands.
        tail: what it has read since, at least one step.
    """

    slot: int
    position: int
    tail: Steps


def load_of(seeds: Sequence[tuple[int, Seed]]) -> Load:
    """What puts seeds into slots."""
    states = zip(*[seed.states for _, seed in seeds], strict=True)
    positions, last_steps, contents = np.array([seed.stands for _, seed in seeds], np.int64).T
    return Load(
        slots=np.array([slot for slot, _ in seeds], np.int64),
        states=[np.stack(rows) for rows in states],
        positions=positions,
        last_steps=last_steps,
        contents=contents,
        histories={slot: seed.history for slot, seed in seeds if seed.history is not None},
    )


def folds(sessions: Sequence[Unread]) -> Iterator[tuple[Work, bool]]:
    """The work by which these read it: all but the last request in one piece, and that as it came.

    So the last reply can be repeated byte for byte. Where bits depend on the runs that steps are
    in, they run as they ran first. With each piece of work comes whether it is the last one of its
    sessions.
    """
    singles: dict[int, list[tuple[int, int, Inputs]]] = {}  # by bucket
    for session in sessions:
        slot, first, tail = session.slot, session.position, session.tail
        inputs, pieces = _as_inputs(tail), _pieces(tail)
        before = len(inputs) - _last_steps(tail)
        if before:
            chunk = _chunk(slot, first, inputs[:before], _cut(pieces, 0, before))
            yield chunk, False
        if before == len(inputs) - 1 and tail.run_steps[-1] <= 1:  # by itself, the first time too
            own = slot, first + before, inputs[before:]
            singles.setdefault(int(tail.buckets[-1]), []).append(own)
        else:
            every_step = bool(tail.flags[-1] & EVERY_STEP)
            cut = _cut(pieces, before, len(inputs))
            chunk = _chunk(slot, first + before, inputs[before:], cut, every_step=every_step)
            yield chunk, True
    for bucket, rows in singles.items():
        request = _single_steps(rows, bucket)
        request.contents = request.digest()
        yield request, True


def _last_steps(tail: Steps) -> int:
    """The steps of the last request."""
    if tail.flags[-1] & DRAWN:
        return 1
    (whole,) = np.nonzero(~tail.flags[:-1] & PARTIAL)
    return int(tail.steps[whole[-1] + 1 if len(whole) else 0 :].sum())


def _pieces(tail: Steps) -> list[Piece]:
    """What the steps ran in; nothing where bits do not depend on it."""
    if not (tail.buckets.any() or tail.run_steps.any()):
        return []
    found: list[Piece] = []
    columns = np.cumsum(tail.steps), tail.buckets, tail.run_steps
    for piece in map(Piece, *(column.tolist() for column in columns)):
        # Where they may be cut anywhere, those of one bucket run at once.
        if found and not piece.run_steps and found[-1][1:] == piece[1:]:
            found.pop()
        found.append(piece)
    return found


def _cut(pieces: Sequence[Piece], start: int, stop: int) -> list[Piece]:
    """Those of some of the steps."""
    first = bisect_right(pieces, start, key=lambda own: own.stop)
    found: list[Piece] = []
    for piece in pieces[first:]:
        found.append(piece._replace(stop=min(piece.stop, stop) - start))
        if piece.stop >= stop:
            break
    return found


def _as_inputs(tail: Steps) -> Inputs:
    if tail.inputs.dtype.kind in "iu":
        return tail.inputs.astype(np.int64)
    return tail.inputs.astype(np.float32)


def _chunk(
    slot: int,
    position: int,
    inputs: Inputs,
    pieces: list[Piece],
    *,
    every_step: bool = False,
) -> Work:
    request = Request(
        slots=np.array([slot]),
        inputs=inputs,
        steps=np.array([len(inputs)]),
        outputs=Outputs(every_step=every_step),
    )
    return Chunk(
        slots=request.slots,
        expected=np.array([position]),
        outputs=request.outputs,
        commit=True,
        is_fold=True,
        row_steps=len(inputs),
        inputs=inputs,
        contents=request.digest(),
        pieces=pieces,
    )


def _single_steps(rows: Sequence[tuple[int, int, Inputs]], bucket: int) -> Request:
    slots, positions, inputs = zip(*rows, strict=True)
    return Request(
        slots=np.array(slots, np.int64),
        expected=np.array(positions, np.int64),
        inputs=np.concatenate(inputs),
        outputs=NOTHING,
        commit=True,
        is_fold=True,
        bucket=bucket,
    )
