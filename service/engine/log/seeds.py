"""A session's whole state at one position: what a checkpoint is, and what a move leaves in a group.

Knows nothing of models.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from service.engine.work.columns import Floats
from service.store.records import Section


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """A session's whole state at one position.

    Attributes:
        branch: of the session, then.
        position: steps it had read.
        last_steps: of the request that was the last; negative where its reply is lost.
        content: its digest.
        states: of each tensor of the arena, its row.
        history: the predictions after each of the last request's steps, if it asked for all.
    """

    branch: int
    position: int
    last_steps: int
    content: int
    states: Sequence[Floats]
    history: Floats | None = None

    @property
    def stands(self) -> tuple[int, int, int]:
        """Position, and of the last request the steps and the digest."""
        return self.position, self.last_steps, self.content

    @property
    def nbytes(self) -> int:
        """Memory that it takes, about."""
        history = 0 if self.history is None else self.history.nbytes
        return history + sum([row.nbytes for row in self.states])

    def without_history(self) -> "Seed":
        """The same, for when the last request's predictions are not asked for any more."""
        return replace(self, history=None)

    def pack(self) -> Section:
        """For the table, or a group."""
        columns: dict[str, Any] = {f"state{n}": row for n, row in enumerate(self.states)}
        if self.history is not None:
            columns["history"] = self.history
        meta = {
            "branch": self.branch,
            "position": self.position,
            "last_steps": self.last_steps,
            "content": self.content,
        }
        return Section("checkpoint", meta, columns)

    @classmethod
    def unpack(cls, section: Section) -> "Seed":
        """What `pack` made."""
        meta, columns = section.meta, section.columns
        states = [columns[f"state{n}"] for n in range(len(columns) - ("history" in columns))]
        return cls(
            branch=int(meta["branch"]),
            position=int(meta["position"]),
            last_steps=int(meta["last_steps"]),
            content=int(meta["content"]),
            states=states,
            history=columns.get("history"),
        )


def initial_seed(states: Sequence[Floats], *, branch: int) -> Seed:
    """What a session of a branch starts from that was opened with these rows."""
    return Seed(branch=branch, position=0, last_steps=0, content=0, states=states)
