"""What callers sent and were told, in columns: all that the oracle judges by.

An *era* is one unbroken past of a session, which the server calls a branch: it begins when the
session is opened or reset, or comes back without its tail, and positions are compared within it.
Knows nothing of models or connections.
"""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Digests = NDArray[np.uint64]

DIGEST = 1  # a reply told the prediction after this step
DRAWN = 2  # the server drew this step and fed it back
UNKNOWN = 4  # and nobody was told what it drew
REPLAYED = 8  # the reply says that the step had been applied before
DUPLICATE = 16  # sent on purpose, after the step was answered
INFERRED = 32  # never answered: a later position shows that it was applied

STEP = np.dtype(
    [
        ("era", np.int64),
        ("position", np.int64),  # before the step
        ("sent", np.int64),  # when, in ticks
        ("digest", np.uint64),
        ("seed", np.uint64),
        ("input", np.float32),  # holds every token id, too
        ("flags", np.uint8),
    ]
)
READ = np.dtype(
    [(name, np.int64) for name in ("era", "position", "least", "most", "asked", "told", "by")]
)
FORECAST = np.dtype(
    [("era", np.int64), ("position", np.int64), ("seed", np.uint64), ("digest", np.uint64)]
)

_WIDEST = 4096
_FACTORS = np.random.default_rng(7).integers(0, 2**63, _WIDEST, np.uint64) * 2 + 1


def digest(rows: ArrayLike) -> Digests:
    """A number for each row of float32 numbers (rows, width): any changed bit changes it."""
    table = np.ascontiguousarray(rows, np.float32)
    words = table.view(np.uint32).astype(np.uint64)  # odd factors: no single bit is lost
    found: Digests = (words * _FACTORS[: words.shape[-1]]).sum(axis=-1, dtype=np.uint64)
    return found


@dataclass(slots=True, kw_only=True)
class Era:
    """One unbroken past of a session.

    Attributes:
        session: the session's id.
        model: its model.
        branch: what the server calls this past; 0 where it has not told.
        parent: the era whose first steps it keeps, if the server came back without the others.
        base: how many those are.
        floor: of that parent, the position that the server had told to be durable by then.
        least: the position of the parent that callers knew of by then.
        began: when, in ticks.
        asked: when that was asked for which began it: its server may have crashed before the answer
            came.
        ended: when it was reset, closed or found to be over.
        is_asked: it was rewound or forked on purpose; the parent has lost nothing.
    """

    session: str
    model: str
    branch: int = 0
    parent: int | None = None
    base: int = 0
    floor: int = 0
    least: int = 0
    began: int = 0
    asked: int = 0
    ended: int | None = None
    is_asked: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """A question for a position that is on its way.

    Attributes:
        era: of which session.
        least: the position that had been told when it was asked.
        tick: when that was.
        by: the request that asked.
    """

    era: int
    least: int
    tick: int
    by: str


