"""The reasons of failures as ``proto/cellar/v1/errors.proto`` has them, and their page.

Comments do not reach the stubs, so the file itself is read. ``python -m tests.reasons`` writes
the table of ``docs/errors.md`` anew; `make proto` does so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROTO = ROOT / "proto" / "cellar" / "v1" / "errors.proto"
PAGE = ROOT / "docs" / "errors.md"

_VALUE = re.compile(r"((?:^  // .*\n)+)^  ERROR_REASON_(\w+) = (\d+);$", re.MULTILINE)
_STATUS = re.compile(r"^(.*) Status: ([A-Z_]+)\.$")
_HEAD = "| reason | status | what happened, and what to do |\n|---|---|---|\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One value of the enum.

    Attributes:
        name: as it travels, such as ``BAD_INPUT``.
        number: its number in the proto.
        words: what happened, and what to do.
        status: the name of its gRPC status code.
    """

    name: str
    number: int
    words: str
    status: str


def read() -> tuple[Reason, ...]:
    """Every reason that a failure may have, in the proto's order.

    Raises:
        ValueError: a value's comment does not end with its status code.
    """
    found = []
    for comment, name, number in _VALUE.findall(PROTO.read_text("utf-8")):
        if number == "0":
            continue
        text = " ".join(line.strip().removeprefix("// ") for line in comment.splitlines())
        parts = _STATUS.match(text)
        if parts is None:
            raise ValueError(f"{PROTO.name}: the comment of {name} does not end with its status")
        found.append(Reason(name=name, number=int(number), words=parts[1], status=parts[2]))
    return tuple(found)


def table() -> str:
    """The reasons as a table of the page."""
    rows = (f"| `{each.name}` | `{each.status}` | {each.words} |\n" for each in read())
    return _HEAD + "".join(rows)


def page() -> str:
    """The page as it should be: its words as they are, its table anew."""
    words, _, _ = PAGE.read_text("utf-8").partition(_HEAD)
    return words + table()


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
