"""How figures look: one panel each, legible on a telephone, with axes that say where one is."""

import base64
import io
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, ScalarFormatter
from numpy.typing import NDArray

WIDTH_IN, HEIGHT_IN = 5.0, 3.0
FONT_PT = 13.0
"""A figure of that width on a page of 350 pixels, as a telephone has, has letters of 10 px."""
PIXELS_PER_IN = 62
"""A figure is shown no smaller than this: one that is wider than the page can be moved."""
MOST_SVG_BYTES = 250_000
"""A drawing that takes more than this is embedded as pixels."""
DPI = 150
MOST_LETTERS = 42
"""As many fit under an axis."""
_LEAST_SPAN = 1.01
ROUND = [1, 2, 2.5, 5, 10]
"""Ticks stand so far apart, times a power of ten."""
FEWEST_TICKS, MOST_TICKS = 3, 7

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A figure and what is said above it."""

    figure: Figure
    caption: str


@contextmanager
def figure_style() -> Iterator[None]:
    """The look of figures that are made within."""
    with mpl.rc_context(
        {
            "axes.formatter.useoffset": False,
            "axes.grid": True,
            "axes.labelsize": "medium",
            "axes.spines.right": False,
            "axes.spines.top": False,
            "figure.facecolor": "white",
            "font.size": FONT_PT,
            "grid.alpha": 0.3,
            "grid.linewidth": 0.6,
            "legend.fontsize": "small",
            "legend.frameon": False,
            "lines.linewidth": 1.4,
            "xtick.labelsize": "small",
            "ytick.labelsize": "small",
        }
    ):
        yield


def panel(
    x: str, y: str, *, width_in: float = WIDTH_IN, height_in: float = HEIGHT_IN
) -> tuple[Figure, Axes]:
    """A figure of one panel, with the names of its axes."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def legend_above(axes: Axes, *, columns: int = 3) -> None:
    """Name the lines above the panel, where they cover nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = min(columns, len(handles))
        axes.figure.legend(
            handles, labels, loc="outside upper left", ncols=columns, handlelength=1.4
        )


def count_axis(axis: Axis) -> None:
    """An axis of whole numbers."""
    axis.set_major_locator(MaxNLocator(5, integer=True, steps=ROUND, min_n_ticks=1))
    axis.set_major_formatter("{x:,.0f}")


def number_axis(axis: Axis) -> None:
    """An axis of numbers, each written out."""
    axis.set_major_locator(MaxNLocator(5, steps=ROUND))
    axis.set_major_formatter(_Plain())


def share_axis(axis: Axis) -> None:
    """An axis of shares, from 0 to 1."""
    axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")


def log_axis(axes: Axes) -> None:
    """A logarithmic vertical axis with two labelled ticks at least; call it when all is drawn."""
    if not np.isfinite(axes.dataLim.minposy):
        return  # nothing above 0 is drawn
    axes.set_yscale("log", nonpositive="mask")
    low, high = axes.dataLim.minposy, axes.dataLim.y1
    if high < _LEAST_SPAN * low:  # as good as level: its ticks would have the same label
        axes.set_ylim(low / _LEAST_SPAN**5, high * _LEAST_SPAN**5)
    axes.yaxis.set_major_locator(_LogTicks())
    axes.yaxis.set_major_formatter("{x:.4g}")
    axes.yaxis.set_minor_locator(NullLocator())


def time_axis(
    axes: Axes, places: Sequence[float] | NDArray[np.int64], labels: Sequence[str]
) -> None:
    """Write a few of the rows' times under a horizontal axis; ``places`` are theirs on it.

    A time of the day stands below its date. The first and the last one are always there.
    """
    names = [label.replace(" ", "\n", 1) if "-" in label else label for label in labels]
    if not names:
        return
    longest = max(len(line) for name in (names[0], names[-1]) for line in name.split("\n"))
    count = max(2, min(4, MOST_LETTERS // (longest + 3), len(names)))
    chosen = np.unique(np.linspace(0, len(names) - 1, count).round().astype(int))
    axes.set_xticks([places[at] for at in chosen], [names[at] for at in chosen])
    ticks = axes.get_xticklabels()
    ticks[0].set_horizontalalignment("left")
    ticks[-1].set_horizontalalignment("right")


def wrapped(name: str, *, most: int = 24) -> str:
    """A name that may be long, in lines."""
    return "\n".join(textwrap.wrap(name, most, max_lines=2, placeholder=" …")) or name


def data_uri(figure: Figure) -> str:
    """A figure as the source of an image: drawn with lines where that is small, else pixels."""
    for label in figure.findobj(Text):
        # Names that come from data may hold a dollar sign or two: they are not formulas.
        if "$" in label.get_text() and "\\mathdefault" not in label.get_text():
            label.set_parse_math(False)
    # Text stays text: small, sharp, and in any script that the reader's own fonts have.
    writing = mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cellar"})
    with warnings.catch_warnings(), writing:
        # The reader's browser has more fonts than the drawing machine.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        kind = "svg+xml"
        if buffer.tell() > MOST_SVG_BYTES:
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=DPI)
            kind = "png"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


class _Plain(ScalarFormatter):
    """Numbers written out, with as many digits as tell the ticks apart."""

    def __init__(self) -> None:
        super().__init__(useOffset=False)
        self.set_scientific(False)

    def __call__(self, x: float, pos: int | None = None) -> str:
        """The label of a tick."""
        if abs(x) >= 1e6:
            return f"{x:g}"
        return str(super().__call__(x, pos))


class _LogTicks(LogLocator):
    """Ticks at powers of ten, or at 1, 2, 5, or at round numbers: whatever gives enough."""

    def __init__(self) -> None:
        super().__init__(subs=(1.0,))

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        """Places of ticks between two numbers above 0."""
        low, high = min(vmin, vmax), max(vmin, vmax)
        for subs in ((1.0,), (1.0, 2.0, 5.0)):
            ticks = np.asarray(LogLocator(subs=subs, numticks=30).tick_values(low, high))
            inside = ticks[(ticks >= low) & (ticks <= high)]
            if FEWEST_TICKS <= len(inside) <= MOST_TICKS:
                return [float(tick) for tick in inside]
        if high > 1000 * low:
            return [float(tick) for tick in inside[:: -(-len(inside) // MOST_TICKS)]]
        ticks = np.asarray(MaxNLocator(4, steps=ROUND, min_n_ticks=2).tick_values(low, high))
        return [float(tick) for tick in ticks if low <= tick <= high]
