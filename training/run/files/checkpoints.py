"""When a run's checkpoints are written."""

import time

from training.run.files.folder import RunFolder
from training.run.files.storage import storing
from training.run.steps.loop import Clock, Loop


class Checkpoints:
    """Writes a run's checkpoints: one every so many seconds, and whenever it is told to."""

    def __init__(
        self, folder: RunFolder, loop: Loop, *, every_s: float, clock: Clock = time.monotonic
    ) -> None:
        self._folder = folder
        self._loop = loop
        self._every_s = every_s
        self._clock = clock
        self._saved_s = clock()

    def save(self) -> None:
        """Write one now; every process takes part.

        Raises:
            StorageError: the disk does not take it; the one before is still there.
        """
        checkpoint = self._loop.checkpoint()
        if self._loop.fabric.is_global_zero:
            with storing(f"go on with: cellar-train resume {self._folder.path}"):
                self._folder.save_checkpoint(checkpoint)
        self._saved_s = self._clock()

    def save_if_due(self) -> None:
        """Write one if it is time to."""
        if self._loop.agreed(self._is_time):
            self.save()

    def _is_time(self) -> bool:
        return self._clock() - self._saved_s >= self._every_s
