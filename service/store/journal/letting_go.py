"""Puts a gap where groups have been let go, and zeros where they were."""

from __future__ import annotations

from service.store.journal.disk import File
from service.store.journal.layout import HEADER_BYTES, START, Record, pack_gap, walk
from service.store.journal.maker import Segment
from service.store.journal.opening import content

_ZEROS = bytes(1 << 20)


def let_go(
    segment: Segment, file: File, end: int, *, before: int, is_over: bool, wipe: bool
) -> None:
    """Let go of the groups of a segment that are below a number.

    At every moment, and after a crash, the segment can be read: with all of them, or with a gap.

    Args:
        segment: Which; none before it holds anything.
        file: Its own.
        end: Where what may be read ends; there others may write meanwhile.
        before: The number.
        is_over: Nothing will be written behind its last group.
        wipe: Whether to leave nothing of their bytes.

    Raises:
        OSError: The disk cannot do it.
    """
    data = content(file, segment.head)[:end]
    stop, last = START, -1
    for each in walk(data, segment.head.key):
        if not isinstance(each, Record):
            continue
        if not each.is_gap and each.number >= before:
            if 0 < each.after <= before:
                stop, last = each.at, each.after - 1
            break
        stop, last = each.stop, each.number
    else:
        if is_over and segment.last < before:
            # What is behind the last group was not written whole.
            stop, last = end, segment.last
    if stop == START or stop <= segment.clean or last < 0:
        return
    gap = pack_gap(last, stop, segment.head.key)
    if data[START : START + HEADER_BYTES] != gap:
        file.write(gap, START)
        # Only then may go what it covers: a crash in between leaves both, or the gap.
        file.sync()
    if wipe:
        # Once more in each process: zeros that the cache shows need not be on the disk.
        for at in range(max(START + HEADER_BYTES, segment.clean), stop, len(_ZEROS)):
            file.write(_ZEROS[: stop - at], at)
        file.sync()
        segment.clean = stop
