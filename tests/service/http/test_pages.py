"""What each path answers."""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from service.auth.access import Access
from service.auth.principal import Role
from service.engine.engine import Engine
from service.health import Health
from service.http.messages import Page, Request
from service.http.pages import pages_of
from service.metrics import Metrics
from service.settings import Settings
from tests.service.auth.tokens import Tokens


@dataclass
class Site:
    """Pages, and what they tell of."""

    engine: Engine
    health: Health
    answer: Page

    def get(self, path: str, query: str = "", **headers: str) -> tuple[int, str]:
        found = self.answer(Request(method="GET", path=path, query=query, headers=headers))
        return found.status, found.body.decode()


@pytest.fixture
async def site() -> Site:
    engine = Engine(Settings(), Metrics())
    health = Health(engine)
    return Site(engine, health, pages_of(health, engine.metrics.registry))


async def test_a_server_is_alive_before_it_is_ready_and_after(site: Site) -> None:
    def seen() -> tuple[tuple[int, str], int, object, object]:
        site.health.look()
        status, body = site.get("/readyz")
        told = json.loads(body)
        assert told["ready"] == (status == 200)
        return site.get("/livez"), status, told["status"], told.get("reason")

    alive = (200, "ok\n")
    assert seen() == (alive, 503, "loading", "the server is loading its models")
    site.engine.loading = False
    assert seen() == (alive, 200, "serving", None)
    site.engine.draining = True
    assert seen() == (alive, 503, "draining", "the server is shutting down")
    site.engine.lose_device("a/1", RuntimeError("gone"))
    why = "a device has failed, and the server ends"
    assert seen() == ((503, f"{why}\n"), 503, "failed", why)


async def test_models_that_are_unavailable_are_named_and_the_server_is_ready(site: Site) -> None:
    site.engine.loading = False
    site.engine.registry.add_unavailable("schön", None, "a version is a whole number")
    site.health.look()
    status, body = site.get("/readyz", "verbose")
    assert status == 200
    assert json.loads(body)["models"] == [
        {
            "name": "schön",
            "version": None,
            "status": "unavailable",
            "reason": "a version is a whole number",
        }
    ]


async def test_metrics_come_as_they_are_asked_for(site: Site) -> None:
    site.engine.metrics.replayed_steps.inc(3)
    plain = site.answer(Request(method="GET", path="/metrics"))
    assert plain.content_type.startswith("text/plain; version=0.0.4")
    assert b"\ncellar_replayed_steps_total 3.0\n" in plain.body
    packed = site.answer(
        Request(
            method="GET",
            path="/metrics",
            headers={"accept": "application/openmetrics-text", "accept-encoding": "br, gzip"},
        )
    )
    assert packed.content_type.startswith("application/openmetrics-text")
    assert ("Content-Encoding", "gzip") in packed.headers
    families = text_string_to_metric_families(gzip.decompress(packed.body).decode())  # type: ignore[no-untyped-call]
    assert "cellar_replayed_steps" in {family.name for family in families}
    _, one = site.get("/metrics", "name[]=cellar_replayed_steps_total")
    assert "cellar_replayed_steps_total 3.0" in one
    assert "cellar_generated_tokens" not in one


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/", "there is /livez, /metrics, /readyz"),
        ("/metrics/", "there is /livez"),
        ("/v2", "/v2 is reserved"),
        ("/v2/models/letters/infer", "/v2 is reserved"),
        ("/live", "/live is reserved"),
        ("/lively", "there is /livez"),
    ],
)
async def test_there_is_nothing_else(site: Site, path: str, words: str) -> None:
    status, body = site.get(path)
    assert (status, body.partition("\n")[2]) == (404, "")
    assert words in body
    assert site.answer(Request(method="POST", path=path, has_body=True)).status == 404


async def test_other_methods_are_refused(site: Site) -> None:
    for method in ("POST", "DELETE", "OPTIONS", "CONNECT"):
        found = site.answer(Request(method=method, path="/metrics", has_body=True))
        assert (found.status, found.headers) == (405, (("Allow", "GET, HEAD"),))
    assert site.answer(Request(method="GET", path="/metrics", has_body=True)).status == 413


async def test_metrics_want_a_token_of_a_reader_and_probes_none(site: Site, tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "tokens.json")
    right = {role: tokens.add(role, role) for role in Role}
    expired = tokens.add("expired", *Role, expires_in_s=-1)
    counts = site.engine.metrics.authentications.counts
    access = Access(tokens.path, counts=counts)
    guarded = pages_of(site.health, site.engine.metrics.registry, access=access)

    def get(path: str, **headers: str) -> tuple[int, str, dict[str, str]]:
        found = guarded(Request(method="GET", path=path, headers=headers))
        return found.status, found.body.decode(), dict(found.headers)

    status, body, headers = get("/metrics")
    assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
    assert "authorization: Bearer ID.SECRET" in body
    for wrong in (expired, right[Role.READ] + "x", "", "x" * 8000, "\udcff\xe9"):
        status, body, headers = get("/metrics", authorization=f"Bearer {wrong}")
        assert (status, body) == (401, "the token is not valid\n")
        assert headers["WWW-Authenticate"] == "Bearer"
    assert get("/metrics", authorization=f"Bearer {right[Role.STEP]}")[0] == 403
    for role in (Role.READ, Role.ADMIN):
        status, body, _ = get("/metrics", authorization=f"bearer {right[role]}")
        assert status == 200
        assert "cellar_authentications_total" in body
    before = dict(counts)
    assert get("/livez")[:2] == (200, "ok\n")
    site.engine.loading = False
    site.engine.registry.add_unavailable("private", 1, "a reason")
    site.health.look()
    status, body, _ = get("/readyz")
    assert (status, "private" in body) == (200, False)
    assert dict(counts) == before, "a probe is no attempt"
    assert "private" in get("/readyz", authorization=f"Bearer {right[Role.READ]}")[1]
    assert "private" not in get("/readyz", authorization=f"Bearer {right[Role.STEP]}")[1]
