"""Faults that are known and not mended yet: reported, and no reason to fail.

Delete a line with the fault that it names.
"""

import re
from dataclasses import dataclass

from benchmarks.fuzz.judge import Finding


@dataclass(frozen=True, slots=True)
class Known:
    """A fault that is known.

    Attributes:
        pattern: what findings of it look like, as ``where: what``.
        why: what it is.
    """

    pattern: str
    why: str


KNOWN: tuple[Known, ...] = (
    Known(
        r"UnicodeDecodeError|the server fell, and another takes over",
        "gRPC falls when the path of a call is no UTF-8, and another server takes the port over",
    ),
    Known(
        r"is not finite$|: INTERNAL: the model drew what cannot be its next step",
        "huge values drive a series model to infinity, silently, and its session stays there",
    ),
)


def known(finding: Finding) -> Known | None:
    """The known fault that a finding is of, if it is of one."""
    text = f"{finding.where}: {finding.what}"
    return next((each for each in KNOWN if re.search(each.pattern, text)), None)


__all__ = ["KNOWN", "Known", "known"]
