"""Runs Python in a process of its own, in which the stand-in is CUDA."""

import os
import subprocess
import sys
from pathlib import Path

from tests.standin.build import build

ROOT = Path(__file__).parents[2]


def run_inside(*arguments: str, tree: Path = ROOT, timeout: float = 120) -> str:
    """What ``python ARGUMENTS`` writes to stdout, run in a source tree.

    Raises:
        UnbuiltError: there is no stand-in here.
        RuntimeError: it failed; with what it wrote.
    """
    folders = [str(build()), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tree,
        env={**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(folders)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"over the stand-in, {arguments} failed:\n{done.stderr[-4000:]}")
    return done.stdout
