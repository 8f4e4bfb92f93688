"""The parts of a run's report, as tasks give them; `training.run.report` lays them out."""

from collections.abc import Sequence
from dataclasses import dataclass

from training.reports.plots import Picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table as text, ready to be laid out."""

    title: str = ""
    headers: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...]
    is_number: tuple[bool, ...]
    """Per column: aligned to the right."""
    bold: frozenset[int] = frozenset()
    """Rows that stand out."""
    explained: bool = False
    """Whether the first column has words of ours, to be looked up in the glossary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One part of the page: a title, a sentence or two, and figures, a table or ready-made HTML."""

    title: str
    text: str = ""
    pictures: tuple[Picture, ...] = ()
    table: Grid | None = None
    html: str = ""
    """Trusted markup: whoever makes it escapes what came from data."""


def grid(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = ()
) -> Grid:
    """A table of text; ``numbers`` are the columns aligned to the right."""
    return Grid(
        headers=tuple(headers),
        rows=tuple(tuple(row) for row in rows),
        is_number=tuple(place in numbers for place in range(len(headers))),
    )
