"""The documents as data: pages, links, code, and the tables made of settings and of metrics.

``python -m tests.documents`` writes these tables anew.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service.metrics import Described, Metrics
from service.settings import Settings
from service.settings.flags import LIMITS, groups, shown
from service.settings.sources import flag

ROOT = Path(__file__).parents[1]
OPERATIONS = ROOT / "docs" / "operations.md"

_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"(--[a-z-]+|\bcellar_\w+|\b[A-Z]+_[A-Z_]+\b|\bOVERLOADED\b)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Page:
    """One page, by its path below the root."""

    name: str

    @property
    def path(self) -> Path:
        """The file."""
        return ROOT / self.name

    @property
    def text(self) -> str:
        """All of it."""
        return self.path.read_text("utf-8")

    @property
    def prose(self) -> str:
        """What is not in a code block."""
        return _FENCE.sub("", self.text)

    def blocks(self, *languages: str) -> list[str]:
        """The code blocks in these languages; in any, where none is named."""
        found = _FENCE.finditer(self.text)
        return [m["body"] for m in found if not languages or m["language"] in languages]

    def spans(self) -> list[str]:
        """What stands between backticks in the prose."""
        return _SPAN.findall(self.prose)

    def links(self) -> list[str]:
        """The targets of its links, but for those that lead out of the project."""
        found = _LINK.findall(_SPAN.sub("", self.prose))
        return [target for target in found if not re.match(r"[a-z]+:", target)]

    def anchors(self) -> set[str]:
        """What links may name behind ``#``: its headings, as GitHub writes them."""
        headings = _HEADING.findall(self.prose)
        return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def pages() -> list[Page]:
    """Every page of the project."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks" / "README.md"]
    return [Page(path.relative_to(ROOT).as_posix()) for path in sorted(found)]


def settings_table(*, of_limits: bool) -> str:
    """The flags of ``cellar-serve`` in the order of its help: the limits, or all others."""
    rows = ["| flag | default | meaning |", "|---|---|---|"]
    for title, names in groups():
        if (title == LIMITS) is not of_limits:
            continue
        if names and not of_limits:
            rows.append(f"| **{title}** | | |")
        for name in names:
            meaning = " ".join((Settings.model_fields[name].description or "").split())
            meaning = meaning.replace("|", r"\|").replace("<", r"\<")
            rows.append(f"| `{flag(name)}` | {shown(name)} | {meaning} |")
    return "\n".join(rows)


def described_metrics() -> list[Described]:
    """All that is on the page of the metrics: the server's own, and those of its process."""
    metrics = Metrics()
    process = [
        Described(
            name=family.name + "_total" * (family.type == "counter"),
            kind=family.type,
            labels=(),
            meaning=family.documentation,
        )
        for family in metrics.registry.collect()
        if family.name.startswith("process_")
    ]
    return [*metrics.described, *process]


def metrics_table() -> str:
    """Every metric: its type, its labels, and what it says."""
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for metric in described_metrics():
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        meaning = _CODE.sub(r"`\1`", metric.meaning)
        rows.append(f"| `{metric.name}` | {metric.kind} | {labels} | {meaning} |")
    return "\n".join(rows)


def tables() -> Iterator[tuple[str, str]]:
    """The tables of operations.md that are made here, by the name in their markers."""
    yield "server settings", settings_table(of_limits=False)
    yield "engine settings", settings_table(of_limits=True)
    yield "metrics", metrics_table()


def written(text: str) -> str:
    """A page with its tables written anew.

    Raises:
        ValueError: it lacks the markers of one.
    """
    for name, table in tables():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        head, found, rest = text.partition(begin)
        _, closed, tail = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"no place for a table: {begin} … {end}")
        text = f"{head}{begin}\n\n{table}\n\n{end}{tail}"
    return text


if __name__ == "__main__":
    OPERATIONS.write_text(written(OPERATIONS.read_text("utf-8")), "utf-8")
