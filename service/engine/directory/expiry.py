"""Sessions that have been idle for too long. Time is an argument."""

from collections.abc import Callable, Iterable

import numpy as np

from service.engine.directory.session import Session
from service.engine.shard.shard import Shard
from service.errors import SessionClosedError, SessionExpiredError
from service.metrics import Metrics

_EXPIRED_AT_ONCE = 256  # per shard and call, so that steps need not wait for long


class Expiry:
    """Ends those that are due.

    Args:
        end: ends a session in one of two ways.
    """

    def __init__(
        self,
        end: Callable[[Session, type[SessionClosedError | SessionExpiredError]], None],
        metrics: Metrics,
    ) -> None:
        self._end = end
        self._metrics = metrics
        self._due_s: dict[str, float] = {}  # by owner: none of its sessions expires before

    def expire(self, shards: Iterable[Shard], *, now_s: float, owner: int | None = None) -> int:
        """End some at a time; returns how many.

        ``owner``: only those of this one, see `SlotManager.owners`.
        """
        count = 0
        session: Session
        for shard in shards:
            for session in shard.expired_sessions(now_s, at_most=_EXPIRED_AT_ONCE, owner=owner):
                left = shard.slots.ephemeral.is_alone(session.slot)  # it ends as its owner asked
                self._end(session, SessionClosedError if left else SessionExpiredError)
                self._metrics.session_events.labels("closed" if left else "expired").inc()
                count += 1
        return count

    def expire_of(
        self, owner: str, number: int, shards: Callable[[], Iterable[Shard]], *, now_s: float
    ) -> float:
        """End those of a principal; returns when the next one is due.

        Args:
            owner: its name.
            number: what stands for it in `SlotManager.owners`.
            shards: all there are.
            now_s: see `SessionTable`.
        """
        due_s = self._due_s.get(owner, 0.0)
        if due_s < now_s:  # else none of them is: who comes again and again is refused cheaply
            all_shards = tuple(shards())
            self.expire(all_shards, now_s=now_s, owner=number)
            due_s = min(
                (shard.table.due_s(shard.slots.owned(number)) for shard in all_shards),
                default=np.inf,
            )
            self._due_s[owner] = due_s
        return due_s

    def has_more(self, owner: str) -> None:
        """A principal has opened one, which may be due before the others."""
        self._due_s.pop(owner, None)
