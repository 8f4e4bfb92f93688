"""What a server holds: memory, handles, threads, and what its own metrics say."""

import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from benchmarks import procfs

_BROWSER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_PAGE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """One look at a server.

    Attributes:
        rss_bytes: resident memory.
        fds: open file descriptors.
        threads: threads.
        sessions: sessions that hold a slot, of all models.
        pending_steps: steps queued or running, of all models.
        requests: calls that ended, by method and status.
    """

    rss_bytes: int
    fds: int
    threads: int
    sessions: int
    pending_steps: int
    requests: Mapping[tuple[str, str], int]


def look_at(pid: int, metrics: str) -> Vitals:
    """Look at a server by its process and the address of its metrics, host:port.

    Raises:
        OSError: one of the two does not answer.
    """
    page = _page(metrics)
    sums = {"cellar_sessions": 0.0, "cellar_pending_steps": 0.0}
    requests: dict[tuple[str, str], int] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name in sums:
                sums[sample.name] += sample.value
            elif sample.name == "cellar_requests_total":
                requests[sample.labels["method"], sample.labels["code"]] = int(sample.value)
    return Vitals(
        rss_bytes=procfs.rss_bytes(pid),
        fds=procfs.fds(pid),
        threads=procfs.threads(pid),
        sessions=int(sums["cellar_sessions"]),
        pending_steps=int(sums["cellar_pending_steps"]),
        requests=requests,
    )


def total(metrics: str, name: str) -> float:
    """The sum of one metric's samples, whatever their labels; 0 where there is none.

    Raises:
        OSError: nobody answers there.
    """
    families = text_string_to_metric_families(_page(metrics))
    return sum(own.value for family in families for own in family.samples if own.name == name)


def _page(metrics: str) -> str:
    page: bytes = _BROWSER.open(f"http://{metrics}/metrics", timeout=_PAGE_S).read()
    return page.decode()


__all__ = ["Vitals", "look_at", "total"]
