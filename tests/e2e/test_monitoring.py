"""The dashboard and the alerts ask for what there is, and are understood by a real Prometheus."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import trustme

from cellar.v1 import session_pb2, session_pb2_grpc
from service.auth.file import QuotaRecord
from service.auth.principal import Role
from tests.certificates import written
from tests.documents import described_metrics
from tests.e2e.load import ROOM, Load
from tests.e2e.page import Page
from tests.e2e.process import ServerProcess, running
from tests.e2e.prometheus import (
    ALERTS,
    DASHBOARD,
    MONITORING,
    panel_expressions,
    panels,
    program,
    scraping,
    without_threshold,
)
from tests.service.auth.tokens import Tokens

OF_PROMETHEUS = {"job", "instance", "alertname"}  # labels that a scrape adds
NAME = re.compile(r"\b((?:cellar|process)_\w+|up)\b(?:\{([^}]*)\})?")
needs_promtool = pytest.mark.skipif(
    program("promtool") is None, reason="there is no promtool: make prometheus"
)
needs_prometheus = pytest.mark.skipif(
    program("prometheus") is None, reason="there is no prometheus: make prometheus"
)


def alert_expressions() -> list[str]:
    """What is in the file of the alerts behind each ``expr:``, read without a reader of YAML."""
    found, text = [], ALERTS.read_text("utf-8")
    for plain, folded in re.findall(
        r"^ {8}expr: (?:>-\n((?: {10}.+\n)+)|(.+)\n)", text, re.MULTILINE
    ):
        found.append(" ".join((plain or folded).split()))
    assert len(found) == text.count("- alert:") > 10
    return found


def test_what_is_asked_for_is_on_the_page(served: ServerProcess) -> None:
    with grpc.insecure_channel(served.address) as channel:
        Load(channel).send(1)
    page = Page(served.page())
    # Nobody has to say who he is here, and there is no TLS: no principals, no certificates.
    unseen = {
        own.name: {*own.labels}
        for own in described_metrics()
        if {"principal", "certificate"} & {*own.labels}
    }
    expressions = [*panel_expressions().values(), *alert_expressions()]
    for expression in expressions:
        names = NAME.findall(expression)
        labels = set(OF_PROMETHEUS)
        for name, selector in names:
            own = unseen.get(name) or page.label_names(name)
            asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
            assert name == "up" or name in page.names() | unseen.keys(), expression
            assert asked <= own | OF_PROMETHEUS, expression
            labels |= own
        grouped = ",".join(re.findall(r"\bby \(([^)]*)\)", expression))
        assert set(re.findall(r"\w+", grouped)) <= labels, expression
        assert names, expression


def test_every_metric_is_looked_at() -> None:
    asked = DASHBOARD.read_text("utf-8") + ALERTS.read_text("utf-8")
    forgotten = [own.name for own in described_metrics() if own.name not in asked]
    assert forgotten == []


def test_panels_and_alerts_say_what_they_show() -> None:
    found = panels()
    assert len({panel["id"] for panel in found}) == len({p["title"] for p in found}) == len(found)
    for panel in found:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]
    text = ALERTS.read_text("utf-8")
    for entry in ("severity", "summary", "action"):
        assert text.count(f"          {entry}: ") == text.count("- alert:"), entry


@needs_promtool
@pytest.mark.parametrize(
    "command",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "prometheus-alerts.yaml"),
        ("test", "rules", "prometheus-alerts-test.yaml"),
    ],
    ids=" ".join,
)
def test_promtool_finds_no_fault(command: tuple[str, ...]) -> None:
    done = subprocess.run(
        [program("promtool") or "promtool", *command],
        cwd=MONITORING,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tried() -> None:
    tried = (MONITORING / "prometheus-alerts-test.yaml").read_text("utf-8")
    alerts = re.findall(r"- alert: (\w+)", ALERTS.read_text("utf-8"))
    assert [name for name in alerts if f'alertname="{name}"' not in tried] == []


@dataclass(frozen=True)
class Guarded:
    """A server with TLS that asks for tokens, and who may come."""

    server: ServerProcess
    ca: Path
    named: dict[str, str]

    def channel(self, name: str) -> grpc.Channel:
        """A connection of a principal."""
        return grpc.secure_channel(
            self.server.address,
            grpc.composite_channel_credentials(
                grpc.ssl_channel_credentials(self.ca.read_bytes()),
                grpc.access_token_call_credentials(self.named[name]),
            ),
        )


@pytest.fixture
def guarded(served_models: Path, tmp_path: Path) -> Iterator[Guarded]:
    """One that has everything there is a metric of."""
    files, tokens = written(tmp_path, trustme.CA()), Tokens(tmp_path / "tokens.json")
    named = {
        "steady": tokens.add("steady", *Role),
        "greedy": tokens.add("greedy", Role.STEP, quota=QuotaRecord(max_sessions=0)),
    }
    flags = (
        f"--store=lmdb:{tmp_path / 'store'}", *ROOM,
        f"--tokens={tokens.path}", f"--tls-cert={files.cert}", f"--tls-key={files.key}",
    )  # fmt: skip
    with running(served_models, *flags) as server:
        yield Guarded(server, files.ca, named)


@contextmanager
def under_load(guarded: Guarded) -> Iterator[None]:
    """Calls of all kinds for as long as it takes, some of them above a quota."""
    over = threading.Event()
    with guarded.channel("steady") as steady, guarded.channel("greedy") as greedy:
        load, opens = Load(steady), session_pb2_grpc.SessionServiceStub(greedy).OpenSession
        # Of a principal that has no session when it is asked, there is no number of sessions.
        stays = session_pb2.OpenSessionRequest(session_id="stays", model="letters")
        session_pb2_grpc.SessionServiceStub(steady).OpenSession(stays)

        def send() -> None:
            while not over.is_set():
                load.send(1)
                with pytest.raises(grpc.RpcError, match="may have 0"):
                    opens(session_pb2.OpenSessionRequest(model="letters"))

        with ThreadPoolExecutor(1) as caller:
            sent = caller.submit(send)
            try:
                yield
            finally:
                over.set()
                sent.result()


@needs_prometheus
@pytest.mark.long
def test_every_expression_has_an_answer(guarded: Guarded, tmp_path: Path) -> None:
    target = f"localhost:{guarded.server.wait_for('serving', 1)['metrics_port']}"
    scrapes = scraping(target, guarded.ca, guarded.named["steady"], tmp_path)
    with under_load(guarded), scrapes as prometheus:
        prometheus.wait_for("min(count_over_time(cellar_steps_total[1m]))", 4)
        silent = {
            title: expression
            for title, expression in panel_expressions().items()
            if not prometheus.values(expression)
        }
        assert silent == {}
        groups = prometheus.ask("rules")["groups"]
        alerts = {rule["name"]: rule for group in groups for rule in group["rules"]}
        assert len(alerts) == len(alert_expressions())
        assert {rule["health"] for rule in alerts.values()} == {"ok"}
        # It is about a series that is not there.
        assert prometheus.values(alerts.pop("CellarGone")["query"]) == []
        for name, rule in alerts.items():
            looked_at = without_threshold(rule["query"])
            assert prometheus.values(looked_at), f"{name} looks at nothing: {looked_at}"
        firing = {name for name, rule in alerts.items() if prometheus.values(rule["query"])}
        assert "CellarModelUnavailable" in firing
        assert not firing & {"CellarDown", "CellarFaults", "CellarOnCpu", "CellarStoreRefuses"}
