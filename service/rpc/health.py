"""Health, whose watchers hear the last word and hold up nobody."""

import asyncio
from collections.abc import Iterable
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.errors import OverloadedError
from service.health import Health
from service.rpc import status

_MOST_WATCHES = 4096
"""Of all callers, who need no token: each takes 20 KB, and lasts as long as its client likes."""
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """``grpc.health.v1`` whose ``Watch`` calls, endless otherwise, end when told to.

    The library's own writes to each watcher under a lock that ``set`` waits for: one who does not
    read would keep the server from saying anything to anybody, and from its end.

    Args:
        health: how the server is.
        services: the names of those that it has, which are all as it is.
    """

    def __init__(self, health: Health, services: Iterable[str]) -> None:
        self._health = health
        self._services = ("", *services)
        health.listen(self._announce)
        self._news = asyncio.Event()
        self._ending = False
        self.watching = 0  # calls

    def end_watches(self) -> None:
        """Let every watcher hear the latest status, and end its call."""
        self._ending = True
        self._announce()

    async def Check(self, request: Any, context: Any) -> Any:
        """See the service's definition."""
        if request.service not in self._services:
            context.set_code(status.NOT_FOUND)
            return health_pb2.HealthCheckResponse()
        return health_pb2.HealthCheckResponse(status=self._status_of(request.service))

    async def List(self, request: Any, context: Any) -> Any:
        """See the service's definition."""
        statuses = {
            service: health_pb2.HealthCheckResponse(status=self._status_of(service))
            for service in self._services
        }
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(self, request: Any, context: Any) -> None:
        """See the service's definition.

        Raises:
            OverloadedError: there are as many watchers as may be.
        """
        if self.watching >= _MOST_WATCHES:
            raise OverloadedError(f"{self.watching} calls watch: use Check", retry_after_s=5.0)
        await context.send_initial_metadata(())  # so that the call can end, whatever it reads
        told = None
        self.watching += 1
        try:
            while True:
                news = self._news
                found = self._status_of(request.service)
                if found != told:
                    await context.write(health_pb2.HealthCheckResponse(status=found))
                    told = found  # there may be another by now
                elif self._ending:
                    return
                else:
                    await news.wait()
        finally:
            self.watching -= 1

    def _status_of(self, service: str) -> "health_pb2.HealthCheckResponse.ServingStatus":
        if service not in self._services:
            return _UNKNOWN
        return _SERVING if self._health.state.is_ready else _NOT_SERVING

    def _announce(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
