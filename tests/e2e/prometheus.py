"""A real Prometheus that scrapes a server, and what the dashboard and the alerts ask of it.

Debian's package is used: `make prometheus` unpacks it, as no administrator.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.documents import ROOT

MONITORING = ROOT / "deploy" / "monitoring"
ALERTS = MONITORING / "prometheus-alerts.yaml"
DASHBOARD = MONITORING / "grafana-dashboard.json"
UNPACKED = ROOT / ".prometheus"
START_S = 30.0
# What the dashboard leaves open.
VARIABLES = {
    "$__rate_interval": "10s",
    "$job": "cellar",
    "$instance": ".*",
    "$model": ".*",
}
_CONFIG = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: cellar
    scheme: https
    tls_config: {{ca_file: "{ca}"}}
    authorization: {{credentials: "{token}"}}
    static_configs: [{{targets: ["{target}"]}}]
"""


def program(name: str) -> str | None:
    """Where ``prometheus`` or ``promtool`` is, if it is to be had."""
    path = os.pathsep.join([os.environ.get("PATH", ""), str(UNPACKED / "usr" / "bin")])
    return shutil.which(name, path=path)


def panels() -> list[dict[str, Any]]:
    """The dashboard's panels, without the headings of its rows."""
    found = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def panel_expressions() -> dict[str, str]:
    """What each panel asks, by its title and the letter of the query, with variables filled in."""
    found = {}
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            found[f"{panel['title']} {target['refId']}"] = expression
    return found


def without_threshold(expression: str) -> str:
    """What an alert looks at: its expression up to the last comparison."""
    found, threshold = re.subn(r"\s*(>|<|==)\s*[\d.e+* ]+$", "", expression.strip())
    assert threshold == 1, f"no threshold ends it: {expression}"
    return found


class Prometheus:
    """One that runs."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._url = f"http://127.0.0.1:{port}/api/v1"
        self._browser = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(self, path: str, **parameters: str | float) -> Any:
        """What its API answers."""
        query = urllib.parse.urlencode(parameters)
        with self._browser.open(f"{self._url}/{path}?{query}", timeout=10) as reply:
            return json.loads(reply.read())["data"]

    def values(self, expression: str) -> list[float]:
        """What an expression comes to now, without what is no number."""
        result = self.ask("query", query=expression)["result"]
        found = [float(series["value"][1]) for series in result]
        return [value for value in found if not math.isnan(value)]

    def wait_for(self, expression: str, at_least: float) -> None:
        """Wait until an expression comes to a value."""
        give_up = time.monotonic() + START_S
        while True:
            try:
                if any(value >= at_least for value in self.values(expression)):
                    return
            except OSError:  # it does not listen yet
                assert self.process.poll() is None, "Prometheus has ended"
            assert time.monotonic() < give_up, f"{expression} stays below {at_least}"
            time.sleep(0.1)


@contextmanager
def scraping(target: str, ca: Path, token: str, folder: Path) -> Iterator[Prometheus]:
    """A Prometheus that knows the alerts and scrapes a server every second, by TLS and a token.

    Args:
        target: host:port of the server's pages.
        ca: who has issued its certificate.
        token: that may read them.
        folder: where it keeps what it reads.
    """
    binary = program("prometheus")
    assert binary is not None, "who asks has looked"
    config = folder / "prometheus.yml"
    config.write_text(_CONFIG.format(rules=ALERTS, target=target, ca=ca, token=token), "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                binary,
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        yield Prometheus(port, process)
    finally:
        process.terminate()
        process.wait(START_S)
