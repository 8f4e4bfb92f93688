"""Pages for people: one HTML file each, with everything in it and nothing asked of a network."""

import base64
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from matplotlib.text import Text as Label
from rich.table import Table
from rich.text import Text

from training.reports.sections import Section

MOST_SVG_BYTES = 250_000
"""A drawing that takes more than this is embedded as pixels."""
DPI = 150
FULL_IN = 9.0
"""Inches of a figure as wide as the page."""

_pages = Environment(
    loader=PackageLoader("training.reports", "pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A section with its figure drawn."""

    title: str
    text: str
    image: str
    width_percent: float
    """How wide the image is, of the page."""
    html: str


@contextmanager
def figure_style() -> Iterator[None]:
    """The look of figures that are made within."""
    with mpl.rc_context(
        {
            "axes.grid": True,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "figure.facecolor": "white",
            "font.size": 9.0,
            "grid.alpha": 0.3,
            "grid.linewidth": 0.6,
            "legend.frameon": False,
        }
    ):
        yield


def render(template: str, **content: object) -> str:
    """Fill a template of `training/reports/pages`; what is not marked as safe there is escaped."""
    return _pages.get_template(template).render(**content)


def part_of(section: Section) -> Part:
    """A section as the templates take it."""
    figure = section.figure
    return Part(
        title=section.title,
        text=section.text,
        image="" if figure is None else data_uri(figure),
        width_percent=0.0 if figure is None else min(100.0, 100 * figure.get_figwidth() / FULL_IN),
        html=section.html,
    )


def grid_of(table: Table) -> Grid:
    """A terminal's table as text."""
    columns = [[_plain(cell) for cell in column.cells] for column in table.columns]
    bold = (n for n, row in enumerate(table.rows) if "bold" in str(row.style or ""))
    return Grid(
        title=_plain(table.title),
        headers=tuple(_plain(column.header) for column in table.columns)
        if table.show_header
        else (),
        rows=tuple(zip(*columns, strict=True)),
        is_number=tuple(column.justify == "right" for column in table.columns),
        bold=frozenset(bold),
    )


def grid(headers: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int]) -> Grid:
    """A table of text; ``numbers`` are the columns aligned to the right."""
    return Grid(
        headers=tuple(headers),
        rows=tuple(tuple(row) for row in rows),
        is_number=tuple(place in numbers for place in range(len(headers))),
    )


def pairs_of(settings: Mapping[str, object]) -> list[tuple[str, str]]:
    """Settings as names and values for people."""
    return [
        (name.removesuffix("_s").replace("_", " "), _setting(value))
        for name, value in settings.items()
        if value not in (None, [], ())
    ]


def caption_of(table: Table) -> str:
    """What stands under a terminal's table: the verdict."""
    return _plain(table.caption)


def data_uri(figure: Figure) -> str:
    """A figure as the source of an image: drawn with lines where that is small, else pixels."""
    for label in figure.findobj(Label):
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


def _plain(cell: object) -> str:
    if isinstance(cell, Text):
        return cell.plain
    return "" if cell is None else Text.from_markup(str(cell)).plain


def _setting(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_setting, value))
    return str(value)
