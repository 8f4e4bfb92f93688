"""The pages: /livez, /readyz, /metrics; what is reserved, and that there is nothing else."""

import json
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, make_wsgi_app

from service.auth.access import Access
from service.auth.principal import Role
from service.errors import UnauthenticatedError
from service.health import Health, State
from service.http.messages import Page, Request, Response, text

_METHODS = ("GET", "HEAD")
# Where JSON inference, and a page for people, will be.
_RESERVED = ("/v2", "/live")


def pages_of(health: Health, registry: CollectorRegistry, *, access: Access | None = None) -> Page:
    """All pages of a server; with ``access``, what they tell of models is for its readers alone."""
    metrics = metrics_page(registry)
    return site(
        {
            "/livez": lambda _: _live(health),
            "/readyz": lambda request: _ready(health, tells_models=_may_see(access, request)),
            "/metrics": lambda request: _refusal(access, request) or metrics(request),
        }
    )


def _may_see(access: Access | None, request: Request) -> bool:
    """Whether who asks may read; a probe that has no token is no failed attempt to."""
    if access is not None and "authorization" not in request.headers:
        return False
    return _refusal(access, request) is None


def _refusal(access: Access | None, request: Request) -> Response | None:
    """What is answered to who may not read; nothing where he may."""
    if access is None:
        return None
    header = request.headers.get("authorization")
    try:
        token = access.authenticator.admit([] if header is None else [header], port="http")
    except UnauthenticatedError as error:
        return text(401, str(error), headers=(("WWW-Authenticate", "Bearer"),))
    if not token.principal.grant.has(Role.READ):
        return text(403, f"this wants the role {Role.READ} or {Role.ADMIN}")
    return None


def site(pages: Mapping[str, Page]) -> Page:
    """One page that hands every request on to the one of its path."""

    def answer(request: Request) -> Response:
        page = pages.get(request.path)
        if page is None:
            first = "/" + request.path.removeprefix("/").partition("/")[0]
            if first in _RESERVED:
                return text(404, f"{first} is reserved: nothing is served there yet")
            return text(404, f"there is {', '.join(sorted(pages))}")
        if request.method not in _METHODS:
            allowed = ", ".join(_METHODS)
            return text(405, f"say {' or '.join(_METHODS)}", headers=(("Allow", allowed),))
        if request.has_body:
            return text(413, "say it without a body")
        return page(request)

    return answer


def metrics_page(registry: CollectorRegistry) -> Page:
    """What Prometheus reads; in its text format or OpenMetrics, and packed, as it asks for."""
    app = make_wsgi_app(registry)

    def answer(request: Request) -> Response:
        environment = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": request.path,
            "QUERY_STRING": request.query,
            "HTTP_ACCEPT": request.headers.get("accept", ""),
            "HTTP_ACCEPT_ENCODING": request.headers.get("accept-encoding", ""),
        }
        found: dict[str, str] = {}

        def start(status: str, headers: list[tuple[str, str]], *_: object) -> object:
            found.update({"status": status, **dict(headers)})
            return None

        body = b"".join(app(environment, start))
        status = int(found.pop("status").partition(" ")[0])
        content_type = found.pop("Content-Type", "text/plain; charset=utf-8")
        return Response(
            status=status, body=body, content_type=content_type, headers=tuple(found.items())
        )

    return answer


def _live(health: Health) -> Response:
    fault = health.fault
    return text(200, "ok") if fault is None else text(503, fault)


def _ready(health: Health, *, tells_models: bool) -> Response:
    state, fault = health.state, health.fault
    is_ready = state.is_ready and fault is None
    answer = {
        "ready": is_ready,
        "status": state.phase.value,
        **({} if is_ready else {"reason": fault or state.reason}),
        **({"models": _models(state)} if tells_models else {}),
    }
    body = json.dumps(answer, ensure_ascii=False, indent=2) + "\n"
    return Response(
        status=200 if is_ready else 503, body=body.encode(), content_type="application/json"
    )


def _models(state: State) -> list[dict[str, object]]:
    return [
        {
            "name": model.name,
            "version": model.version,
            "status": model.status,
            **({"reason": model.reason} if model.reason else {}),
        }
        for model in state.models
    ]
