"""Each test here runs on the CPU provider, and on a GPU where there is one."""

import pytest

from service.engine.execution.runtime import Place
from tests.service.engine.execution.cuda.places import PLACES, require


@pytest.fixture(params=PLACES, ids=str)
def place(request: pytest.FixtureRequest) -> Place:
    """Where the runner under test works."""
    found: Place = request.param
    require(found)
    return found
