"""The devices that the tests of a device's runner run on."""

from functools import cache

import pytest

from service.engine.execution.devices import choose
from service.engine.execution.runtime import CPU, DeviceError, Place

GPU = Place("cuda")
PLACES = [CPU, pytest.param(GPU, marks=[pytest.mark.gpu, pytest.mark.timeout(300)])]
"""The CPU stands in for a GPU in `make test`; `make test-gpu` runs the same on a real one."""


def require(place: Place) -> None:
    """Fail, and do not skip, where the device is not to be had."""
    if place != CPU and (missing := _missing(str(place))) is not None:
        pytest.fail(missing, pytrace=False)


@cache
def _missing(name: str) -> str | None:
    try:
        choose(name)
    except DeviceError as error:
        return f"make test-gpu needs a GPU. {error}"
    return None
