"""The documents as data: their pages, links and code, and the tables that are made from settings.

``python -m tests.documents`` writes these tables anew.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service.settings import ZOO, EngineSettings, Settings

ROOT = Path(__file__).parents[1]
OPERATIONS = ROOT / "docs" / "operations.md"

_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
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


def settings_table(*, of_engine: bool) -> str:
    """The flags of ``cellar-serve``: the engine's limits, or all others."""
    rows = ["| flag | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        if (name in EngineSettings.model_fields) is not of_engine:
            continue
        meaning = " ".join((field.description or "").split())
        meaning = meaning.replace("|", r"\|").replace("<", r"\<")
        rows.append(f"| `{flag(name)}` | {_shown(field.default)} | {meaning} |")
    return "\n".join(rows)


def flag(name: str) -> str:
    """A setting as it is called on the command line."""
    return "--" + name.replace("_", "-")


def _shown(default: object) -> str:
    if default is None:
        return "none"
    if default == ZOO:
        return "`models/zoo`"
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, int):
        return str(default)
    return f"{default:g}" if isinstance(default, float) else f"`{default}`"


def tables() -> Iterator[tuple[str, str]]:
    """The tables of operations.md that are made here, by the name in their markers."""
    yield "server settings", settings_table(of_engine=False)
    yield "engine settings", settings_table(of_engine=True)


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
