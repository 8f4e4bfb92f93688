"""One attack: who is polite is measured before it, beside it and after it."""

import asyncio
import time
from typing import Any

from benchmarks.attack.attack import Attack
from benchmarks.attack.house import House
from benchmarks.errors import UnmeasuredError
from benchmarks.procfs import busy_s

REST_S = 1.0  # after an attack
_WARM_S = 0.5
_BEGIN_S = 1.0  # until it is in full swing


async def attacked(house: House, name: str, attack: Attack, seconds: float) -> dict[str, Any]:
    """Measure who is polite alone, for a third of the time each before and after, and beside it.

    Returns:
        ``alone`` and ``beside``, what was measured; of ``alone`` the times before or after, those
        that are shorter. ``server_cpu``, ``attacker_cpu``, ``polite_cpu`` and ``others_cpu``:
        cores in use beside the attack. ``refusal_cpu_us``: CPU of the server for each call or row
        that was refused, less what serving the polite takes.
    """
    ask = house.polite.ask
    await asyncio.to_thread(ask, "measure", seconds=_WARM_S)
    cpu_s = house.server.cpu_s()
    before = await asyncio.to_thread(ask, "measure", seconds=seconds / 3)
    own_s = (house.server.cpu_s() - cpu_s) / max(before["steps"], 1)  # of a polite step
    rss = house.server.rss_bytes()
    await asyncio.to_thread(house.attacker.ask, "begin", attack=name)
    await asyncio.sleep(_BEGIN_S)
    spent = {"server": house.server, "attacker": house.attacker, "polite": house.polite}
    first = await asyncio.to_thread(house.attacker.ask, "look")
    began_s, busy = time.monotonic(), busy_s()
    cpu = {who: child.cpu_s() for who, child in spent.items()}
    beside = await asyncio.to_thread(ask, "measure", seconds=seconds)
    took_s = time.monotonic() - began_s
    used = {who: child.cpu_s() - cpu[who] for who, child in spent.items()}
    others_s = busy_s() - busy - sum(used.values())
    last = await asyncio.to_thread(house.attacker.ask, "look")
    grown = house.server.rss_bytes() - rss
    await asyncio.to_thread(house.attacker.ask, "end")
    await asyncio.sleep(REST_S)
    try:
        after = await asyncio.to_thread(ask, "measure", seconds=seconds / 3)
        died = bool(after["failed"])
    except UnmeasuredError:
        after, died = before, True
    counts = {each: last[each] - first[each] for each in ("sent", "answered", "refused", "cut")}
    for_them_s = used["server"] - own_s * beside["steps"]
    return {
        "says": attack.says,
        "alone": before if before["step_ms"] < after["step_ms"] else after,
        "beside": beside,
        "failed": beside["failed"],
        "died": died,
        "per_s": {each: round(count / took_s, 1) for each, count in counts.items()},
        "open": last["open"],
        "held_s": last["held_s"],
        "refusal_ms": None if last["refused_s"] is None else round(1000 * last["refused_s"], 2),
        "refusal_cpu_us": round(1e6 * for_them_s / counts["refused"])
        if counts["refused"] > counts["answered"]
        else None,
        **{f"{who}_cpu": round(each / took_s, 2) for who, each in used.items()},
        "others_cpu": round(max(0.0, others_s) / took_s, 2),
        "grown_mb": round(grown / 2**20),
    }
