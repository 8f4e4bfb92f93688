"""What the records of all segments say together: which groups there are, and which are missing.

Each record names the group before it, so that a group that is missing is known by the next one, and
so is one that was being written when its process ended: the next one was written without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from service.store.journal.layout import Debris, Head, Record, walk


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A group as it was found.

    Attributes:
        number: Of the group.
        data: Its bytes; empty where they are missing.
        problem: What is wrong with them, for people; empty where nothing is.
    """

    number: int
    data: bytes
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Torn:
    """What was being written when the process ended, as it seems: nothing valid is behind it.

    Attributes:
        number: Of the group.
        length: Bytes of what is there.
    """

    number: int
    length: int


def _ignore(*_: object) -> None:
    pass


def read(
    segments: Iterable[tuple[Head, bytes]],
    *,
    torn: Callable[[Torn], None] = _ignore,
    let_go: Callable[[], None] = _ignore,
) -> Iterator[Group]:
    """The groups of segments, ascending; those that are damaged or missing are named.

    Of several groups that are missing in one place the last is named, without its bytes.

    Args:
        segments: Those that there are, by their sequence: heads, and what is in the files.
        torn: Called at the end, where the last group was not written whole. It is left out.
        let_go: Called at a gap: what came before it has been let go, and what is between as well.
    """
    chain = _Chain()
    for head, data in segments:
        chain.begin(head)
        # A segment may have been made some groups before it was begun.
        yield from chain.settle(head.after, is_least=True)
        for each in walk(data, head.key):
            if isinstance(each, Debris):
                chain.pass_over(each)
            elif each.is_gap:
                chain.skip(each.number)
                let_go()
            else:
                yield from chain.settle(each.after)
                chain.hold(each, data)
    yield from chain.end(torn)


class _Chain:
    """What is known while segments are read.

    Attributes:
        next: The least number that the next group may have: all before it are accounted for.
    """

    def __init__(self) -> None:
        self.next: int | None = None
        # Bytes that are no record, since the last one, and what the segment says of those before.
        self._debris = 0
        self._after = self._debris_after = 0
        # The last record is only believed once the next one says that it follows it.
        self._held: tuple[Record, bytes] | None = None
        self._is_held_here = self._is_followed = False

    def begin(self, head: Head) -> None:
        """A segment begins."""
        if head.sequence == 1:
            self.next = 0
        self._after = head.after
        self._is_held_here = False

    def hold(self, record: Record, data: bytes) -> None:
        """A record was found."""
        self._held = (record, data[record.data])
        self._debris = 0
        self._is_held_here, self._is_followed = True, False

    def pass_over(self, debris: Debris) -> None:
        """Something was found that is no record."""
        if not self._debris:
            self._debris_after = self._after
        self._debris += debris.stop - debris.at
        self._is_followed |= self._is_held_here

    def skip(self, number: int) -> None:
        """A gap was found, up to that group."""
        self._held, self._debris = None, 0
        self.next = number + 1

    def settle(self, after: int, *, is_least: bool = False) -> Iterator[Group]:
        """The next record follows the group before ``after``, or one behind that."""
        if self._held is not None:
            number = self._held[0].number
            if after > number:
                yield from self._told()
            elif not is_least:
                # It was written without the group: nobody was told of that.
                self._held = None
        if self.next is not None:
            is_missing = after > self.next
        else:
            # Before the first group others were dropped, unless there is what may be one.
            is_missing = self._debris > 0 and after > self._debris_after
        if is_missing:
            yield self._missing(after - 1)
            self.next = after

    def _told(self) -> Iterator[Group]:
        assert self._held is not None
        (record, data), self._held = self._held, None
        if self.next is not None and record.number < self.next:
            return
        self.next = record.number + 1
        problem = "" if record.is_sound else "its checksum does not hold"
        yield Group(number=record.number, data=data, problem=problem)

    def _missing(self, last: int) -> Group:
        first = last if self.next is None else self.next
        groups = "it is missing" if first >= last else f"all from {first} on are missing"
        return Group(number=last, data=b"", problem=groups)

    def end(self, torn: Callable[[Torn], None]) -> Iterator[Group]:
        """Nothing follows."""
        if self._held is not None:
            record, data = self._held
            if record.is_sound or self._is_followed:
                # Unless it was whole, nothing was written behind it in its segment.
                yield from self._told()
            else:
                torn(Torn(number=record.number, length=len(data)))
                return
        if self._debris:
            torn(Torn(number=self.next or 0, length=self._debris))
