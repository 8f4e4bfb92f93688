"""What a server is seen to hold."""

from __future__ import annotations

import os

import pytest

from benchmarks.vitals import look_at
from service.endpoint import Endpoint
from service.http.pages import metrics_page, site
from service.http.server import HttpServer
from service.metrics import Metrics


def test_metrics_are_added_up_over_models() -> None:
    metrics = Metrics()
    for model, count in (("a/1", 3), ("b/1", 4)):
        metrics.sessions.labels(model, "device").set(count)
        metrics.pending_steps.labels(model).set(10 * count)
    metrics.requests.labels("Step", "OK").inc(5)
    pages = site({"/metrics": metrics_page(metrics.registry)})
    page = HttpServer(pages, Endpoint("127.0.0.1", 0))
    try:
        found = look_at(os.getpid(), f"127.0.0.1:{page.port}")
    finally:
        page.close()
    assert (found.sessions, found.pending_steps) == (7, 70)
    assert found.requests == {("Step", "OK"): 5}
    assert found.rss_bytes > 2**20
    with pytest.raises(OSError, match="refused"):
        look_at(os.getpid(), f"127.0.0.1:{page.port}")
