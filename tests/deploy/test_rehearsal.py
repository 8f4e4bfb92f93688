"""What the image holds is built, confined as the examples confine it, started and stopped."""

from __future__ import annotations

import subprocess

import pytest

from tests.deploy.manifests import DEPLOY


@pytest.mark.long  # it installs packages
@pytest.mark.timeout(600)
def test_the_image_is_rehearsed() -> None:
    done = subprocess.run(
        [DEPLOY / "replay.sh", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=580,
    )
    assert done.returncode == 0, done.stdout
    told = done.stdout.splitlines()
    assert told[-1] == "stopped on SIGTERM (status 0)"
    assert {"healthy", "livez, readyz, metrics: ok"} <= set(told)
