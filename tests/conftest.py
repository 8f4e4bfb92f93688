"""What holds for all tests."""

import gc
import os
import sys

import pytest
from hypothesis import HealthCheck, settings

try:
    import structlog
except ModuleNotFoundError:  # the client's tests run where there is the client alone
    structlog = None  # type: ignore[assignment]

# Tests run side by side, in a process per core or more: threads that wait for each other would only
# take turns. Before torch and numpy are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Containers often say that no bytecode is to be kept. Then each of the many processes that tests
# start compiles the whole house anew, and pytest all tests: a quarter of a second for a server,
# five seconds for a worker.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A planted fault is logged with its traceback, and one in colours takes 60 ms.
if structlog is not None:
    structlog.dev.ConsoleRenderer.get_active().exception_formatter = structlog.dev.plain_traceback


# How long an example takes says how busy the machine is. What hangs, pytest-timeout ends.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.hookimpl(optionalhook=True)  # there need be no xdist
def pytest_xdist_auto_num_workers() -> int:
    """One worker per core, and half as many more: a third of what tests take is waiting."""
    cores = len(os.sched_getaffinity(0))
    return cores + cores // 2


# What pytest-timeout throws may land in code that takes it for a fault of its own, and the test
# then waits for ever: no limit may be near what a busy machine needs.
LONG_S = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give those that may take minutes the time, unless they name their own."""
    for item in items:
        if item.get_closest_marker("long") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LONG_S))


def pytest_collection_finish() -> None:
    """Keep the garbage collector off what stays anyway: all tests, and what they import."""
    gc.collect()
    gc.freeze()
