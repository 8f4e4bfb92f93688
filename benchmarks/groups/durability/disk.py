"""What a disk takes to keep a page, without a server."""

import os
import time
from pathlib import Path

from benchmarks.rounds import Sample, Series
from benchmarks.tally import Tally

_PAGE = 4096
_PAGES = 256
_PAUSE_S = 0.002  # as between two messages of a lone caller: a disk that rests may be slower


class BareSync:
    """Writes a page into a file that is long enough, and syncs it; again and again.

    Args:
        folder: on the disk that is measured.
    """

    def __init__(self, folder: Path) -> None:
        self.series = Series(case="a page", contestant="bare sync", model="", unit="pages")
        self._path = folder / "pages"
        self._path.write_bytes(bytes(_PAGE * _PAGES))
        self._written = 0

    def round(self, seconds: float) -> Sample:
        """Do it for so long."""
        page, file = os.urandom(_PAGE), os.open(self._path, os.O_WRONLY)
        tally, until_s = Tally(), time.perf_counter() + seconds
        try:
            while (began_s := time.perf_counter()) < until_s:
                os.pwrite(file, page, self._written % _PAGES * _PAGE)
                os.fdatasync(file)
                tally.add(time.perf_counter() - began_s, steps=1)
                self._written += 1
                time.sleep(_PAUSE_S)
        finally:
            os.close(file)
        found = tally.summary()
        return Sample(
            steps=found["steps"],
            messages=found["messages"],
            wall_s=found["wall_s"],
            p50_ms=found["p50_ms"],
            p99_ms=found["p99_ms"],
            server_cpu_s=found["cpu_s"],
            load_cpu_s=0.0,
        )


__all__ = ["BareSync"]
