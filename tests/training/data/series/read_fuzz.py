"""Write known series to random files, and hold what is read against them.

Run it with ``python -m tests.training.data.series.read_fuzz``; a finding names the seed that
shows it again.
"""

import argparse
import sys
from collections import Counter
from dataclasses import dataclass

from tests.training.data.series.forms import RandomChooser
from tests.training.data.series.held import in_folder
from tests.training.data.series.writing import written

_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What became of the files."""

    read: int
    refused: Counter[str]
    """By their layouts."""
    wrong: list[str]


def run(*, cases: int, seed: int) -> Found:
    """Write and read so many files, those of the seeds from one on."""
    read, refused, wrong = 0, Counter[str](), list[str]()
    for number in range(seed, seed + cases):
        case = written(RandomChooser(number))
        try:
            refusal = in_folder(case)
        except Exception as error:  # whatever it is, it is neither a reading nor a refusal
            wrong.append(f"--seed {number} --cases 1: {type(error).__name__}: {error} {case.how}")
            continue
        if refusal is None:
            read += 1
        else:
            refused[case.how["layout"]] += 1
    return Found(read=read, refused=refused, wrong=wrong)


def main() -> int:
    """Read as many files as are asked for; 1 where one was read wrongly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0, help="that of the first case")
    options = parser.parse_args()
    found = run(cases=options.cases, seed=options.seed)
    print(
        f"{options.cases:,} files: {found.read:,} read right, {found.refused.total():,} refused "
        f"({dict(found.refused)}), {len(found.wrong):,} wrong"
    )
    for each in found.wrong[:_SHOWN]:
        print(each)
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
