"""Health, whose watchers hear the last word and hold up nobody."""

import asyncio
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.rpc import status

_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """``grpc.health.v1`` whose ``Watch`` calls, endless otherwise, end when told to.

    The library's own writes to each watcher under a lock that ``set`` waits for: one who does not
    read would keep the server from saying anything to anybody, and from its end.
    """

    def __init__(self) -> None:
        self._statuses: dict[str, health_pb2.HealthCheckResponse.ServingStatus] = {}
        self._news = asyncio.Event()
        self._ending = False
        self.watching = 0  # calls

    def set(self, service: str, status: "health_pb2.HealthCheckResponse.ServingStatus") -> None:
        """Say how a service is."""
        self._statuses[service] = status
        self._announce()

    def end_watches(self) -> None:
        """Let every watcher hear the latest status, and end its call."""
        self._ending = True
        self._announce()

    async def Check(self, request: Any, context: Any) -> Any:
        """See the service's definition."""
        found = self._statuses.get(request.service)
        if found is None:
            context.set_code(status.NOT_FOUND)
        return health_pb2.HealthCheckResponse(status=found or 0)

    async def List(self, request: Any, context: Any) -> Any:
        """See the service's definition."""
        statuses = {
            service: health_pb2.HealthCheckResponse(status=found)
            for service, found in self._statuses.items()
        }
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(self, request: Any, context: Any) -> None:
        """See the service's definition."""
        await context.send_initial_metadata(())  # so that the call can end, whatever it reads
        told = None
        self.watching += 1
        try:
            while True:
                news = self._news
                found = self._statuses.get(request.service, _UNKNOWN)
                if found != told:
                    await context.write(health_pb2.HealthCheckResponse(status=found))
                    told = found  # there may be another by now
                elif self._ending:
                    return
                else:
                    await news.wait()
        finally:
            self.watching -= 1

    def _announce(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
