"""The parts of a run's report, as tasks give them; `training.reports.run` lays them out."""

from dataclasses import dataclass

from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One part of the page: a title, a sentence or two, and a figure or ready-made HTML."""

    title: str
    text: str = ""
    figure: Figure | None = None
    html: str = ""
    """Trusted markup: whoever makes it escapes what came from data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something a reader did to the data, or found odd in it."""

    what: str
    rows: int
    detail: str
