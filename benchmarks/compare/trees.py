"""Source trees: this one, and another commit's beside it for a while."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import UnmeasuredError
from benchmarks.processes import ROOT, importing


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """The code of one commit.

    Attributes:
        folder: where it lies.
        revision: its commit.
    """

    folder: Path
    revision: str

    def check(self) -> None:
        """See that a process which is to run this code does.

        An environment in which Cellar is installed may put another tree first, and a comparison
        of a commit with itself looks like any other.

        Raises:
            UnmeasuredError: its packages come from elsewhere, or cannot be imported.
        """
        asked = [sys.executable, "-c", "import service; print(service.__file__)"]
        done = subprocess.run(
            asked,
            cwd=self.folder,
            env={**os.environ, **importing(self.folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not Path(done.stdout.strip()).is_relative_to(self.folder):
            raise UnmeasuredError(f"the code of {self.revision} is not what its server would run")


@contextmanager
def checked_out(commit: str) -> Iterator[Tree]:
    """A commit in a git worktree of its own, which is removed in the end.

    Raises:
        UnmeasuredError: there is no such commit.
    """
    revision = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
    if not revision:
        raise UnmeasuredError(f"there is no commit {commit}")
    with tempfile.TemporaryDirectory(prefix="cellar-base-") as parent:
        folder = Path(parent).resolve() / "tree"
        _git("worktree", "add", "--detach", "--quiet", str(folder), revision)
        try:
            if not (folder / "service").is_dir():
                raise UnmeasuredError(f"{commit} could not be checked out")
            yield Tree(folder=folder, revision=revision)
        finally:
            _git("worktree", "remove", "--force", str(folder))


def _git(*command: str) -> str:
    """What git says; nothing where it fails."""
    done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


__all__ = ["Tree", "checked_out"]
