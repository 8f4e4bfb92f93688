"""What docs/operations.md says of a server on a network is done as it is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.documents import OPERATIONS
from tests.test_readme import Block, blocks, reader

_, _, AFTER = OPERATIONS.read_text("utf-8").partition("\n## On a network\n")
SECTION, _, _ = AFTER.partition("\n## ")


@pytest.mark.timeout(90)
@pytest.mark.skipif(
    not (shutil.which("openssl") and shutil.which("curl")), reason="there is no openssl or no curl"
)
def test_a_network_is_made_as_it_is_written(tmp_path: Path) -> None:
    found = blocks(SECTION)
    assert len(found) == 2
    with reader(tmp_path) as someone:
        someone.follow(Block("sh", ". .venv/bin/activate\n", ""))
        for block in found:
            someone.follow(block)
        someone.stop()
    assert "'t' 0." in someone.said[-1]  # impor-t
    assert '"ready": true' in someone.said[-1]
    assert 'cellar_authentications_total{port="grpc",result="ok"}' in someone.said[-1]
