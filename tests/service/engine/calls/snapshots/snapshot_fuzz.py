"""Have an engine import snapshots that somebody has changed: each is refused, or steps.

Run it with ``make snapshot-fuzz``; a finding names the seed and the case that show it again. What
crashes this process is a finding as well.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import resource
import sys
import time
from collections.abc import Sequence

import structlog

from tests.service.engine.calls.snapshots.playing import Found, cases, play, playing

_SHOWN = 20
_MOST_GROWN = 256 << 10  # KiB of memory, over all


async def played(seed: int, count: int) -> Found:
    """Give an engine of each case so many snapshots, half of them each."""
    found = Found()
    known = cases()
    for number, case in enumerate(known):
        async with playing(case) as (house, snapshots):
            own = f"{seed}:{number}"
            await play(house, snapshots, seed=own, count=count // len(known), found=found)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Import as many as are asked for; 1 where one went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    faulthandler.enable()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began_s = time.monotonic()
    found = asyncio.run(played(options.seed, options.cases))
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    if grown_kib > _MOST_GROWN:
        found.wrong.append(f"memory grew by {grown_kib:,} KiB")
    print(
        f"{options.cases:,} snapshots: {found.imported:,} imported and stepped, "
        f"{found.refused.total():,} refused ({dict(found.refused)}) in {len(found.told):,} ways, "
        f"{len(found.wrong):,} wrong; {time.monotonic() - began_s:.0f} s, {grown_kib >> 10} MiB"
    )
    for each in found.wrong[:_SHOWN]:
        print(each)
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