class History:
    """All that happened, in the order in which callers saw it.

    Attributes:
        eras: by number.
        least: the position that callers know of, by era.
        most: the position that all they have sent would lead to, by era.
        durable: the position that the server has told to be durable, by era.
        crashes: when the server was killed, or ended by itself, in ticks.
        faults: what was done to the server, connections and requests, by kind.
        stale_refused: late duplicates from an earlier era that were refused.
        noted: what a caller saw at once to be wrong, (kind, words).
        refusals: refused requests by reason.
        requests: those that tell positions, by their numbers in `READ`.
    """

    def __init__(self) -> None:
        self.eras: list[Era] = []
        self.least: Ints = np.zeros(1024, np.int64)
        self.most: Ints = np.zeros(1024, np.int64)
        self.durable: Ints = np.zeros(1024, np.int64)
        self.crashes: list[int] = []
        self.faults: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.stale_refused = 0
        self.noted: list[tuple[str, str]] = []
        self.acknowledged = 0
        self.current: dict[str, int] = {}
        self.requests: dict[str, int] = {}
        self._tick = 0
        self._steps: list[NDArray[Any]] = []
        self._reads: list[tuple[int, ...]] = []
        self._forecasts: list[tuple[int, ...]] = []

    def tick(self) -> int:
        """The time, which goes on by one."""
        self._tick += 1
        return self._tick

    def begin(self, session: str, model: str, *, branch: int = 0, asked: int = 0) -> int:
        """A session was opened or reset; returns the number of its new era.

        ``asked`` is when, in ticks; 0: just now.
        """
        return self._begin(Era(session=session, model=model, branch=branch, asked=asked))

    def branch_off(self, parent: int, session: str, base: int, *, branch: int) -> int:
        """A session was rewound, or another one begins where it stood: a new era."""
        model = self.eras[parent].model
        return self._begin(
            Era(
                session=session, model=model, branch=branch, parent=parent, base=base, is_asked=True
            )
        )

    def go_back(self, ask: Ask, position: int, branch: int) -> int:
        """A session has come back on another branch, at a position of its past: a new era.

        ``ask`` is the question that was answered so.
        """
        old = self.eras[ask.era]
        self.end(ask.era)
        return self._begin(
            Era(
                session=old.session,
                model=old.model,
                branch=branch,
                parent=ask.era,
                base=position,
                floor=int(self.durable[ask.era]),
                least=ask.least,
                asked=ask.tick,
            )
        )

    def _begin(self, era: Era) -> int:
        number = len(self.eras)
        era.began = self.tick()
        era.asked = era.asked or era.began
        self.eras.append(era)
        self.current[era.session] = number
        if number == len(self.least):
            for name in ("least", "most", "durable"):
                column = getattr(self, name)
                setattr(self, name, np.concatenate([column, np.zeros_like(column)]))
        self.least[number] = self.most[number] = self.durable[number] = era.base
        return number

    def end(self, era: int) -> None:
        """Whatever is sent for this era from now on must be refused."""
        if self.eras[era].ended is None:
            self.eras[era].ended = self.tick()

    def send(self, eras: Ints | int, afters: Ints | int) -> int:
        """Steps are sent that lead to these positions; returns when. No era is there twice."""
        self.most[eras] = np.maximum(self.most[eras], afters)
        return self.tick()

    def tell_steps(
        self,
        eras: Ints | int,
        positions: Ints,
        inputs: Floats,
        *,
        flags: NDArray[np.uint8] | int,
        digests: Digests | int = 0,
        sent: int,
        seed: int = 0,
    ) -> None:
        """Steps were answered, or are known to be applied: one row per step.

        Args:
            eras: (steps,).
            positions: before each step, (steps,).
            inputs: tokens or values, (steps,).
            flags: of each, see the constants above.
            digests: of the predictions, where `DIGEST` is set.
            sent: the tick of the sending that was answered.
            seed: of drawn steps.
        """
        steps = np.empty(len(positions), STEP)
        steps["era"], steps["position"], steps["input"] = eras, positions, inputs
        steps["flags"], steps["digest"], steps["sent"], steps["seed"] = flags, digests, sent, seed
        self._steps.append(steps)
        np.maximum.at(self.least, steps["era"], positions + 1)
        self.acknowledged += int(np.count_nonzero(steps["flags"] & (DUPLICATE | INFERRED) == 0))

    def ask(self, era: int, by: str = "GetSession") -> Ask:
        """Somebody asks where a session is, ``by`` some request."""
        return Ask(era, int(self.least[era]), self.tick(), by)

    def tell(self, ask: Ask, position: int) -> bool:
        """And was told; returns whether that can be."""
        most = int(self.most[ask.era])
        by = self.requests.setdefault(ask.by, len(self.requests))
        self._reads.append((ask.era, position, ask.least, most, ask.tick, self.tick(), by))
        return ask.least <= position <= most

    def tell_forecast(self, era: int, position: int, seed: int, paths: int) -> None:
        """A forecast was answered; ``paths`` is the digest of its paths."""
        self._forecasts.append((era, position, seed, paths))

    def note(self, kind: str, words: str) -> None:
        """A caller saw something that must not be: ``lost``, ``doubled`` or ``different``."""
        self.noted.append((kind, words))

    def steps(self) -> NDArray[Any]:
        """All steps told, in the order told, (steps,) `STEP`."""
        return np.concatenate([np.empty(0, STEP), *self._steps])

    def reads(self) -> NDArray[Any]:
        """All positions told, (reads,) `READ`."""
        return np.array(self._reads, READ)

    def forecasts(self) -> NDArray[Any]:
        """All forecasts told, (forecasts,) `FORECAST`."""
        return np.array(self._forecasts, FORECAST)

    def save(self, folder: Path) -> None:
        """Write all of it down: ``history.npz`` and ``history.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        columns: dict[str, Any] = {
            "steps": self.steps(),
            "reads": self.reads(),
            "forecasts": self.forecasts(),
            "crashes": np.array(self.crashes, np.int64),
        }
        np.savez_compressed(folder / "history.npz", **columns)
        told = {
            "eras": [asdict(era) for era in self.eras],
            "noted": self.noted,
            "refusals": self.refusals,
            "requests": self.requests,
        }
        (folder / "history.json").write_text(json.dumps(told), "utf-8")


__all__ = [
    "DIGEST",
    "DRAWN",
    "DUPLICATE",
    "FORECAST",
    "INFERRED",
    "READ",
    "REPLAYED",
    "STEP",
    "UNKNOWN",
    "Ask",
    "Digests",
    "Era",
    "Floats",
    "History",
    "Ints",
    "digest",
]
