"""Have a server load bad model files: each is served, or refused in one clear line.

Run it with ``python -m tests.models.untrusted.file_fuzz``; a finding names the case that shows it
again. What crashes or stops this process is a finding as well: the last line says where.
"""

from __future__ import annotations

import argparse
import faulthandler
import sys
import tempfile
from collections import Counter
from pathlib import Path

import structlog

from tests.models.untrusted.playing import play

_AT_ONCE = 50
_SHOWN = 20


def main() -> int:
    """Load as many files as are asked for; 1 where one went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="this one alone, with what is said of it")
    options = parser.parse_args()
    faulthandler.enable()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    first = options.case or 0
    count = options.cases if options.case is None else 1
    served, refused, in_trial = 0, Counter[str](), Counter[str]()
    wrong, slowest_s = list[str](), 0.0
    for begin in range(first, first + count, _AT_ONCE):
        print(f"\rseed {options.seed}, from case {begin} on ", end="", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            some = min(_AT_ONCE, first + count - begin)
            root = Path(folder) / "root"
            found = play(root, seed=options.seed, first=begin, count=some)
        served += found.served
        refused += found.refused
        in_trial += found.in_trial
        wrong += found.wrong
        slowest_s = max(slowest_s, found.slowest_s)
        if options.case is not None:
            print(*found.reasons, sep="\n")
    print(
        f"\r{count:,} files: {served:,} served, {refused.total():,} refused ({dict(refused)}), "
        f"{len(wrong):,} wrong; the slowest {_AT_ONCE} took {slowest_s:.1f} s"
    )
    for how, times in in_trial.most_common(_SHOWN):
        print(f"  {times} were stopped by their trial alone: {how}")
    for each in wrong[:_SHOWN]:
        print(each)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
