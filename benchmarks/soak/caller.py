"""A process of callers: ``python -m benchmarks.soak.caller ADDRESS SEED LIFE...``.

It goes on until it is killed.
Writes a JSON line a second: lives by name and end, since the last line.
"""

import asyncio
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Sequence

import cellar
from benchmarks.soak.lives import LIVES

_AT_ONCE = 6
_PAUSE_S = 0.005  # in the mean: the server is to be used, not to be busy


async def live(address: str, seed: int, names: Sequence[str], ends: Counter[str]) -> None:
    """One life after the other; some change the connection between them."""
    chance = random.Random(seed)
    while True:
        async with cellar.aio.connect(address, timeout_s=60) as client:
            while chance.random() > 0.05:
                name = chance.choice(names)
                try:
                    await LIVES[name](client, chance)
                except Exception as error:
                    said = re.sub(r"'[^']*'|\d+", "…", str(error))[:100]
                    ends[f"{name}: {type(error).__name__}: {said}"] += 1
                else:
                    ends[f"{name}: ok"] += 1
                await asyncio.sleep(chance.expovariate(1 / _PAUSE_S))


async def main() -> None:
    address, seed, names = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    ends: Counter[str] = Counter()
    lives = [
        asyncio.create_task(live(address, seed * 1000 + number, names, ends))
        for number in range(_AT_ONCE)
    ]
    while True:
        done, _ = await asyncio.wait(lives, timeout=1, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        print(json.dumps({"ends": dict(ends)}), flush=True)
        ends.clear()


if __name__ == "__main__":
    asyncio.run(main())
