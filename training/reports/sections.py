"""The parts of a run's report, as tasks give them; `training.run.report` lays them out."""

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
