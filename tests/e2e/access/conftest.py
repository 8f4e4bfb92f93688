"""Models of the servers that ask for tokens."""

from pathlib import Path

import pytest

from tests.recurrent import char_case, series_case, write_repository


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small untrained ones: letters, prices, and one that can be taken away."""
    root = tmp_path_factory.mktemp("models")
    return write_repository(root, char_case(), series_case(), char_case(seed=3, name="fleeting"))
