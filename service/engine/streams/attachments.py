"""The sessions attached to one stream, by channel number.

Knows nothing of frames or replies.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.auth.principal import require_model
from service.engine.directory.session import Session
from service.engine.engine import Engine
from service.engine.served.registry import ServedModel
from service.engine.shard.shard import Shard
from service.engine.streams.channels import Channels
from service.engine.streams.frame import Refusal
from service.engine.work.columns import Branches, Ints, Mask, has_repeats
from service.engine.work.memory import Account
from service.engine.work.work import Barrier
from service.errors import BadInputError, CellarError, StaleBranchError

_STEPPED_SINGLY = 1000  # channels whose place is remembered
_FIRST = np.zeros(1, np.int64)
_RESET_AT_ONCE = 250  # each is a piece of work of its own
_SESSIONS_AT_ONCE = 1000  # attached or closed before others on the event loop have a turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """The channels of an attach that now stand for sessions, and those that do not."""

    channels: Ints
    positions: Ints
    branches: Branches
    refusals: tuple[Refusal, ...]


class Attachments:
    """Gives sessions their channels, and finds them by these."""

    def __init__(self, engine: Engine, served: ServedModel, account: Account) -> None:
        self._engine = engine
        self._served = served
        self._channels = Channels(engine.settings.max_channels, account)
        self._shown = engine.metrics.attached_channels.labels(served.label)
        self._attached: int | None = 0  # channels; None: the stream has ended
        # What the last frame's channels came to: most streams send the same ones every time.
        self._last_channels = np.empty(0, np.int64)
        self._last_places = self._channels.look_up(self._last_channels)
        self._last_alive = False
        self._stepped_singly: dict[int, tuple[Shard, int, int]] = {}  # slot and branch
        self._holds_ephemeral = False  # some were attached, and are to be let go

    async def attach(
        self,
        session_ids: Sequence[str],
        channels: Ints,
        *,
        open_sessions: bool,
        branches: Sequence[int] = (),
        idle_timeout_s: float | None = None,
        ephemeral: bool = False,
    ) -> Attached:
        """Give sessions their channels; each that cannot be attached is refused alone.

        Args:
            session_ids: of the sessions.
            channels: their channels, (sessions,).
            open_sessions: whether they are opened first.
            branches: the branch that each must be on, 0 where that is unchecked; or none.
            idle_timeout_s: of those that are opened; ``None`` is the server's.
            ephemeral: whether those that are opened end with their last stream.

        Raises:
            BadInputError: the columns do not fit, or a channel number cannot be used.
            OverloadedError: there is no memory for the channels.
        """
        self._check_new(session_ids, channels)
        if branches:
            _check_branches(session_ids, branches, open_sessions=open_sessions)
        if not open_sessions:
            _check_none_is_opened(idle_timeout_s, ephemeral=ephemeral)
        opening = _Opening(idle_timeout_s, ephemeral) if open_sessions else None
        accepted: list[int] = []
        positions: list[int] = []
        found: list[int] = []  # branches
        refusals: list[Refusal] = []
        for row, (session_id, channel) in enumerate(
            zip(session_ids, channels.tolist(), strict=True), start=1
        ):
            try:
                claimed = branches[row - 1] if branches else 0
                position, branch = await self._attach(session_id, channel, opening, claimed)
            except CellarError as error:
                refusals.append(_refusal(channel, error))
            else:
                accepted.append(channel)
                positions.append(position)
                found.append(branch)
            if row % _SESSIONS_AT_ONCE == 0:
                await asyncio.sleep(0)
        if self._engine.log is not None:
            await self._engine.log.flush()  # what it tells of the sessions is durable
        self._count(len(accepted))
        return Attached(
            channels=np.array(accepted, np.int64),
            positions=np.array(positions, np.int64),
            branches=np.array(found, np.uint64),
            refusals=tuple(refusals),
        )

    async def detach(self, channels: Ints, *, close: bool) -> Ints:
        """Let go of channels; returns those that were attached.

        Steps sent before are still applied and answered; but with ``close``, what has not run by
        then is refused. A session that somebody else has reset since is not closed.

        Raises:
            BadInputError: there are more than there can be.
        """
        most = self._engine.settings.max_channels
        if len(channels) > most:
            raise BadInputError("detach.channels", f"{len(channels)} exceed the limit of {most}")
        known = self._channels.detach(channels)
        self._count(-len(known))
        if self._holds_ephemeral and self._attached is not None:
            self._let_go(self._channels.look_up(known))
        self._last_channels = self._last_channels[:0]
        self._stepped_singly.clear()
        if close:
            places = self._channels.look_up(known)
            for row, (_, number, tenancy, slot, branch) in enumerate(places.tolist(), start=1):
                shard = self._served.shards[number]
                if shard.table.branch.item(slot) == branch:
                    self._engine.directory.close_slot(shard, slot, tenancy)
                if row % _SESSIONS_AT_ONCE == 0:
                    await asyncio.sleep(0)
            if self._engine.log is not None:
                await self._engine.log.flush()
        return known

    def end(self) -> None:
        """The stream ends: what it had attached is on it no longer, and its channels not shown."""
        if self._attached is None:
            return
        if self._holds_ephemeral:
            self._let_go(self._channels.attached())
        self._count(-self._attached)
        self._attached = None

    def _count(self, channels: int) -> None:
        if self._attached is not None:
            self._attached += channels
            self._shown.inc(channels)

    def _let_go(self, places: NDArray[np.void]) -> None:
        """Sessions that are ephemeral, and are here still, may be on no stream now."""
        for number, shard in enumerate(self._served.shards):
            own = places[places["shard"] == number]
            own = own[shard.slots.tenancy[own["slot"]] == own["tenancy"]]
            shard.slots.ephemeral.let_go(own["slot"], now_s=self._engine.directory.now_s)

    async def reset(self, channels: Ints) -> Attached:
        """Put the sessions of channels back to position 0, behind what is queued for them.

        The channels stand for the new branches then. Each that cannot be reset is refused alone.

        Raises:
            BadInputError: the column cannot be used.
        """
        self._check_count("reset.channels", len(channels), "channel", "channels")
        if has_repeats(channels):
            raise BadInputError("reset.channels", "a channel appears twice")
        done: dict[int, int] = {}  # branches by channel
        refusals: list[Refusal] = []
        for start in range(0, len(channels), _RESET_AT_ONCE):
            await self._reset(channels[start : start + _RESET_AT_ONCE], done, refusals)
        if self._engine.log is not None:
            await self._engine.log.flush()
        return Attached(
            channels=np.array(list(done), np.int64),
            positions=np.zeros(len(done), np.int64),
            branches=np.array(list(done.values()), np.uint64),
            refusals=tuple(refusals),
        )

    async def _reset(self, channels: Ints, done: dict[int, int], refusals: list[Refusal]) -> None:
        """Reset some of them, together."""
        barriers: dict[Shard, list[Barrier]] = {}
        for row, place in enumerate(self._channels.look_up(channels).tolist()):
            try:
                shard, slot, branch = self._resettable(channels.item(row), *place)
            except CellarError as error:
                refusals.append(_refusal(channels.item(row), error))
                continue
            barrier = Barrier(
                slots=np.array([slot]),
                branches=np.array([branch], np.uint64),
                rows=np.array([row]),
                reset=True,
            )
            barriers.setdefault(shard, []).append(barrier)
        for shard, own in barriers.items():
            deliveries = {each.rows.item(0): each for each in await shard.outcomes(*own)}
            for barrier in own:
                row = barrier.rows_at(_FIRST).item(0)
                channel, delivery = channels.item(row), deliveries[row]
                if delivery.error is not None:
                    refusals.append(_refusal(channel, delivery.error))
                    continue
                self._channels.move(channel, barrier.new_branch)
                done[channel] = barrier.new_branch
        self._last_channels = self._last_channels[:0]
        self._stepped_singly.clear()

    def _resettable(
        self, channel: int, attached: bool, number: int, tenancy: int, slot: int, branch: int
    ) -> tuple[Shard, int, int]:
        """Where the session of a channel is, and on which branch, if it may be reset."""
        self._engine.check_ready()
        if not attached:
            raise BadInputError("reset.channels", f"{channel} is not attached")
        shard = self._served.shards[number]
        if shard.table.closing[slot] or tenancy != shard.slots.tenancy[slot]:
            why = f"the session on channel {channel} was closed or has expired"
            raise shard.table.why_closed(branch, why)
        shard.check_stays(slot)
        return shard, slot, shard.on_branch(slot, branch, or_left=True)

    def find(self, channels: Ints) -> tuple[NDArray[np.void], Mask]:
        """The place of each channel, and whether its session is there still, on the same branch.

        Raises:
            BadInputError: a session appears twice.
        """
        if self._last_alive and np.array_equal(channels, self._last_channels):
            return self._last_places, self.alive(self._last_places)
        places = self._channels.look_up(channels)
        alive = self.alive(places)
        # Of sessions that are gone, the slot may be another's by now: it says nothing.
        where = places["slot"] * len(self._served.shards) + places["shard"]
        if has_repeats(where[alive]):
            raise BadInputError(
                "frame.channels", "a session appears twice: give it several steps instead"
            )
        self._last_channels, self._last_places = channels, places
        self._last_alive = bool(alive.all())
        return places, alive

    def look_up(self, channels: Ints) -> tuple[NDArray[np.void], Mask]:
        """The same without a look at the whole: sessions may appear twice."""
        places = self._channels.look_up(channels)
        return places, self.alive(places)

    def alive(self, places: NDArray[np.void]) -> Mask:
        """Whether the session of each place is there still, on the same branch.

        One that was closed may be, until its slot is another's: it is blocked then.
        """
        shards = self._served.shards
        branches = shards[0].table.branch[places["slot"] if len(shards) == 1 else 0]
        if len(shards) > 1:
            branches = np.empty(len(places), np.uint64)
            for number, shard in enumerate(shards):
                own = places["shard"] == number
                branches[own] = shard.table.branch[places["slot"][own]]
        alive: Mask = places["attached"] & (places["branch"] == branches)
        return alive

    def find_one(self, channel: int) -> tuple[Shard, int, int] | None:
        """The shard, the slot and the branch of a channel, if its session can be stepped."""
        place = self._stepped_singly.get(channel)
        if place is None:
            found = self._channels.place(channel)
            if found is None:
                return None
            _, number, _, slot, branch = found
            place = self._served.shards[number], slot, branch
            if len(self._stepped_singly) < _STEPPED_SINGLY:
                self._stepped_singly[channel] = place
        shard, slot, branch = place
        if branch != shard.table.branch.item(slot) or shard.table.is_blocked(slot):
            return None
        return place

    async def _attach(
        self, session_id: str, channel: int, opening: "_Opening | None", claimed: int
    ) -> tuple[int, int]:
        """Returns where the session stands, and on which branch."""
        if not session_id:
            raise BadInputError("attach.session_ids", "an id is empty: name the session")
        if opening is not None:
            session = self._engine.open(
                self._served,
                session_id,
                idle_timeout_s=opening.idle_timeout_s,
                ephemeral=opening.ephemeral,
            )
        else:
            session = await self._settled(session_id, claimed)
        shard, branch = session.shard, session.shard.on_branch(session.slot, claimed)
        self._channels.attach(
            channel,
            shard=self._served.shards.index(shard),
            tenancy=int(shard.slots.tenancy[session.slot]),
            slot=session.slot,
            branch=branch,
        )
        if session.slot in shard.slots.ephemeral and self._attached is not None:
            shard.slots.ephemeral.hold(session.slot)
            self._holds_ephemeral = True
        return shard.table.stands_at(session.slot), branch

    async def _settled(self, session_id: str, claimed: int) -> Session:
        """An open session of this model, at the end of what is queued for it now.

        Steps of a broken stream may still be running: who attaches learns where they end.
        """
        while True:
            session = self._engine.directory.find(session_id)
            served = session.served
            require_model(served.name)
            if served is not self._served:
                raise BadInputError(
                    "attach.session_ids",
                    f"'{session_id}' is a session of {served.name}/{served.version}; this stream "
                    f"carries {self._served.name}/{self._served.version}",
                )
            session.shard.check_stays(session.slot)
            session.shard.on_branch(session.slot, claimed)
            if session.shard.is_idle(session.slot):
                return session
            await self._engine.barrier(session_id)
            # Found anew: while we waited, the id may have gone to another session, or it goes back.
            is_it = self._engine.directory.find(session_id) is session
            if is_it and not session.shard.table.returning[session.slot]:
                return session

    def _check_new(self, session_ids: Sequence[str], channels: Ints) -> None:
        if len(session_ids) != len(channels):
            raise BadInputError(
                "attach.channels",
                f"{len(channels)} channels for {len(session_ids)} sessions: send one for each",
            )
        self._check_count("attach.session_ids", len(channels), "session", "sessions")
        self._channels.check_new(channels)

    def _check_count(self, field: str, count: int, one: str, many: str) -> None:
        if not count:
            raise BadInputError(field, f"no {one} in it: send at least one")
        limit = self._engine.settings.max_attach_sessions
        if count > limit:
            raise BadInputError(field, f"{count} {many} exceed the limit of {limit} at once")


def _refusal(channel: int, error: CellarError) -> Refusal:
    at = error.position if isinstance(error, StaleBranchError) else None
    return Refusal(channel=channel, error=error, position=at)


class _Opening(NamedTuple):
    """How sessions are opened, see `Engine.open`."""

    idle_timeout_s: float | None
    ephemeral: bool


def _check_none_is_opened(idle_timeout_s: float | None, *, ephemeral: bool) -> None:
    for name, is_set in (("idle_timeout", idle_timeout_s is not None), ("ephemeral", ephemeral)):
        if is_set:
            raise BadInputError(
                f"attach.{name}", "sessions that are open have theirs: leave it out, or set open"
            )


def _check_branches(
    session_ids: Sequence[str], branches: Sequence[int], *, open_sessions: bool
) -> None:
    if open_sessions:
        raise BadInputError(
            "attach.branches", "sessions that are opened have none before: leave them out"
        )
    if len(branches) != len(session_ids):
        raise BadInputError(
            "attach.branches",
            f"{len(branches)} for {len(session_ids)} sessions: send one for each, or none",
        )
