"""Which roles each method wants; what is not in the table, nobody may call.

A method that joins the wire gets a row here: the server does not start without it.
"""

from collections.abc import Mapping

from service.auth.principal import Role

OPEN: frozenset[Role] = frozenset()
"""Everybody may call it, without a token: those who ask whether a server lives have none."""
_STEP = frozenset({Role.STEP})
_LOOK = frozenset({Role.STEP, Role.READ})
_READ = frozenset({Role.READ})

ROLES: Mapping[str, frozenset[Role]] = {
    "/cellar.v1.SessionService/OpenSession": _STEP,
    "/cellar.v1.SessionService/GetSession": _STEP,
    "/cellar.v1.SessionService/ListSessions": _STEP,
    "/cellar.v1.SessionService/CloseSession": _STEP,
    "/cellar.v1.SessionService/ResetSession": _STEP,
    "/cellar.v1.SessionService/Step": _STEP,
    "/cellar.v1.SessionService/Stream": _STEP,
    "/cellar.v1.SessionService/Generate": _STEP,
    "/cellar.v1.SessionService/Forecast": _STEP,
    "/cellar.v1.SessionService/ExportSession": _STEP,
    "/cellar.v1.SessionService/ImportSession": _STEP,
    "/cellar.v1.SessionService/ForkSession": _STEP,
    "/cellar.v1.SessionService/RewindSession": _STEP,
    "/cellar.v1.SessionService/UpgradeSession": _STEP,
    "/cellar.v1.SessionService/ReleaseSession": _STEP,
    "/cellar.v1.ModelService/ListModels": _LOOK,
    "/cellar.v1.ModelService/GetModel": _LOOK,
    "/cellar.v1.ModelService/Predict": _STEP,
    "/grpc.health.v1.Health/Check": OPEN,
    "/grpc.health.v1.Health/List": OPEN,
    "/grpc.health.v1.Health/Watch": OPEN,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _READ,
}
"""By the path of a method, the roles of which one is enough. An admin may call all."""

LASTING = frozenset(
    {
        "/cellar.v1.SessionService/Stream",
        "/cellar.v1.SessionService/Generate",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    }
)
"""Methods whose calls last, so that they end when their caller may not make them any more."""
