"""Whether the server takes new work, and why not."""

import asyncio

import structlog

from service.errors import DrainingError, LoadingError

_log = structlog.get_logger(__name__)


class Readiness:
    """Whether new work is taken: not while models are loaded, nor once the server ends.

    Attributes:
        loading: its models are not loaded yet.
        draining: it is shutting down.
        failed: set when a device, or the store's disk, has failed for good: whoever runs the server
            has to end it.
        failure: what has.
    """

    def __init__(self) -> None:
        self.loading = True
        self.draining = False
        self.failed = asyncio.Event()
        self.failure = ""

    def check_ready(self) -> None:
        """Check that new work is taken.

        Raises:
            DrainingError: the server is shutting down.
            LoadingError: its models are not loaded yet.
        """
        if self.failed.is_set():
            raise DrainingError(f"{self.failure} and the server ends: connect to another")
        if self.draining:
            raise DrainingError("the server is shutting down: connect to another, or try again")
        if self.loading:
            raise LoadingError("the server is loading its models: try again shortly")

    def lose_device(self, model: str, fault: Exception) -> None:
        """Take nothing new: a device has failed for good, and the states on it are lost."""
        if not self.failed.is_set():
            _log.error("device lost", model=model, reason=str(fault))
            self.fail("a device has failed")

    def fail(self, why: str) -> None:
        """Take nothing new, for good."""
        self.failure, self.draining = why, True
        self.failed.set()
